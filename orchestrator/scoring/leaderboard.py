"""Methods ranked: for each structure and metric by three rules, and over all of these."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from kernels import FIELDS, LARGER_IS_BETTER
from orchestrator.results.records import ScoreStatus
from orchestrator.statistics.intervals import FEWEST_CLUSTERS
from orchestrator.statistics.ranking import ScoresToRank, rank_intervals, rank_methods

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a method stands in one structure and metric."""

    method: str
    structure: str
    metric: str
    mean: float
    """Over the cases with a finite number; NaN without any."""
    num_missing: int
    """Cases that lack one, of those that all were tested on: of patients, those of whom any scan does."""
    ranked_mean: float
    """Over all cases that all were tested on: one without a number counts as 0 in an overlap and as the worst distance
    of anybody, two empty masks as the best. NaN without any case."""
    rank_of_mean: int
    """Of `ranked_mean`; 1 is the best."""
    rank_of_ranks: int
    """By the mean of the ranks of each case."""
    rank_by_tests: int | None
    """By how many others it beats significantly (Wilcoxon, Holm); None for more than are tested with each other."""
    share_first: float
    """Share of resamples of the cases in which its mean is first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a method stands over all structures and metrics."""

    rank: int
    """By `mean_rank`; those that are equal share the best."""
    rank_low: int | None
    """In 95 of 100 resamples of the cases its rank is from this; None for too few cases to draw from"""
    rank_high: int | None
    """to this one."""
    method: str
    mean_rank: float
    """Mean over structures and metrics of its ranks of means."""
    mean_rank_by_case: float
    """The same of its ranks of ranks."""
    num_first: int
    """Structures and metrics in which its mean is first."""
    num_missing: int
    """Cases without a usable prediction: of patients, those of whom any scan has none."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _List:
    """A structure and metric of some methods: tables of cases and methods."""

    structure: str
    metric: str
    means: "pd.DataFrame"
    """NaN where no row of a case has a number."""
    is_lacking: "pd.DataFrame"
    """Whether any row of a case lacks one."""

    def to_rank(self, cases: Sequence[str]) -> ScoresToRank:
        """Return the scores of some of the cases."""
        return ScoresToRank(values=self.means.loc[cases].to_numpy(), larger_is_better=self.metric in LARGER_IS_BETTER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaderboard:
    """Some methods that were scored on the same cases."""

    places: tuple[Place, ...]
    """Structure by structure and metric by metric."""
    standings: tuple[Standing, ...]
    """The best first."""
    num_cases: int
    """Or patients, where several cases are of one."""

    @property
    def num_lists(self) -> int:
        """Structures and metrics."""
        return len({(place.structure, place.metric) for place in self.places})


def leaderboard(rows: "pd.DataFrame", *, metrics: Sequence[str]) -> Leaderboard:
    """Rank methods.

    Parameters
    ----------
    rows
        With columns method, structure, case, status and the fields of the metrics. What has the same method, structure
        and case is averaged; a missing prediction among it counts as 0 in an overlap, and as the worst distance of
        anybody. Methods are ranked on the cases that all of them have a row of, be it that of a missing prediction.
    metrics
        Of kernels.METRICS.
    """
    methods = list(dict.fromkeys(rows["method"]))
    lists = [
        _list(part, structure=str(structure), metric=metric, methods=methods)
        for structure, part in rows.groupby("structure", sort=False)
        for metric in metrics
    ]
    # Where methods have been asked for different structures of a case, each list has cases of its own.
    shared = sorted(set.intersection(*(set(one.means.index) for one in lists))) if lists else []
    means = rows.groupby(["structure", "method"], sort=False)[[FIELDS[metric] for metric in metrics]].agg(_mean)
    places = [place for one in lists for place in _places(one, methods=methods, shared=shared, means=means)]
    return Leaderboard(
        places=tuple(places),
        standings=_standings(places, rows=rows, lists=[one.to_rank(shared) for one in lists]),
        num_cases=len(shared),
    )


def to_csv(found: Mapping[str, Sequence[Place] | Sequence[Standing]]) -> str:
    """Return places or standings as CSV, one a line; several lists of them have their names in the first column."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in fields(next(one for each in found.values() for one in each))]
    has_lists = list(found) != [""]
    writer.writerow([*(["evaluated_on"] if has_lists else []), *names])
    for title, each in found.items():
        for one in each:
            values = [getattr(one, name) for name in names]
            # A number that there is not is an empty cell, as in every file of scores.
            cells = ["" if isinstance(value, float) and math.isnan(value) else value for value in values]
            writer.writerow([*([title] if has_lists else []), *cells])
    return buffer.getvalue().encode(errors="replace").decode()


def _list(rows: "pd.DataFrame", *, structure: str, metric: str, methods: Sequence[str]) -> _List:
    """Return the means of the cases that all methods have a row of; both masks empty is the best that there is."""
    values = rows[FIELDS[metric]].where(np.isfinite(rows[FIELDS[metric]].astype(float)))
    best = 1.0 if metric in LARGER_IS_BETTER else 0.0
    values = values.mask(rows["status"] == ScoreStatus.BOTH_EMPTY, best)
    keys = [rows["case"], rows["method"]]
    num_rows = values.groupby(keys).size().unstack("method").reindex(columns=methods)
    cases = num_rows.index[num_rows.notna().all(axis=1)]
    # Of several scans of a patient, or several folds, those that are there count as well.
    worst = 0.0 if metric in LARGER_IS_BETTER else values[rows["case"].isin(cases)].max()
    means, num_there = (
        found.unstack("method").reindex(columns=methods).loc[cases]
        for found in (values.fillna(worst).groupby(keys).mean(), values.groupby(keys).count())
    )
    return _List(
        structure=structure,
        metric=metric,
        means=means.where(num_there > 0),
        is_lacking=num_there < num_rows.loc[cases],
    )


def _mean(values: "pd.Series[float]") -> float:
    finite = values[np.isfinite(values.astype(float))]
    return float(finite.mean()) if len(finite) else math.nan


def _places(one: _List, *, methods: Sequence[str], shared: Sequence[str], means: "pd.DataFrame") -> list[Place]:
    to_rank = one.to_rank(shared)
    ranking = rank_methods(to_rank.values, larger_is_better=to_rank.larger_is_better)
    sign = 1 if to_rank.larger_is_better else -1
    ranked_means = sign * to_rank.filled.mean(axis=0) if len(to_rank.values) else np.full(len(methods), math.nan)
    num_missing = one.is_lacking.loc[shared].to_numpy().sum(axis=0)
    return [
        Place(
            method=method,
            structure=one.structure,
            metric=one.metric,
            mean=float(means.loc[(one.structure, method), FIELDS[one.metric]]),
            num_missing=int(num_missing[index]),
            # Not -0.0.
            ranked_mean=float(ranked_means[index]) + 0.0,
            rank_of_mean=ranking.mean_then_rank[index],
            rank_of_ranks=ranking.rank_then_mean[index],
            rank_by_tests=ranking.test_based[index] if ranking.test_based else None,
            share_first=ranking.share_first[index],
        )
        for index, method in enumerate(methods)
    ]


def _standings(found: Sequence[Place], *, rows: "pd.DataFrame", lists: Sequence[ScoresToRank]) -> tuple[Standing, ...]:
    by_method: dict[str, list[Place]] = {}
    for place in found:
        by_method.setdefault(place.method, []).append(place)
    has_range = bool(lists) and len(lists[0].values) >= FEWEST_CLUSTERS
    ranges = rank_intervals(lists) if has_range else ((None, None),) * len(by_method)
    intervals = dict(zip(by_method, ranges, strict=True))
    missing = rows[rows["status"] == ScoreStatus.MISSING].drop_duplicates(["method", "case"])["method"].value_counts()
    mean_ranks = {
        method: round(statistics.fmean(place.rank_of_mean for place in own), 9) for method, own in by_method.items()
    }
    standing = [
        Standing(
            rank=1 + sum(other < mean_ranks[method] for other in mean_ranks.values()),
            rank_low=intervals[method][0],
            rank_high=intervals[method][1],
            method=method,
            mean_rank=mean_ranks[method],
            mean_rank_by_case=statistics.fmean(place.rank_of_ranks for place in own),
            num_first=sum(place.rank_of_mean == 1 for place in own),
            num_missing=int(missing.get(method, 0)),
        )
        for method, own in by_method.items()
    ]
    return tuple(sorted(standing, key=lambda one: (one.mean_rank, one.mean_rank_by_case, one.method)))
