"""Everything that a report says, from committed scores and the events of a run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.benchmark.published import AVERAGE, Erratum, PublishedScore
from orchestrator.benchmark.tables import compared_groups
from orchestrator.report import figures
from orchestrator.report.answers import Answer, answer, answer_for_submissions
from orchestrator.report.looks.decisions import decided_by
from orchestrator.report.notes import errata_notes, run_notes
from orchestrator.report.overview import OverviewRow, overview
from orchestrator.report.page import BesidePublished, Failure, Figure, Origin, Page
from orchestrator.report.parts import gaps_of, parts_of
from orchestrator.report.ranks import ranked_by_structure
from orchestrator.report.reported import Reported
from orchestrator.report.study_tables.table_rows import published_of_fold
from orchestrator.report.texts.methods import methods, notes_of_folds
from orchestrator.results.store import from_table
from orchestrator.statistics.ranking import MOST_TESTED
from orchestrator.storage.json_values import JsonMapping
from orchestrator.usage import stage_spans, usage_of
from orchestrator.workflow.keys import StageKey, StageKind

if TYPE_CHECKING:
    import pandas as pd

_SCORES = ("scores.csv", "every score: one line a structure of a case, columns as in data_dictionary.md")
FILES = (
    ("scores.parquet", "the same"),
    ("data_dictionary.md", "what each column is"),
    ("summary.json", "the tables of this page as numbers"),
    ("methods.md", "the paragraph on methods, and definitions"),
    ("references.bib", "what to cite, BibTeX"),
    ("report.md", "this page without its figures"),
    ("tables.tex", "the tables of this page for LaTeX, with booktabs"),
)
"""Beside the page and its scores."""
RANK_FILES = (
    ("leaderboard.csv", "places over all metrics, one line a group of trainings or submission"),
    ("ranks.csv", "ranks in each structure and metric, by three rules"),
)
"""Where there are several to rank."""


def make_page(
    reported: Reported,
    rows: "pd.DataFrame",
    *,
    location: str,
    failures: Mapping[str, str],
    events: Sequence[JsonMapping],
    submitted: "pd.DataFrame | None" = None,
) -> Page:
    """Return everything that a report says, from the rows of `scores_frame`; without pictures of cases.

    `submitted` are the rows of submissions, of `submitted_frame`.
    """
    import pandas as pd

    study, trainings, layout = reported.study, reported.trainings, reported.layout
    methods_submitted = [] if submitted is None else list(dict.fromkeys(submitted["group"]))
    everything = rows if submitted is None else pd.concat([rows, submitted], ignore_index=True)
    found = overview(everything, further=layout.metrics)
    published = [(row, _published(reported, row)) for row in found]
    origins = _origins(rows)
    rankings = ranked_by_structure(everything, set_titles=layout.set_titles)
    of_folds = notes_of_folds(trainings, scored={one.training_id for one in origins})
    usage = usage_of(events)
    answers = _answers(reported, rows, everything=everything, submitted=methods_submitted)
    done = len(origins)
    return Page(
        title=study.title,
        state=_state(done, reported, num_failures=len(failures)) + _without_scores(rows),
        notes=(*_notes_of_submissions(methods_submitted), *_notes_of_run(reported), *of_folds),
        location=location,
        set_titles=layout.set_titles,
        answers=answers,
        rows=found,
        further=layout.metrics,
        published=_beside_published(published),
        errata=_errata(published, errata=layout.published.errata),
        figures=(*figures_of_scores(everything, set_titles=layout.set_titles), *_learning_curves(events)),
        timeline=_timeline(events),
        usage=usage,
        cost=reported.cost,
        failures=tuple(Failure(name=name, text=text) for name, text in failures.items()),
        methods=methods(rows, reported=reported, answers=answers, usage=usage),
        origins=origins,
        files=(_SCORES, *FILES, *(RANK_FILES if rankings else ())),
        rankings=rankings,
        parts=parts_of(rows, layout=layout, leaks=reported.leaks),
        gaps=gaps_of(rows, layout=layout, trainings=trainings),
        decisions=reported.decisions,
    )


def _errata(
    published: Sequence[tuple[OverviewRow, PublishedScore | None]], *, errata: Sequence[Erratum]
) -> tuple[str, ...]:
    groups = {row.group for row, _ in published}
    return tuple(errata_notes((score for _, score in published), groups=groups, errata=errata))


def _answers(
    reported: Reported, rows: "pd.DataFrame", *, everything: "pd.DataFrame", submitted: Sequence[str]
) -> tuple[Answer, ...]:
    trainings = reported.trainings
    found = [
        decided_by(reported.decisions, answer(spec, rows, trainings=trainings))
        for spec in reported.layout.comparisons
        # A question about trainings that this run does not have is none; one without scores of both is not answered.
        if compared_groups(spec, trainings)
    ]
    groups = list(dict.fromkeys(rows["group"]))
    if submitted:
        found.append(answer_for_submissions(submitted[:MOST_TESTED], everything, groups=groups))
    return tuple(replace(one, set_titles=reported.layout.set_titles) for one in found)


def _notes_of_run(reported: Reported) -> Sequence[str]:
    rows = from_table(reported.of_trainings)
    return (*run_notes(reported, rows), *reported.layout.notes_on(row.score.structure for row in rows))


def _notes_of_submissions(methods: Sequence[str]) -> tuple[str, ...]:
    if not methods:
        return ()
    return (
        f"Submitted and not trained here: {', '.join(methods)}. Their label maps are scored as they are; whether "
        "cases that they are tested on were among what they were trained on is not known.",
    )


def _state(done: int, reported: Reported, *, num_failures: int) -> str:
    asked_for, left_out = len(reported.trainings), reported.left_out
    if left_out and done >= asked_for - len(left_out):
        return (
            f"Whole: {done} of {asked_for} trainings have scores, and {len(left_out)} were left out, since no answer "
            "needed them any more."
        )
    if done == asked_for:
        return f"Whole: all {done} trainings have scores." if done != 1 else "Whole: the one training has scores."
    failed = f"; {num_failures} stages failed" if num_failures else ""
    needless = f"; {len(left_out)} are not needed any more" if left_out else ""
    return f"Not whole: {done} of {asked_for} trainings have scores{failed}{needless}. What is shown is of these."


def _without_scores(rows: "pd.DataFrame") -> str:
    """Return how many trainings have been scored and have a score of no case; nothing for none."""
    num = int(rows["dsc"].isna().groupby(rows["training_id"]).all().sum()) if len(rows) else 0
    return f" {num} of them have a number for no case: each is without a prediction, or empty in both." if num else ""


def _beside_published(
    found: Sequence[tuple[OverviewRow, PublishedScore | None]],
) -> tuple[BesidePublished, ...]:
    return tuple(
        BesidePublished(
            group=row.group,
            evaluation_set=row.evaluation_set,
            structure=row.structure,
            metric=metric,
            ours=getattr(row, metric),
            mean=getattr(score, f"{metric}_mean"),
            std=getattr(score, f"{metric}_std"),
            erratum=getattr(score, f"{metric}_erratum"),
        )
        for row, score in found
        if score is not None
        for metric in ("dsc", "nsd")
    )


def _published(reported: Reported, row: OverviewRow) -> PublishedScore | None:
    """Return the published value of the only fold that a row is of, or the average."""
    own = [training for training in reported.trainings if training.id in row.trainings]
    known, where = reported.layout.published, {"evaluation_set": row.evaluation_set, "structure": row.structure}
    if len(own) == 1:
        return published_of_fold(known, own[0], **where)
    return known.find(group=row.group, fold=AVERAGE, **where)


def _origins(rows: "pd.DataFrame") -> tuple[Origin, ...]:
    return tuple(
        Origin(
            training_id=row["training_id"],
            preset=row["preset"],
            seed=row["seed"],
            hours=row["train_elapsed_s"] / 3600,
            versions=", ".join(f"{name} {version}" for name, version in json.loads(row["versions"]).items()),
            digests=(row["data_sha256"], row["split_sha256"], row["plan_sha256"], row["checkpoint_sha256"]),
        )
        for row in rows.drop_duplicates("training_id").to_dict("records")
    )


def figures_of_scores(
    rows: "pd.DataFrame", *, set_titles: Mapping[str, str], each: str = "each case of all folds that have scores"
) -> list[Figure]:
    """Return the figures of `scores_frame`; `each` says what a point is."""
    if rows["dsc"].notna().sum() == 0:
        return []
    shown = []
    for (evaluation_set, structure), part in rows.groupby(["evaluation_set", "structure"], sort=False):
        title = set_titles.get(evaluation_set, evaluation_set)
        caption = f"{structure}, evaluated on {title}: {each}, median and quartiles."
        shown.append(Figure(svg=figures.scores_by_group(part), caption=caption))
    shown.append(Figure(svg=figures.overlap_and_surface(rows), caption="NSD against DSC: each case and structure."))
    caption = "DSC against the volume of the structure in the reference: each case and structure."
    shown.append(Figure(svg=figures.score_by_size(rows), caption=caption))
    return shown


def _learning_curves(events: Sequence[JsonMapping]) -> list[Figure]:
    import pandas as pd

    epochs = [event for event in events if event["kind"] == "training_epoch"]
    if not epochs:
        return []
    frame = pd.DataFrame(epochs).drop_duplicates(["training", "epoch"], keep="last")
    caption = "Learning curves, one line a training. The Dice of patches is a monitor and no result."
    return [Figure(svg=figures.learning_curves(frame), caption=caption)]


def _timeline(events: Sequence[JsonMapping]) -> Figure | None:
    spans = training_spans(events)
    if not spans:
        return None
    hours = sum(end - start for _, start, end, _ in spans)
    caption = (
        f"When the trainings ran, pauses between calls included, one colour a machine: {hours:.2f} hours of training."
    )
    return Figure(svg=figures.timeline(spans), caption=caption)


def training_spans(events: Sequence[JsonMapping]) -> list[tuple[str, float, float, str]]:
    """Return id, start and end in hours since the run began, and machine of each attempt at a training.

    The machine is the one named last during the attempt; empty where none is.
    """
    told: dict[str, list[tuple[datetime, str]]] = {}
    for event in events:
        if event.get("host"):
            told.setdefault(str(event.get("training")), []).append((_time(event), str(event["host"])))
    began = min(map(_time, events), default=None)
    spans = []
    for span in stage_spans(events):
        key = StageKey.parse(span.stage)
        if key is None or key.kind is not StageKind.TRAIN or began is None:
            continue
        during = [one for one in told.get(key.training, ()) if span.start <= one[0] <= span.end]
        _, host = max(during, default=(None, ""))
        start, end = ((time - began).total_seconds() / 3600 for time in (span.start, span.end))
        spans.append((key.training, start, end, host))
    return spans


def _time(event: JsonMapping) -> datetime:
    return datetime.fromisoformat(str(event["time"]))
