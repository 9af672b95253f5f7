"""What must be said beside the scores of a run."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from orchestrator.benchmark.definition import FurtherMetric
from orchestrator.benchmark.leaks import leak_lines
from orchestrator.benchmark.published import Erratum, PublishedScore
from orchestrator.configuration import listing
from orchestrator.report.reported import Reported
from orchestrator.report.study_tables.table_rows import TableRow
from orchestrator.results.aggregate import missing_predictions
from orchestrator.results.records import ResultRow, ScoreStatus

_PAPER_PRESET = "paper"
_NUM_WARNINGS = 10
"""Most warnings about data that stand with a table."""


def run_notes(reported: Reported, rows: Sequence[ResultRow]) -> tuple[str, ...]:
    """Return what every table of a run must say about its scores, the gravest first; `rows` are its scores."""
    notes, trainings, warnings = [], reported.trainings, reported.warnings
    has_published = reported.layout.has_published
    not_comparable = " They are not comparable with the published values." if has_published else ""
    presets = sorted({row.provenance.preset for row in rows})
    if any(row.provenance.phantoms for row in rows):
        notes.append(
            f"Computed on generated phantoms with preset {', '.join(presets)}: the scores show that the pipeline "
            f"works and say nothing about patients.{not_comparable}"
        )
    elif set(presets) - {_PAPER_PRESET}:
        notes.append(
            f"Trained with preset {', '.join(presets)}, not with nnU-Net's own schedule (preset {_PAPER_PRESET})."
            f"{not_comparable}"
        )
    if any(training.is_capped for training in trainings) or any(row.provenance.is_capped for row in rows):
        notes.append("Capped: the preset uses a part of the cases of each split.")
    missing = missing_predictions(rows)
    if missing:
        notes.append(
            f"Missing or unusable predictions: {len(missing)}. Their scores are left out of the means and counted "
            "beside them; the results store says why."
        )
    notes += [f"Hardly right, and taken as it is: {warning}" for warning in warnings[:_NUM_WARNINGS]]
    if len(warnings) > _NUM_WARNINGS:
        notes.append(
            f"{len(warnings) - _NUM_WARNINGS} further warnings about label maps are in the records of their cases."
        )
    chosen = sorted(
        {training.chosen_by.upper() for training in trainings if training.chosen_by and not training.members}
    )
    notes += [
        f"The weights of each training are those of the epoch with the best {metric} of its validation cases, among "
        "those that were looked at: its own scores of these cases are too good."
        for metric in chosen
    ]
    models = {training.model.name: training.model.note for training in trainings if training.model.note}
    notes += [f"{name}: {note}" for name, note in models.items()]
    return (*notes, *_notes_of_metrics(rows, reported.layout.metrics), *leak_lines(reported.leaks))


def _notes_of_metrics(rows: Sequence[ResultRow], metrics: Sequence[FurtherMetric]) -> Iterator[str]:
    """Yield which trainings have no number of a further metric, though they have scores."""
    scored = [row for row in rows if row.score.status == ScoreStatus.SCORED]
    everything = dict.fromkeys(row.training_id for row in scored)
    for metric in metrics:
        known = {row.training_id for row in scored if not math.isnan(row.further.get(metric.field, math.nan))}
        if without := [one for one in everything if one not in known]:
            yield (
                f"Without {metric.title}: {listing(without)}. They were scored before the study asked for it, or none "
                "of their cases has one."
            )


def errata_notes(
    scores: Iterable[PublishedScore | None], *, groups: Collection[str], errata: Sequence[Erratum]
) -> Iterator[str]:
    """Return a line for each erratum of published scores or groups that are shown, with the mark of what it touches."""
    touched = {id_ for score in scores if score is not None for id_ in (score.dsc_erratum, score.nsd_erratum)}
    for erratum in errata:
        if erratum.id in touched:
            yield f"† {erratum.text}"
        elif set(groups).intersection(erratum.groups):
            yield erratum.text


def errata_of_rows(rows: Sequence[TableRow], *, errata: Sequence[Erratum]) -> Iterator[str]:
    """Return the lines of `errata_notes` for the rows of a table."""
    return errata_notes((row.published for row in rows), groups={row.group for row in rows}, errata=errata)
