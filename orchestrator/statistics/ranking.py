"""Which method comes first, by three rules, and how often it still does when other patients are drawn.

The rules are those of Wiesenfarth et al. 2021 (challengeR): the mean is ranked, the ranks of each case are averaged, or
methods are ranked by how many others they are significantly better than.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.statistics.intervals import ALPHA, CONFIDENCE

NUM_RESAMPLES = 1000
MOST_TESTED = 20
"""Methods that are tested with each other: of a hundred, there would be 9,900 tests for each structure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Ranks of some methods, 1 is the best; methods that are equal share the best rank that they could have."""

    mean_then_rank: tuple[int, ...]
    rank_then_mean: tuple[int, ...]
    test_based: tuple[int, ...]
    """Empty for more methods than are tested with each other."""
    share_first: tuple[float, ...]
    """Share of resamples of the cases in which each is first by its mean."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScoresToRank:
    """Scores of some methods on the same cases."""

    values: NDArray[np.float64]
    """Shape (cases, methods): one row for each case, or the means of each patient; NaN is a case without a usable
    prediction: 0 in a mean of scores, the worst of anybody in one of distances, and worse than any in a single case."""
    larger_is_better: bool = True
    """False for distances."""

    @property
    def oriented(self) -> NDArray[np.float64]:
        """Return the scores so that more is better, what is missing below all of them."""
        signed = self.values if self.larger_is_better else -self.values
        return np.where(np.isnan(signed), -np.inf, signed)

    @property
    def filled(self) -> NDArray[np.float64]:
        """Return the same, but of what is missing a number that a mean can be taken of: 0, as challengeR suggests.

        The worst that anybody has would not do: who leaves out hard cases that all others find easier would gain by it.
        A distance has no worst value, so that it is the worst that anybody has.
        """
        oriented = self.oriented
        highest = 0.0 if self.larger_is_better else np.inf
        worst = np.min(oriented, where=np.isfinite(oriented), initial=highest)
        return np.where(np.isfinite(oriented), oriented, worst if np.isfinite(worst) else 0.0)


def rank_methods(scores: NDArray[np.float64], *, larger_is_better: bool = True) -> Ranking:
    """Rank methods.

    Parameters
    ----------
    scores : float array, shape (cases, methods)
        As those of `ScoresToRank`.
    larger_is_better
        False for distances.
    """
    given = ScoresToRank(values=scores, larger_is_better=larger_is_better)
    oriented, filled = given.oriented, given.filled
    num = len(filled)
    firsts = np.zeros(filled.shape[1])
    if num:
        is_first = _ranks(_resampled_sums(filled)) == 1
        firsts = (is_first / is_first.sum(axis=1, keepdims=True)).mean(axis=0)
    return Ranking(
        mean_then_rank=_whole(_ranks(_mean(filled))),
        rank_then_mean=_whole(_ranks(-_mean(_ranks(oriented)))),
        test_based=_whole(_ranks(_num_beaten(oriented))) if num and len(firsts) <= MOST_TESTED else (),
        share_first=tuple(map(float, firsts)),
    )


def rank_intervals(several: Sequence[ScoresToRank]) -> tuple[tuple[int, int], ...]:
    """Return between which ranks each method is in 95 of 100 resamples of the cases.

    A method's rank is that of the mean of its ranks in each of the given structures or metrics, all of the same cases.
    """
    (num,) = {len(one.values) for one in several}
    if not num:
        last: int = several[0].values.shape[1]
        return ((1, last),) * last
    of_each: list[NDArray[np.int64]] = [_ranks(_resampled_sums(one.filled)) for one in several]
    ranks = _ranks(-np.mean(of_each, axis=0))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ranks, [tail, 1 - tail], axis=0, method="inverted_cdf")
    return tuple((int(a), int(b)) for a, b in zip(low.tolist(), high.tolist(), strict=True))


def _resampled_sums(filled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums over resamples of the cases, shape (resamples, methods); as close as numbers round, they tie."""
    num = len(filled)
    # Equal scores always have equal ranks.
    drawn = np.random.default_rng(0).multinomial(num, [1 / num] * num, size=NUM_RESAMPLES)
    return np.round(drawn @ filled, 9)


def _mean(values: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean over cases, rounded so that equal ones are equal in whatever order they are summed."""
    return np.round(values.mean(axis=0), 12) if len(values) else np.zeros(values.shape[1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return ranks from 1 for the largest, along the last axis; equal ones share the best."""
    from scipy.stats import rankdata

    ranks: NDArray[np.int64] = rankdata(-values, method="min", axis=-1).astype(np.int64)
    return ranks


def _num_beaten(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many others each method is better than by a one-sided Wilcoxon test with Holm's correction."""
    num = scores.shape[1]
    pairs = [(a, b) for a in range(num) for b in range(num) if a != b]
    beaten = np.zeros(num)
    if pairs:
        first, second = np.transpose(pairs)
        with np.errstate(invalid="ignore"):
            differences = scores[:, first] - scores[:, second]
        # Two missing predictions are equal; against one, any score is better.
        values = _p_of_larger(np.nan_to_num(differences, nan=0.0, posinf=1e6, neginf=-1e6))
        np.add.at(beaten, first[_holm(values) <= ALPHA], 1)
    return beaten


def _p_of_larger(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p of each column that its differences are above 0, as challengeR takes it of R's wilcox.test.

    By the normal approximation with its correction for continuity, however few cases there are; zeros are left out.
    """
    from scipy.stats import wilcoxon

    # 0.9 - 0.8 and 0.8 - 0.7 are a tie.
    rounded = np.round(differences, 12)
    values = np.ones(differences.shape[1])
    is_any = (rounded != 0).any(axis=0)
    if is_any.any():
        found = wilcoxon(rounded[:, is_any], alternative="greater", axis=0, method="asymptotic", correction=True)
        values[is_any] = found.pvalue
    return values


def _holm(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p corrected by Holm's method: statsmodels' function collects all garbage of the process at each call."""
    order = np.argsort(values, kind="stable")
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return corrected


def _whole(ranks: Sequence[int] | NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(rank) for rank in ranks)
