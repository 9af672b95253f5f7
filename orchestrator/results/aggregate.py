"""Mean and standard deviation over committed rows."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.results.records import ResultRow, ScoreStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Mean and sample standard deviation (ddof = 1) of DSC and NSD over cases, pooled over folds."""

    num_cases: int
    """Rows in all."""
    num_both_empty: int
    """Rows whose masks are both empty: their scores are NaN and left out."""
    num_missing: int
    """Rows without a usable prediction: left out of the means, and said."""
    dsc_mean: float
    dsc_std: float
    nsd_mean: float
    nsd_std: float


def summarise(rows: Iterable[ResultRow]) -> Summary:
    """Return the statistics of rows of one structure; means of nothing and deviations of one value are NaN."""
    rows = list(rows)
    scored = [row.score for row in rows if not (math.isnan(row.score.dsc) or math.isnan(row.score.nsd))]
    dsc, nsd = [score.dsc for score in scored], [score.nsd for score in scored]
    return Summary(
        num_cases=len(rows),
        num_both_empty=sum(row.score.status == ScoreStatus.BOTH_EMPTY for row in rows),
        num_missing=sum(row.score.status == ScoreStatus.MISSING for row in rows),
        dsc_mean=_mean(dsc),
        dsc_std=_std(dsc),
        nsd_mean=_mean(nsd),
        nsd_std=_std(nsd),
    )


def missing_predictions(rows: Iterable[ResultRow]) -> dict[tuple[str, str, str, str], str]:
    """Return why each missing or unusable prediction is so, by training, evaluation set, data set and case."""
    return {
        (row.training_id, row.evaluation_set, row.dataset, row.case): row.score.message
        for row in rows
        if row.score.status == ScoreStatus.MISSING
    }


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _std(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan
