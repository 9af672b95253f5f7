"""Everything that a report says, from committed scores and the events of a run."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.benchmark.published import AVERAGE, PublishedScore
from orchestrator.benchmark.tables import TableLayout
from orchestrator.report import figures
from orchestrator.report.answers import answer, answer_for_submission
from orchestrator.report.looks.decisions import decided_by
from orchestrator.report.notes import errata_notes, run_notes
from orchestrator.report.overview import OverviewRow, overview
from orchestrator.report.page import BesidePublished, Failure, Figure, Origin, Page
from orchestrator.report.parts import gaps_of, parts_of
from orchestrator.report.ranks import ranked_by_structure
from orchestrator.report.reported import Reported
from orchestrator.results.store import from_table
from orchestrator.statistics.ranking import MOST_TESTED
from orchestrator.storage.json_values import JsonMapping
from orchestrator.usage import usage_of
from orchestrator.workflow.keys import StageKey, StageKind

if TYPE_CHECKING:
    import pandas as pd

FILES = (
    ("scores.csv", "every score: one line a structure of a case, columns as in data_dictionary.md"),
    ("scores.parquet", "the same"),
    ("data_dictionary.md", "what each column is"),
    ("summary.json", "the tables of this page as numbers"),
    ("methods.md", "the paragraph on methods"),
    ("references.bib", "what to cite, BibTeX"),
    ("report.md", "this page without its figures"),
    ("tables.tex", "the tables of this page for LaTeX, with booktabs"),
)
"""Beside the page."""
RANK_FILES = (
    ("leaderboard.csv", "places over all metrics, one line a group of trainings or submission"),
    ("ranks.csv", "ranks in each structure and metric, by three rules"),
)
"""Where there are several to rank."""
_OF_ALL = (
    "differences were tested with Wilcoxon's signed rank test over patients and corrected by Holm's method within each "
    "question."
)
_OF_LOOKS = (
    "differences were tested with a group sequential signed rank test over patients, looked at as folds ended, with "
    "limits from random signs of patients, errors spent evenly over the trainings and divided by Holm's method over "
    "all tests; trainings that no open test needed were not carried out."
)


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
    found = overview(everything)
    answers = [decided_by(reported.decisions, answer(spec, rows, trainings=trainings)) for spec in layout.comparisons]
    groups = list(dict.fromkeys(rows["group"]))
    answers += [answer_for_submission(method, everything, groups=groups) for method in methods_submitted[:MOST_TESTED]]
    published = _beside_published(found, layout=layout)
    origins = _origins(rows)
    rankings = ranked_by_structure(everything, set_titles=layout.set_titles)
    done = len(origins)
    return Page(
        title=study.title,
        state=_state(done, reported, num_failures=len(failures)),
        notes=(*_notes_of_submissions(methods_submitted), *_notes_of_run(reported)),
        location=location,
        set_titles=layout.set_titles,
        # A question about trainings that this run does not have is none.
        answers=tuple(one for one in answers if one.differences),
        rows=found,
        published=published,
        errata=_errata(found, layout=layout),
        figures=(*figures_of_scores(everything, set_titles=layout.set_titles), *_learning_curves(events)),
        timeline=_timeline(events),
        usage=usage_of(events),
        cost=reported.cost,
        failures=tuple(Failure(name=name, text=text) for name, text in failures.items()),
        methods=methods(rows, reported=reported),
        origins=origins,
        files=(*FILES, *(RANK_FILES if rankings else ())),
        rankings=rankings,
        parts=parts_of(rows, layout=layout, leaks=reported.leaks),
        gaps=gaps_of(rows, layout=layout, trainings=trainings),
        decisions=reported.decisions,
    )


def _errata(found: Sequence[OverviewRow], *, layout: TableLayout) -> tuple[str, ...]:
    values = (_published(layout, row) for row in found)
    return tuple(errata_notes(values, groups={row.group for row in found}, errata=layout.published.errata))


def _notes_of_run(reported: Reported) -> Sequence[str]:
    return run_notes(
        from_table(reported.of_trainings),
        trainings=reported.trainings,
        leaks=reported.leaks,
        warnings=reported.warnings,
        has_published=reported.layout.has_published,
    )


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


def methods(rows: "pd.DataFrame", *, reported: Reported) -> str:
    """Return the paragraph on methods, ready to be pasted."""
    if rows.empty:
        return "No training has scores yet."
    ensembles = {training.id for training in reported.trainings if training.members}
    everything = rows.drop_duplicates("training_id")
    is_ensemble = everything["training_id"].isin(ensembles)
    # What an ensemble says of its origin is what its members say.
    each = everything[~is_ensemble] if not is_ensemble.all() else everything
    num_ensembles = int(is_ensemble.sum())
    averaged = f" {num_ensembles} ensembles average the probabilities of such models." if num_ensembles else ""
    versions: dict[str, set[str]] = {}
    for text in each["versions"]:
        for name, version in json.loads(text).items():
            versions.setdefault(name, set()).add(version)
    devices = versions.pop("device", {"unknown devices"})
    software = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in versions.items())
    tolerances = rows.groupby("structure", sort=False)["tolerance_mm"].first()
    phantoms = " The data are generated phantoms." if bool(each["phantoms"].any()) else ""
    return (
        f"{len(each)} models of the study “{reported.study.title}” were trained with nnU-Net ({software}) on "
        f"{' and '.join(sorted(devices))}, preset "
        f"{', '.join(sorted(set(each['preset'])))}, seed {', '.join(map(str, sorted(set(each['seed']))))}, in "
        f"{each['train_elapsed_s'].sum() / 3600:.2f} hours of training in all; final checkpoints were evaluated."
        f"{averaged}{phantoms} Dice similarity coefficient (DSC), normalised surface Dice (NSD) at "
        f"{', '.join(f'{mm:g} mm ({name})' for name, mm in tolerances.items())}, 95 % Hausdorff distance (HD95) and "
        "average symmetric surface distance (ASSD) were calculated for each case and structure. Means have 95 % "
        f"intervals by the studentised bootstrap over patients; {_OF_LOOKS if reported.decisions else _OF_ALL}"
    )


def _beside_published(found: Sequence[OverviewRow], *, layout: TableLayout) -> tuple[BesidePublished, ...]:
    known = [(row, _published(layout, row)) for row in found]
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
        for row, score in known
        if score is not None
        for metric in ("dsc", "nsd")
    )


def _published(layout: TableLayout, row: OverviewRow) -> PublishedScore | None:
    """Return the published average of a row, or the value of its only fold."""
    found = (
        layout.published.find(group=row.group, fold=fold, evaluation_set=row.evaluation_set, structure=row.structure)
        for fold in (AVERAGE, *((0,) if len(row.trainings) == 1 else ()))
    )
    return next(filter(None, found), None)


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


def figures_of_scores(rows: "pd.DataFrame", *, set_titles: Mapping[str, str]) -> list[Figure]:
    """Return the figures of `scores_frame`."""
    if rows["dsc"].notna().sum() == 0:
        return []
    shown = []
    for (evaluation_set, structure), part in rows.groupby(["evaluation_set", "structure"], sort=False):
        title = set_titles.get(evaluation_set, evaluation_set)
        caption = f"{structure}, evaluated on {title}: each case of all folds, median and quartiles."
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
    caption = f"When the trainings ran, one colour a machine: {hours:.2f} hours in all."
    return Figure(svg=figures.timeline(spans), caption=caption)


def training_spans(events: Sequence[JsonMapping]) -> list[tuple[str, float, float, str]]:
    """Return id, start and end in hours since the run began, and machine of each attempt at a training that ended."""
    hosts = {event["training"]: str(event.get("host", "")) for event in events if event["kind"] == "training_epoch"}
    began: datetime | None = None
    open_since: dict[StageKey, float] = {}
    spans = []
    for event in sorted(events, key=lambda one: str(one["time"])):
        now = datetime.fromisoformat(str(event["time"]))
        began = began or now
        hours = (now - began).total_seconds() / 3600
        key = StageKey.parse(str(event["stage"])) if event.get("stage_kind") == StageKind.TRAIN else None
        if key is None:
            continue
        if event["kind"] == "stage_started":
            open_since[key] = hours
        elif event["kind"] in {"stage_finished", "stage_failed"} and key in open_since:
            spans.append((key.training, open_since.pop(key), hours, hosts.get(key.training, "")))
    return spans
