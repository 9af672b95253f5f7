"""Whether one method is better than another on the same cases."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.statistics.intervals import MeanWithInterval, cluster_means, mean_with_interval
from orchestrator.statistics.sequential import signed_ranks, without_rounding

FEWEST_DIFFERENCES = 6
"""Patients from which there is a test: with fewer, the smallest possible p of a signed rank test is above 0.05 / 2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison:
    """The differences of two methods, case by case."""

    difference: MeanWithInterval
    """Mean of the differences, second minus first."""
    num_better: int
    """Patients in whom the second is larger."""
    num_equal: int
    num_worse: int
    effect: float
    """Matched-pairs rank-biserial correlation, -1 to 1: the share of rank sums for the second minus that against it."""
    direction: int
    """Of the test: 1 if ranks speak for the second, -1 if against it."""
    p: float
    """Two-sided, of Wilcoxon's signed rank test over patients; NaN if there are too few."""
    p_corrected: float = math.nan
    """By Holm, over a family of comparisons."""


def compare_paired(differences: Sequence[float], clusters: Sequence[Hashable]) -> PairedComparison:
    """Compare two methods by the differences of their scores, second minus first, of each case.

    Wilcoxon's test (Pratt's treatment of zeros, scipy) takes the mean difference of each patient: cases of one patient
    are not independent.
    """
    from scipy.stats import rankdata, wilcoxon

    means = without_rounding(cluster_means(differences, clusters) if len(differences) else ())
    p = math.nan
    if np.count_nonzero(means) and means.size >= FEWEST_DIFFERENCES:
        p = float(wilcoxon(means, zero_method="pratt", method="auto").pvalue)
    ranks = rankdata(np.abs(means[means != 0]))
    signs = np.sign(means[means != 0])
    return PairedComparison(
        difference=mean_with_interval(differences, clusters),
        num_better=int((means > 0).sum()),
        num_equal=int((means == 0).sum()),
        num_worse=int((means < 0).sum()),
        effect=float((ranks * signs).sum() / ranks.sum()) if ranks.size else math.nan,
        direction=int(np.sign(signed_ranks(means.tolist()).sum())),
        p=p,
    )


def corrected_by_holm(comparisons: Sequence[PairedComparison]) -> tuple[PairedComparison, ...]:
    """Return a family of comparisons with corrected values (Holm 1979); those without a test are not counted."""
    from statsmodels.stats.multitest import multipletests

    tested = [index for index, one in enumerate(comparisons) if not math.isnan(one.p)]
    if not tested:
        return tuple(comparisons)
    _, corrected, *_ = multipletests([comparisons[index].p for index in tested], method="holm")
    values = dict(zip(tested, map(float, corrected), strict=True))
    return tuple(replace(one, p_corrected=values.get(index, math.nan)) for index, one in enumerate(comparisons))
