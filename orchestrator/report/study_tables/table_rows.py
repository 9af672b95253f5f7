"""The rows of a table from committed scores, with the published value beside each of ours."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.benchmark.definition import FurtherMetric, Training
from orchestrator.benchmark.published import AVERAGE, PublishedScore, PublishedScores
from orchestrator.benchmark.tables import TableSpec
from orchestrator.report.overview import Quartiles, quartiles_of
from orchestrator.results.aggregate import Summary, by_case, mean_of, summarise
from orchestrator.results.records import ONE_EMPTY, ResultRow


@dataclass(frozen=True, kw_only=True, slots=True)
class RowOrigin:
    """What the scores of a row come from."""

    presets: tuple[str, ...]
    are_phantoms: bool
    """Whether any of them is of a phantom."""
    is_capped: bool
    """Whether a preset left out cases of the published split for any of them."""

    @staticmethod
    def of(rows: Sequence[ResultRow]) -> "RowOrigin | None":
        """Return where rows come from; None where there are none."""
        if not rows:
            return None
        found = [row.provenance for row in rows]
        return RowOrigin(
            presets=tuple(sorted({one.preset for one in found})),
            are_phantoms=any(one.phantoms for one in found),
            is_capped=any(one.is_capped for one in found),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One row: a structure of an evaluation set, in one fold or pooled over all, of each case the mean over seeds."""

    group: str
    evaluation_set: str
    structure: str
    fold: int | str
    """Number, with its seed where there are several; or `average`."""
    state: str
    """Empty for a whole row; otherwise what it lacks: `pending`, `failed`, `not needed`, cases or folds."""
    summary: Summary
    further: Mapping[str, Quartiles]
    """Of further metrics of the study, by column."""
    published: PublishedScore | None
    origin: RowOrigin | None
    """None where there are no scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilledTable:
    """A table with its rows."""

    spec: TableSpec
    rows: tuple[TableRow, ...]
    set_titles: Mapping[str, str]
    """Evaluation set to its title."""
    first_of: Mapping[str, Training]
    """Group to the first of its trainings."""
    notes: tuple[str, ...]
    """Sentences that must stand with the table."""
    metrics: tuple[FurtherMetric, ...] = ()
    """What stands beside DSC and NSD."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What the rows of the tables are filled from."""

    rows_of: Mapping[str, Sequence[ResultRow]]
    """Committed rows by training id; empty for a training that is not finished."""
    without: Mapping[str, str]
    """What became of trainings that have no rows and will get none: `failed` or `not needed`, by id."""
    published: PublishedScores
    metrics: tuple[FurtherMetric, ...] = ()
    """What stands beside DSC and NSD."""

    def state(self, training_id: str) -> str:
        """Return `done`, `failed`, `not needed` or `pending`."""
        return "done" if self.rows_of[training_id] else self.without.get(training_id, "pending")


def fill_table(spec: TableSpec, trainings: Sequence[Training], *, scores: Scores) -> tuple[TableRow, ...]:
    """Return the rows of a table: for each group, evaluation set and structure its folds, then the average."""
    members: dict[str, list[Training]] = {}
    for training in trainings:
        if spec.holds(training):
            members.setdefault(training.group, []).append(training)
    return tuple(
        row
        for folds in members.values()
        for evaluation in folds[0].evaluation_sets
        for structure in evaluation.structures
        for row in _block(folds, evaluation_set=evaluation.name, structure=structure, scores=scores)
    )


def headline_rows(rows: Sequence[TableRow]) -> tuple[TableRow, ...]:
    """Return the average rows, and the rows of single folds that have no average."""
    averaged = {(row.group, row.evaluation_set, row.structure) for row in rows if row.fold == AVERAGE}
    return tuple(
        row for row in rows if row.fold == AVERAGE or (row.group, row.evaluation_set, row.structure) not in averaged
    )


def _block(folds: Sequence[Training], *, evaluation_set: str, structure: str, scores: Scores) -> list[TableRow]:
    """Return one row a fold, and their average where there are several."""
    block: list[TableRow] = []
    pooled: list[ResultRow] = []
    num_absent = 0
    for training in folds:
        (evaluation,) = (found for found in training.evaluation_sets if found.name == evaluation_set)
        rows = [
            row
            for row in scores.rows_of[training.id]
            if (row.evaluation_set, row.score.structure) == (evaluation_set, structure)
        ]
        pooled += rows
        absent = {(case.dataset, case.name) for case in evaluation.cases} - {(row.dataset, row.case) for row in rows}
        state = scores.state(training.id)
        num_absent += len(absent) if state == "done" else 0
        block.append(
            TableRow(
                group=training.group,
                evaluation_set=evaluation_set,
                structure=structure,
                fold=training.fold if training.seed is None else f"{training.fold}, seed {training.seed}",
                state=_state(state, num_absent=len(absent), num_cases=len(evaluation.cases)),
                summary=summarise(rows),
                further=_further(rows, scores.metrics),
                published=published_of_fold(
                    scores.published, training, evaluation_set=evaluation_set, structure=structure
                ),
                origin=RowOrigin.of(rows),
            )
        )
    if len(folds) > 1:
        group, states = folds[0].group, [scores.state(training.id) for training in folds]
        block.append(
            TableRow(
                group=group,
                evaluation_set=evaluation_set,
                structure=structure,
                fold=AVERAGE,
                state=_average_state(folds[0], states, num_absent=num_absent),
                summary=summarise(pooled),
                further=_further(pooled, scores.metrics),
                published=scores.published.find(
                    group=group, fold=AVERAGE, evaluation_set=evaluation_set, structure=structure
                ),
                origin=RowOrigin.of(pooled),
            )
        )
    return block


def _further(rows: Sequence[ResultRow], metrics: Sequence[FurtherMetric]) -> dict[str, Quartiles]:
    cases = by_case(rows)
    one_empty = np.array([any(row.score.status in ONE_EMPTY for row in case) for case in cases], bool)
    found = {}
    for metric in metrics:
        values = ([row.further.get(metric.field, math.nan) for row in case] for case in cases)
        of_cases = [mean_of(case) for case in values]
        found[metric.field] = quartiles_of(np.array(of_cases, float), one_empty=one_empty)
    return found


def published_of_fold(
    published: PublishedScores, training: Training, *, evaluation_set: str, structure: str
) -> PublishedScore | None:
    """Return the published score of a fold; the only fold of a task is also its average."""
    folds = (training.fold, AVERAGE) if training.num_folds == 1 else (training.fold,)
    found = (
        published.find(group=training.group, fold=fold, evaluation_set=evaluation_set, structure=structure)
        for fold in folds
    )
    return next(filter(None, found), None)


def _state(state: str, *, num_absent: int, num_cases: int) -> str:
    if state != "done":
        return state
    return f"{num_absent} of {num_cases} cases have no row" if num_absent else ""


def _average_state(first: Training, states: Sequence[str], *, num_absent: int) -> str:
    """Return how many folds an average pools if they are not all, what became of the others, and what they lack."""
    number, what = first.num_in_group, "folds" if first.seed is None else "trainings"
    counts = Counter(states)
    lacks = [f"{num_absent} cases have no row"] if num_absent else []
    if counts["done"] == number:
        return ", ".join(lacks)
    others = [f"{counts[state]} {state}" for state in ("pending", "failed", "not needed") if counts[state]]
    if number > len(states):
        others.append(f"{number - len(states)} not in this run")
    return f"{counts['done']} of {number} {what}: {', '.join([*others, *lacks])}"
