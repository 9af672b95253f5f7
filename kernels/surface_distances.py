"""Distances between two surfaces: Hausdorff distance, its percentiles and the average surface distance.

Definitions as in google-deepmind/surface-distance: each surface element counts with its area.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.bitmask import lowest_bit, pack_label, scan_labels
from kernels.compiled import compiled
from kernels.surface_elements import NUM_CODES, find_borders, neighbour_code, surfel_areas
from kernels.validation import as_mask, check_pair, check_spacing


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
    a, b = as_mask(reference, name="reference"), as_mask(prediction, name="prediction")
    box = scan_labels(a, b, num_labels=1).boxes[1]
    if box[1] < 0:
        none = np.zeros(0)
        from_a, from_b = (none, none), (none, none)
    else:
        mask_a, mask_b = pack_label(a, 1, box), pack_label(b, 1, box)
        borders_a, borders_b = find_borders(mask_a)[0], find_borders(mask_b)[0]
        areas = surfel_areas(spacing)
        from_a = _sorted_with_areas(mask_a, borders_a, borders_b, spacing, areas)
        from_b = _sorted_with_areas(mask_b, borders_b, borders_a, spacing, areas)
    return SurfaceDistances(
        reference_to_prediction_mm=from_a[0],
        reference_areas_mm2=from_a[1],
        prediction_to_reference_mm=from_b[0],
        prediction_areas_mm2=from_b[1],
    )


def _sorted_with_areas(
    mask: NDArray[np.uint64],
    borders: NDArray[np.uint64],
    targets: NDArray[np.uint64],
    spacing_mm: tuple[float, float, float],
    areas: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    distances, codes = _distances(mask, borders, targets, np.array(spacing_mm))
    own_areas = areas[codes]
    order = np.lexsort((own_areas, distances))
    return distances[order], own_areas[order]


def count_farther(
    mask: NDArray[np.uint64],
    borders: NDArray[np.uint64],
    targets: NDArray[np.uint64],
    *,
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float,
) -> NDArray[np.int64]:
    """Count, by neighbour code, the elements of `borders` farther than the tolerance from every one of `targets`."""
    distances, codes = _distances(mask, borders, targets, np.array(spacing_mm))
    return np.bincount(codes[distances > tolerance_mm], minlength=NUM_CODES).astype(np.int64)


@compiled
def _steps_along_z(targets: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Return for every dual point the steps along z to the nearest target, -1 where its column has none."""
    size_z, size_y, num_words = targets.shape
    steps = np.full((size_z, size_y, 64 * num_words), -1, np.int32)
    for z in range(size_z):
        for y in range(size_y):
            for x in range(64 * num_words):
                if (targets[z, y, x >> 6] >> np.uint64(x & 63)) & np.uint64(1):
                    steps[z, y, x] = 0
                elif z > 0 and steps[z - 1, y, x] >= 0:
                    steps[z, y, x] = steps[z - 1, y, x] + 1
    for z in range(size_z - 2, -1, -1):
        for y in range(size_y):
            for x in range(64 * num_words):
                below = steps[z + 1, y, x]
                if below >= 0 and (steps[z, y, x] < 0 or below + 1 < steps[z, y, x]):
                    steps[z, y, x] = below + 1
    return steps


@compiled
def _nearest_in_plane(steps: NDArray[np.int32], z: int, y: int, x: int, spacing_mm: NDArray[np.float64]) -> float:
    """Return the least squared distance to a target with the same x."""
    size_y = steps.shape[1]
    best = np.inf
    for dy in range(max(y + 1, size_y - y)):
        along_y = (dy * spacing_mm[1]) * (dy * spacing_mm[1])
        if along_y >= best:
            break
        for other in (y - dy, y + dy):
            if 0 <= other < size_y and steps[z, other, x] >= 0:
                along_z = steps[z, other, x] * spacing_mm[0]
                best = min(best, along_z * along_z + along_y)
    return best


@compiled
def _nearest(
    steps: NDArray[np.int32],
    point: tuple[int, int, int],
    spacing_mm: NDArray[np.float64],
    in_plane: NDArray[np.float64],
) -> float:
    """Return the least squared distance to a target; `in_plane` keeps what is known of the row, -1 elsewhere."""
    z, y, x = point
    size_x = in_plane.shape[0]
    best = np.inf
    for dx in range(max(x + 1, size_x - x)):
        along_x = (dx * spacing_mm[2]) * (dx * spacing_mm[2])
        if along_x >= best:
            break
        for other in (x - dx, x + dx):
            if 0 <= other < size_x:
                if in_plane[other] < 0.0:
                    in_plane[other] = _nearest_in_plane(steps, z, y, other, spacing_mm)
                best = min(best, in_plane[other] + along_x)
    return best


@compiled
def _distances(
    mask: NDArray[np.uint64],
    borders: NDArray[np.uint64],
    targets: NDArray[np.uint64],
    spacing_mm: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return the distance in mm to the nearest target and the neighbour code of each element, in scan order.

    One axis after another: rounding never changes the order of two numbers, so the least of the rounded sums
    ((z^2 + y^2) + x^2) is found exactly by taking the least after each axis.
    """
    steps = _steps_along_z(targets)
    num_elements = 0
    for word in borders.ravel():
        left = word
        while left != np.uint64(0):
            left &= left - np.uint64(1)
            num_elements += 1
    distances = np.empty(num_elements, np.float64)
    codes = np.empty(num_elements, np.uint8)
    in_plane = np.empty(64 * borders.shape[2], np.float64)
    element = 0
    for z in range(borders.shape[0]):
        for y in range(borders.shape[1]):
            in_plane[:] = -1.0
            for w in range(borders.shape[2]):
                left = borders[z, y, w]
                while left != np.uint64(0):
                    x = 64 * w + lowest_bit(left)
                    left &= left - np.uint64(1)
                    distances[element] = np.sqrt(_nearest(steps, (z, y, x), spacing_mm, in_plane))
                    codes[element] = neighbour_code(mask, z, y, x)
                    element += 1
    return distances, codes
