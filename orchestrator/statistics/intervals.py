"""Means over cases with confidence intervals, where a patient may have several cases."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
NUM_RESAMPLES = 1999
FEWEST_CLUSTERS = 6
"""Patients from which there is an interval: of fewer, a resample too often has one patient only."""
_MOST_NUMBERS = 4_000_000
"""Of one block of resamples: 32 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanWithInterval:
    """A mean over cases, and between which values the mean of all such patients lies."""

    mean: float
    """NaN if there is no case."""
    low: float
    """Lower end of the interval; NaN if there are too few patients."""
    high: float
    """Upper end."""
    num_cases: int
    """Values."""
    num_clusters: int
    """Patients whose values they are."""

    @property
    def has_interval(self) -> bool:
        """Whether there were enough patients."""
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
    codes = _codes(clusters)
    sums, sizes = np.bincount(codes, weights=numbers).astype(float), np.bincount(codes).astype(float)
    mean = float(sums.sum() / sizes.sum())
    low = high = math.nan
    if sums.size >= FEWEST_CLUSTERS:
        low, high = _studentised(sums, sizes, seed=seed)
        low, high = max(low, limits[0]), min(high, limits[1])
    return MeanWithInterval(mean=mean, low=low, high=high, num_cases=numbers.size, num_clusters=sums.size)


def cluster_means(values: Sequence[float], clusters: Sequence[Hashable]) -> NDArray[np.float64]:
    """Return the mean of each cluster, in the order in which they first occur."""
    codes = _codes(clusters)
    means: NDArray[np.float64] = np.bincount(codes, weights=np.asarray(values, float)) / np.bincount(codes)
    return means


def _codes(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])


def _studentised(sums: NDArray[np.float64], sizes: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    num = sums.size
    mean, error = (float(part[0]) for part in _mean_and_error(sums[None], sizes[None]))
    if error == 0:
        return mean, mean
    random = np.random.default_rng(seed)
    distances = []
    at_once = max(1, min(NUM_RESAMPLES, _MOST_NUMBERS // num))
    for first in range(0, NUM_RESAMPLES, at_once):
        drawn = random.integers(num, size=(min(at_once, NUM_RESAMPLES - first), num))
        means, errors = _mean_and_error(sums[drawn], sizes[drawn])
        with np.errstate(divide="ignore", invalid="ignore"):
            distances.append((means - mean) / errors)
    found = np.concatenate(distances)
    # A resample of equal values has no error: it is as far away as the farthest of which that can be told.
    finite = found[np.isfinite(found)]
    found = np.nan_to_num(found, nan=0.0, posinf=finite.max(initial=0.0), neginf=finite.min(initial=0.0))
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
