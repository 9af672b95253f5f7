"""Mean and standard deviation over committed rows."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.results.records import ResultRow, ScoreStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Mean and sample standard deviation (ddof = 1) of DSC and NSD over cases, pooled over folds.

    The score of a case in a fold is the mean over the seeds in which it has one: seeds are no further cases.
    """

    num_cases: int
    """Cases in all, once for each fold that has rows of them."""
    num_both_empty: int
    """Cases without a score whose masks are both empty in a seed: left out of the means."""
    num_missing: int
    """Cases without a usable prediction of a seed, or of several: these are left out of the means, and said."""
    dsc_mean: float
    dsc_std: float
    nsd_mean: float
    nsd_std: float


def summarise(rows: Iterable[ResultRow]) -> Summary:
    """Return the statistics of rows of one structure; means of nothing and deviations of one value are NaN."""
    cases = by_case(rows)
    scored = [[row.score for row in case if _is_scored(row)] for case in cases]
    statuses = [{row.score.status for row in case} for case in cases]
    dsc, nsd = ([mean_of([getattr(score, name) for score in one]) for one in scored if one] for name in ("dsc", "nsd"))
    return Summary(
        num_cases=len(cases),
        num_both_empty=sum(
            ScoreStatus.BOTH_EMPTY in those and not scores for those, scores in zip(statuses, scored, strict=True)
        ),
        num_missing=sum(ScoreStatus.MISSING in those for those in statuses),
        dsc_mean=mean_of(dsc),
        dsc_std=_std(dsc),
        nsd_mean=mean_of(nsd),
        nsd_std=_std(nsd),
    )


def by_case(rows: Iterable[ResultRow]) -> list[list[ResultRow]]:
    """Return rows of one structure of a group by fold and case: several of a case are those of several seeds."""
    found: dict[tuple[int, str, str], list[ResultRow]] = {}
    for row in rows:
        found.setdefault((row.fold, row.dataset, row.case), []).append(row)
    return list(found.values())


def missing_predictions(rows: Iterable[ResultRow]) -> dict[tuple[str, str, str, str], str]:
    """Return why each missing or unusable prediction is so, by training, evaluation set, data set and case."""
    return {
        (row.training_id, row.evaluation_set, row.dataset, row.case): row.score.message
        for row in rows
        if row.score.status == ScoreStatus.MISSING
    }


def mean_of(values: Iterable[float]) -> float:
    """Return the mean of those that are numbers; NaN if none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return statistics.fmean(numbers) if numbers else math.nan


def _is_scored(row: ResultRow) -> bool:
    return not (math.isnan(row.score.dsc) or math.isnan(row.score.nsd))


def _std(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan
