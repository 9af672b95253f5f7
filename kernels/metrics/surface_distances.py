"""Distances between two surfaces: Hausdorff distance, its percentiles and the average surface distance.

Definitions as in google-deepmind/surface-distance: each surface element counts with its area.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled
from kernels.masks.validation import check_pair, check_percentile, check_spacing, pack_masks
from kernels.metrics.nearest_surface import (
    NO_ELEMENTS,
    DistanceArrays,
    ElementDistances,
    element_distances,
    mean_distance,
)
from kernels.metrics.surfaces import Surfaces, find_surfaces

# A percentile is looked for among the distances of one of so many bins; shares nearer than this to it may be rounded to
# either side.
_NUM_BINS = 1024
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class AverageSurfaceDistance:
    """Area-weighted mean distances between two surfaces."""

    reference_to_prediction_mm: float
    """From the reference's surface; NaN if it has none, infinite if the prediction has none."""
    prediction_to_reference_mm: float
    """From the prediction's surface; NaN if it has none, infinite if the reference has none."""
    symmetric_mm: float
    """Mean over both surfaces together (ASSD); NaN if there is no surface, infinite if one mask is empty."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SurfaceDistances:
    """Every surface element's distance to the other surface."""

    reference: ElementDistances
    """From the reference's surface to the prediction's; infinite if the prediction is empty."""
    prediction: ElementDistances
    """From the prediction's surface to the reference's; infinite if the reference is empty."""

    def hausdorff_distance(self, *, percentile: float = 100.0) -> float:
        """Return the larger of both directions' distance in mm within which `percentile` % of the area lies.

        Infinite if a mask is empty, also if both are: what google-deepmind's surface-distance returns. Raises
        ValueError for a percentile outside 0 to 100.
        """
        check_percentile(percentile)
        return max(_percentile(self.reference, percentile), _percentile(self.prediction, percentile))

    def average_surface_distance(self) -> AverageSurfaceDistance:
        """Return the area-weighted mean distances in mm, each way and of both."""
        return AverageSurfaceDistance(
            reference_to_prediction_mm=mean_distance(self.reference),
            prediction_to_reference_mm=mean_distance(self.prediction),
            symmetric_mm=mean_distance(self.reference, self.prediction),
        )


def _percentile(elements: ElementDistances, percentile: float) -> float:
    distances = elements.distances_mm
    if not len(distances):
        return math.inf
    share = percentile / 100.0
    first, last = float(distances.min()), float(distances.max())
    if first == last:
        return first
    bins_a_mm = _NUM_BINS / (last - first)
    arrays = (distances, elements.areas_mm2, elements.counts)
    areas = _areas_of_bins(arrays, first, bins_a_mm)
    shares = np.cumsum(areas) / np.sum(areas)
    chosen = int(np.searchsorted(shares, share))
    in_bin, own_areas = _members_of_bin(arrays, first, bins_a_mm, chosen)
    order = np.argsort(in_bin)
    shares_in_bin = np.cumsum(own_areas[order]) / np.sum(areas) + (shares[chosen - 1] if chosen else 0.0)
    if np.abs(np.concatenate([shares, shares_in_bin]) - share).min() < _ROUNDING:
        return _percentile_as_summed(elements, share)
    return float(in_bin[order[np.searchsorted(shares_in_bin, share)]])


@compiled
def _areas_of_bins(arrays: DistanceArrays, first: float, bins_a_mm: float) -> NDArray[np.float64]:
    """Return the area of all elements in each bin; the last one holds the largest distance alone."""
    distances, areas, counts = arrays
    sums = np.zeros(_NUM_BINS + 1)
    for i in range(distances.size):
        sums[int((distances[i] - first) * bins_a_mm)] += areas[i] * counts[i]
    return sums


@compiled
def _members_of_bin(
    arrays: DistanceArrays, first: float, bins_a_mm: float, chosen: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances of a bin and the areas that have them."""
    distances, areas, counts = arrays
    members = np.empty(distances.size, np.int64)
    num_members = 0
    for i in range(distances.size):
        members[num_members] = i
        num_members += int((distances[i] - first) * bins_a_mm) == chosen
    members = members[:num_members]
    return distances[members], areas[members] * counts[members]


def _percentile_as_summed(elements: ElementDistances, share: float) -> float:
    """Sum up areas in the order of the reference implementation, so that rounding decides as it does there."""
    distances, areas = elements.sorted()
    index = int(np.searchsorted(np.cumsum(areas) / np.sum(areas), share))
    return float(distances[min(index, len(distances) - 1)])


def surface_distances(
    reference: NDArray[np.generic], prediction: NDArray[np.generic], *, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Return the distances between two surfaces in both directions.

    Parameters
    ----------
    reference, prediction : bool or integer arrays of 0 and 1, shape (Z, Y, X), or (Y, X) for contours in the plane
    spacing_mm : distance of the voxels along (z, y, x), or of the pixels along (y, x)

    Returns
    -------
    SurfaceDistances; an empty mask has no distances, and those to it are infinite

    Raises
    ------
    ValueError : for shapes that differ, axes other than two or three, floats, label maps, and a spacing that is not as
        many positive finite numbers as there are axes
    """
    check_pair(reference, prediction)
    spacing = check_spacing(spacing_mm, num_axes=reference.ndim)
    pair = pack_masks(reference, prediction)
    return distances_of_surfaces(find_surfaces(pair, spacing_mm=spacing) if pair else None)


def distances_of_surfaces(surfaces: Surfaces | None) -> SurfaceDistances:
    """Return the distances between two surfaces; None stands for those of two empty masks."""
    from_reference, from_prediction = element_distances(surfaces) if surfaces else (NO_ELEMENTS, NO_ELEMENTS)
    return SurfaceDistances(reference=from_reference, prediction=from_prediction)
