"""Distances between two surfaces: Hausdorff distance, its percentiles and the average surface distance.

Definitions as in google-deepmind/surface-distance: each surface element counts with its area.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.bitmask import MaskPair
from kernels.compiled import compiled
from kernels.nearest_surface import ElementDistances, element_distances
from kernels.surface_elements import find_borders, surfel_areas
from kernels.validation import check_pair, check_spacing, pack_masks

# Up to so many numbers are sorted by insertion.
_FEW = 24


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
    """Every surface element's distance to the other surface, sorted by distance and then by area."""

    reference_to_prediction_mm: NDArray[np.float64]
    """Shape (R,): from each element of the reference's surface; infinite if the prediction is empty."""
    prediction_to_reference_mm: NDArray[np.float64]
    """Shape (P,): from each element of the prediction's surface; infinite if the reference is empty."""
    reference_areas_mm2: NDArray[np.float64]
    """Shape (R,): areas in the order of `reference_to_prediction_mm`."""
    prediction_areas_mm2: NDArray[np.float64]
    """Shape (P,): areas in the order of `prediction_to_reference_mm`."""

    def hausdorff_distance(self, *, percentile: float = 100.0) -> float:
        """Return the larger of both directions' distance in mm within which `percentile` % of the area lies.

        Infinite if a mask is empty. Raises ValueError for a percentile outside 0 to 100.
        """
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile is {percentile!r}; expected a number from 0 to 100")
        return max(
            _percentile(self.reference_to_prediction_mm, self.reference_areas_mm2, percentile),
            _percentile(self.prediction_to_reference_mm, self.prediction_areas_mm2, percentile),
        )

    def average_surface_distance(self) -> AverageSurfaceDistance:
        """Return the area-weighted mean distances in mm, each way and of both."""
        return AverageSurfaceDistance(
            reference_to_prediction_mm=_mean(self.reference_to_prediction_mm, self.reference_areas_mm2),
            prediction_to_reference_mm=_mean(self.prediction_to_reference_mm, self.prediction_areas_mm2),
            symmetric_mm=_mean(
                np.concatenate([self.reference_to_prediction_mm, self.prediction_to_reference_mm]),
                np.concatenate([self.reference_areas_mm2, self.prediction_areas_mm2]),
            ),
        )


def _percentile(distances: NDArray[np.float64], areas: NDArray[np.float64], percentile: float) -> float:
    if not len(distances):
        return math.inf
    shares = np.cumsum(areas) / np.sum(areas)
    index = int(np.searchsorted(shares, percentile / 100.0))
    return float(distances[min(index, len(distances) - 1)])


def _mean(distances: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    return float(np.sum(distances * areas) / np.sum(areas)) if len(distances) else math.nan


def surface_distances(
    reference: NDArray[np.generic], prediction: NDArray[np.generic], *, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Return the distances between two surfaces in both directions.

    Parameters
    ----------
    reference, prediction : bool or integer arrays of 0 and 1, shape (Z, Y, X)
    spacing_mm : distance of the voxels along (z, y, x)

    Returns
    -------
    SurfaceDistances, with arrays of length 0 for an empty mask

    Raises
    ------
    ValueError : for shapes that differ, fewer or more than three axes, floats, label maps, and a spacing that is not
        three positive finite numbers
    """
    check_pair(reference, prediction)
    spacing = check_spacing(spacing_mm)
    return distances_of_pair(pack_masks(reference, prediction), spacing_mm=spacing)


def distances_of_pair(pair: MaskPair | None, *, spacing_mm: tuple[float, float, float]) -> SurfaceDistances:
    """Return the distances between the surfaces of two packed masks; None stands for two empty ones."""
    none = np.zeros(0)
    from_a, from_b = (none, none), (none, none)
    if pair is not None:
        borders_a, borders_b = find_borders(pair.reference)[0], find_borders(pair.prediction)[0]
        elements_a = element_distances(pair.reference, borders_a, borders_b, spacing_mm=spacing_mm)
        elements_b = element_distances(pair.prediction, borders_b, borders_a, spacing_mm=spacing_mm)
        areas = surfel_areas(spacing_mm)
        from_a, from_b = _sorted_elements(elements_a, areas), _sorted_elements(elements_b, areas)
    return SurfaceDistances(
        reference_to_prediction_mm=from_a[0],
        reference_areas_mm2=from_a[1],
        prediction_to_reference_mm=from_b[0],
        prediction_areas_mm2=from_b[1],
    )


def _sorted_elements(
    elements: ElementDistances, areas_mm2: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances and areas of all elements, sorted by distance and then by area."""
    order = np.argsort(elements.distances_mm)
    distances, counts = elements.distances_mm[order], elements.counts[order]
    areas = areas_mm2[elements.codes[order]]
    _sort_equal_distances(distances, areas, counts)
    return np.repeat(distances, counts), np.repeat(areas, counts)


# Faster than a sort by two keys, since most of the distances are different ones.
@compiled
def _sort_equal_distances(
    distances: NDArray[np.float64], areas: NDArray[np.float64], counts: NDArray[np.int64]
) -> None:
    """Sort areas and their counts within runs of equal distances."""
    first = 0
    while first < distances.size:
        stop = first + 1
        while stop < distances.size and distances[stop] == distances[first]:
            stop += 1
        if stop - first <= _FEW:
            for i in range(first + 1, stop):
                area, count = areas[i], counts[i]
                place = i
                while place > first and areas[place - 1] > area:
                    areas[place], counts[place] = areas[place - 1], counts[place - 1]
                    place -= 1
                areas[place], counts[place] = area, count
        else:
            order = np.argsort(areas[first:stop])
            areas[first:stop] = areas[first:stop][order]
            counts[first:stop] = counts[first:stop][order]
        first = stop
