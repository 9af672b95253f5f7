"""Means over cases with confidence intervals, where a patient may have several cases."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from orchestrator.statistics.mixed import MixedModel

CONFIDENCE = 0.95
ALPHA = 0.05
"""Chance that any test of a family calls equal methods different."""
NUM_RESAMPLES = 1999
FEWEST_CLUSTERS = 6
"""Patients from which there is an interval: of fewer, a resample too often has one patient only."""
_FARTHEST = 5.0
"""Standard errors that a resample is away at most. One of nearly equal values has nearly no error of its own, by which
it would be any number of errors away: an interval of a few failures among equal scores would end anywhere."""
_ROUNDING = 1e-12
"""Up to which an error is none: what is left of it in sums of equal scores."""
_MOST_NUMBERS = 4_000_000
"""Of one block of resamples: 32 MB."""


Found = TypeVar("Found", "MeanWithInterval", "MixedModel")


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanWithInterval:
    """A mean over cases, and between which values the mean of all such patients lies."""

    mean: float
    """NaN if there is no case."""
    low: float
    """Lower end of the interval; NaN if there are too few patients, or if all are equal."""
    high: float
    """Upper end."""
    num_cases: int
    """Values."""
    num_clusters: int
    """Patients whose values they are."""

    @property
    def has_interval(self) -> bool:
        """Whether there were enough patients, and any two that differ."""
        return not math.isnan(self.low)


def mean_with_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> MeanWithInterval:
    """Return the mean of values and its 95 % interval by the studentised bootstrap over clusters.

    Whole clusters are drawn with replacement, since values of one patient depend on each other. The distance of each
    resample from the mean is taken in units of its own standard error (Davison and Hinkley, Bootstrap Methods, 1997,
    2.4 and 3.8), which for skewed scores covers the true mean more often than percentiles, BCa or a t interval do.
    Where all patients are equal there is no interval: nothing tells how far others would be.

    Parameters
    ----------
    values
        One a case, finite.
    clusters
        The patient of each.
    seed
        Of the resamples: the same values always have the same interval.
    limits
        Least and greatest possible mean; the interval is cut there.
    """
    numbers = np.asarray(values, float)
    if not numbers.size:
        return MeanWithInterval(mean=math.nan, low=math.nan, high=math.nan, num_cases=0, num_clusters=0)
    sums, sizes = _sums_and_sizes(values, clusters)
    mean = float(sums.sum() / sizes.sum())
    low = high = math.nan
    if sums.size >= FEWEST_CLUSTERS:
        low, high = _studentised(sums, sizes, seed=seed)
        low, high = (float(end) for end in np.clip((low, high), *limits))
    return MeanWithInterval(mean=mean, low=low, high=high, num_cases=numbers.size, num_clusters=sums.size)


def cut_difference(found: Found) -> Found:
    """Return a difference of shares, none of which is beyond -1 and 1, with its interval cut there."""
    low, high = (float(end) for end in np.clip((found.low, found.high), -1.0, 1.0))
    return replace(found, low=low, high=high)


def difference_of_means(
    first: tuple[Sequence[float], Sequence[Hashable]], second: tuple[Sequence[float], Sequence[Hashable]]
) -> MeanWithInterval:
    """Return the mean of second values less that of first ones, of other patients, with its 95 % interval.

    As `mean_with_interval`, with the patients of either side drawn by themselves. Each side is its values and their
    clusters; cases and clusters are counted over both. There is no interval if one side has too few patients, or if on
    both all are equal.
    """
    sides = [_sums_and_sizes(*side) for side in (first, second)]
    num_cases, num_clusters = sum(len(side[0]) for side in (first, second)), sum(sums.size for sums, _ in sides)
    if not all(sums.size for sums, _ in sides):
        return MeanWithInterval(
            mean=math.nan, low=math.nan, high=math.nan, num_cases=num_cases, num_clusters=num_clusters
        )
    means = [float(sums.sum() / sizes.sum()) for sums, sizes in sides]
    difference, low, high = means[1] - means[0], math.nan, math.nan
    if all(sums.size >= FEWEST_CLUSTERS for sums, _ in sides):
        random = np.random.default_rng(0)
        errors = [float(_mean_and_error(sums[None], sizes[None])[1][0]) for sums, sizes in sides]
        (of_first, first_errors), (of_second, second_errors) = (_resampled(*side, random=random) for side in sides)
        low, high = _limits(
            difference,
            math.hypot(*errors),
            means=of_second - of_first,
            errors=np.hypot(first_errors, second_errors),
        )
    return MeanWithInterval(mean=difference, low=low, high=high, num_cases=num_cases, num_clusters=num_clusters)


def _sums_and_sizes(
    values: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of the values of each cluster, and how many these are."""
    if not len(values):
        return np.empty(0), np.empty(0)
    codes, _ = numbered(clusters)
    sums = np.bincount(codes, weights=np.asarray(values, float))
    return sums.astype(float), np.bincount(codes).astype(float)


def cluster_means(values: Sequence[float], clusters: Sequence[Hashable]) -> NDArray[np.float64]:
    """Return the mean of each cluster, in the order in which they first occur."""
    codes, _ = numbered(clusters)
    means: NDArray[np.float64] = np.bincount(codes, weights=np.asarray(values, float)) / np.bincount(codes)
    return means


def numbered(names: Sequence[Hashable]) -> tuple[NDArray[np.int64], int]:
    """Return each name as a number, of 0, 1, ... in the order in which they come first, and how many there are."""
    numbers: dict[Hashable, int] = {}
    found = [numbers.setdefault(name, len(numbers)) for name in names]
    return np.asarray(found, np.int64), len(numbers)


def _studentised(sums: NDArray[np.float64], sizes: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    mean, error = (float(part[0]) for part in _mean_and_error(sums[None], sizes[None]))
    means, errors = _resampled(sums, sizes, random=np.random.default_rng(seed))
    return _limits(mean, error, means=means, errors=errors)


def _resampled(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], *, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard error of each resample."""
    num, found = sums.size, []
    at_once = max(1, min(NUM_RESAMPLES, _MOST_NUMBERS // num))
    for first in range(0, NUM_RESAMPLES, at_once):
        drawn = random.integers(num, size=(min(at_once, NUM_RESAMPLES - first), num))
        found.append(_mean_and_error(sums[drawn], sizes[drawn]))
    means, errors = zip(*found, strict=True)
    return np.concatenate(means), np.concatenate(errors)


def _limits(
    mean: float, error: float, *, means: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the interval of a mean from those of resamples; NaN if the mean has no error."""
    if error <= _ROUNDING:
        return math.nan, math.nan
    # So that a resample of equal values, whose error is 0 or what rounding makes of it, is at either end or, if it is
    # the mean itself, at 0.
    found = np.clip((means - mean) / np.maximum(errors, 1e-9 * error), -_FARTHEST, _FARTHEST)
    tail = (1 - CONFIDENCE) / 2
    lower, upper = np.quantile(found, [tail, 1 - tail], method="median_unbiased")
    return mean - float(upper) * error, mean - float(lower) * error


def _mean_and_error(
    sums: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean over the cases of all clusters and its standard error (linearised, between clusters), by row."""
    num, total = sums.shape[1], sizes.sum(axis=1)
    means = sums.sum(axis=1) / total
    residuals = sums - means[:, None] * sizes
    return means, np.sqrt(num / (num - 1) * (residuals**2).sum(axis=1)) / total
