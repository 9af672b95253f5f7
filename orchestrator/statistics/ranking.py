"""Which method comes first, by three rules, and how often it still does when other patients are drawn.

The rules are those of Wiesenfarth et al. 2021 (challengeR): the mean is ranked, the ranks of each case are averaged, or
methods are ranked by how many others they are significantly better than.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 1000
ALPHA = 0.05
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


def rank_methods(scores: NDArray[np.float64], *, larger_is_better: bool = True, seed: int = 0) -> Ranking:
    """Rank methods.

    Parameters
    ----------
    scores : float array, shape (cases, methods)
        One row for each case, or the means of each patient; NaN is a case without a usable prediction, which is worse
        than any score.
    larger_is_better
        False for distances.
    seed
        Of the resamples.
    """
    oriented = np.where(np.isnan(scores), -np.inf, scores if larger_is_better else -scores)
    worst = np.min(oriented, where=np.isfinite(oriented), initial=np.inf)
    # In a mean, what is missing counts as the worst that anybody has.
    filled = np.where(np.isfinite(oriented), oriented, worst if np.isfinite(worst) else 0.0)
    num = len(filled)
    firsts = np.zeros(filled.shape[1])
    if num:
        drawn = np.random.default_rng(seed).multinomial(num, [1 / num] * num, size=NUM_RESAMPLES) @ filled
        is_first = drawn >= drawn.max(axis=1, keepdims=True) - 1e-12 * num
        firsts = (is_first / is_first.sum(axis=1, keepdims=True)).mean(axis=0)
    return Ranking(
        mean_then_rank=_whole(_ranks(filled.mean(axis=0))),
        rank_then_mean=_whole(_ranks(-np.array([_average_ranks(row) for row in oriented]).mean(axis=0))),
        test_based=_whole(_ranks(_num_beaten(oriented))) if num and len(firsts) <= MOST_TESTED else (),
        share_first=tuple(map(float, firsts)),
    )


def _ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return ranks from 1 for the largest."""
    ranks: NDArray[np.int64] = 1 + (values[None, :] > values[:, None]).sum(axis=1)
    return ranks


def _average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = rankdata(-values, method="min")
    return ranks


def _num_beaten(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many others each method is better than by a one-sided Wilcoxon test with Holm's correction."""
    from scipy.stats import wilcoxon
    from statsmodels.stats.multitest import multipletests

    num = scores.shape[1]
    pairs: list[tuple[int, int]] = [(a, b) for a in range(num) for b in range(num) if a != b]
    values = []
    for a, b in pairs:
        with np.errstate(invalid="ignore"):
            # Two missing predictions are equal; against one, any score is better.
            differences = np.nan_to_num(scores[:, a] - scores[:, b], nan=0.0, posinf=1e6, neginf=-1e6)
        is_tested = np.count_nonzero(differences) > 0
        values.append(float(wilcoxon(differences, alternative="greater").pvalue) if is_tested else 1.0)
    beaten = np.zeros(num)
    if pairs:
        is_better, *_ = multipletests(values, alpha=ALPHA, method="holm")
        for (a, _), better in zip(pairs, is_better, strict=True):
            beaten[a] += bool(better)
    return beaten


def _whole(ranks: Sequence[int] | NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(rank) for rank in ranks)
