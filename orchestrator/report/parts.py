"""Scores of parts of the cases, and differences between evaluation sets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.leaks import PatientLeak
from orchestrator.benchmark.tables import TableLayout
from orchestrator.report.answers import METRICS
from orchestrator.report.overview import OverviewRow, overview
from orchestrator.statistics.intervals import MeanWithInterval, cut_difference, difference_of_means

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True)
class PartOfCases:
    """Scores of some of the cases."""

    name: str
    """Which cases."""
    row: OverviewRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Scores of parts of the cases under one heading."""

    title: str
    parts: tuple[PartOfCases, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """A difference between two evaluation sets of one group of trainings, in one structure and metric."""

    group: str
    structure: str
    metric: str
    baseline_mean: float
    against_mean: float
    num_baseline: int
    """Patients."""
    num_against: int
    """Patients."""
    difference: MeanWithInterval


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaps:
    """The differences between two evaluation sets."""

    title: str
    baseline: str
    """Evaluation set."""
    against: str
    """Evaluation set."""
    gaps: tuple[Gap, ...]


def parts_of(rows: "pd.DataFrame", *, layout: TableLayout, leaks: Sequence[PatientLeak]) -> tuple[Parts, ...]:
    """Return the scores without patients on both sides of a split, and those of the kinds of cases of a study.

    `rows` are those of `scores_frame`.
    """
    ids = rows["dataset"].str.cat(rows["case"], sep="/")
    found = [Parts(title="With and without patients on both sides of a split", parts=tuple(_leak_free(rows, leaks)))]
    for groups in layout.case_groups:
        kinds = {
            kind: ids.map(lambda name, patterns=patterns: any(fnmatchcase(name, pattern) for pattern in patterns))
            for kind, patterns in groups.cases.items()
        }
        parts = tuple(
            PartOfCases(name=kind, row=row)
            for kind, is_of_kind in kinds.items()
            if len(rows)
            for row in overview(rows[is_of_kind])
        )
        found.append(Parts(title=groups.title, parts=tuple(sorted(parts, key=lambda one: _place(rows, one)))))
    return tuple(one for one in found if one.parts)


def _place(rows: "pd.DataFrame", part: PartOfCases) -> tuple[int, str, str]:
    first = rows.loc[rows["group"] == part.row.group, "order"].iloc[0]
    return int(first), part.row.evaluation_set, part.row.structure


def _leak_free(rows: "pd.DataFrame", leaks: Sequence[PatientLeak]) -> Iterator[PartOfCases]:
    """Yield the scores of groups that a leak touches, of all cases and without those of its patients."""
    leaking = rows["training_id"].map(lambda _: False).astype(bool)
    for leak in leaks:
        is_case = (rows["dataset"] == leak.test_case.dataset) & (rows["case"] == leak.test_case.name)
        leaking |= is_case & rows["training_id"].isin(leak.training_ids)
    touched = rows.loc[leaking, ["group", "evaluation_set"]].drop_duplicates()
    of_touched = rows.merge(touched, on=["group", "evaluation_set"])
    if of_touched.empty:
        return
    without = {(row.group, row.evaluation_set, row.structure): row for row in overview(rows[~leaking])}
    for row in overview(of_touched):
        yield PartOfCases(name="all", row=row)
        other = without.get((row.group, row.evaluation_set, row.structure))
        if other is not None:
            yield PartOfCases(name="without them", row=other)


def gaps_of(rows: "pd.DataFrame", *, layout: TableLayout, trainings: Sequence[Training]) -> tuple[Gaps, ...]:
    """Return the differences between evaluation sets that a study asks for."""
    found = []
    # Each selection copies all columns that there are.
    rows = rows[["group", "evaluation_set", "structure", "patient", *METRICS]]
    for spec in layout.gaps:
        groups = dict.fromkeys(
            one.group for one in trainings if all(one.facets.get(name) == value for name, value in spec.facets.items())
        )
        gaps = [
            gap
            for group in groups
            for gap in _gaps(rows[rows["group"] == group], baseline=spec.baseline, against=spec.against, group=group)
        ]
        found.append(Gaps(title=spec.title, baseline=spec.baseline, against=spec.against, gaps=tuple(gaps)))
    return tuple(one for one in found if one.gaps)


def _gaps(rows: "pd.DataFrame", *, baseline: str, against: str, group: str) -> Iterator[Gap]:
    for structure in dict.fromkeys(rows["structure"]):
        own = rows[rows["structure"] == structure]
        for metric in METRICS:
            there = own[own[metric].notna()]
            sides = [there[there["evaluation_set"] == name] for name in (baseline, against)]
            if any(side.empty for side in sides):
                continue
            first, second = ((side[metric].tolist(), side["patient"].tolist()) for side in sides)
            yield Gap(
                group=group,
                structure=structure,
                metric=metric,
                baseline_mean=float(sides[0][metric].mean()),
                against_mean=float(sides[1][metric].mean()),
                num_baseline=sides[0]["patient"].nunique(),
                num_against=sides[1]["patient"].nunique(),
                difference=cut_difference(difference_of_means(first, second)),
            )
