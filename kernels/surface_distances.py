"""Distances between two surfaces: Hausdorff distance, its percentiles and the average surface distance.

Definitions as in google-deepmind/surface-distance: each surface element counts with its area.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled
from kernels.intrinsics import leading_zeros, lowest_bit, popcount
from kernels.surface_elements import NUM_CODES, find_borders, neighbour_code, surfel_areas
from kernels.validation import check_pair, check_spacing, pack_masks

# Rows to either side of a point that are searched bit by bit; what is farther is found from columns.
_REACH = 8


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
    pair = pack_masks(reference, prediction)
    if pair is None:
        none = np.zeros(0)
        from_a, from_b = (none, none), (none, none)
    else:
        mask_a, mask_b = pair.reference, pair.prediction
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
    distances, codes = _distances(mask, borders, targets, spacing_mm)
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
    distances, codes = _distances(mask, borders, targets, spacing_mm)
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
def _nearest_in_row(row: NDArray[np.uint64], x: int, limit: int) -> int:
    """Return the steps from x to the nearest set bit of a row, or more than `limit` if there is none that near."""
    w, b = x >> 6, np.uint64(x & 63)
    best = limit + 1
    above = row[w] >> b
    if above != np.uint64(0):
        best = min(best, lowest_bit(above))
    below = row[w] << (np.uint64(63) - b)
    if below != np.uint64(0):
        best = min(best, leading_zeros(below))
    other = w + 1
    while other < row.size and 64 * other - x < best:
        best = min(best, 64 * other - x + lowest_bit(row[other])) if row[other] != np.uint64(0) else best
        other += 1
    other = w - 1
    while other >= 0 and x - (64 * other + 63) < best:
        best = min(best, x - (64 * other + 63) + leading_zeros(row[other])) if row[other] != np.uint64(0) else best
        other -= 1
    return best


@compiled
def _nearest_in_rows(
    targets: NDArray[np.uint64],
    point: tuple[int, int, int],
    spacing_x_mm: float,
    rows: tuple[NDArray[np.int64], NDArray[np.float64]],
) -> float:
    """Return the least squared distance to a target in rows (their steps, their squared distances), nearest first."""
    z, y, x = point
    steps, squares = rows
    best = np.inf
    limit = 64 * targets.shape[2]
    for r in range(squares.size):
        if squares[r] >= best:
            break
        row_z, row_y = z + steps[r, 0], y + steps[r, 1]
        if 0 <= row_z < targets.shape[0] and 0 <= row_y < targets.shape[1]:
            dx = _nearest_in_row(targets[row_z, row_y], x, limit)
            if dx <= limit:
                limit = dx
                along_x = (dx * spacing_x_mm) * (dx * spacing_x_mm)
                best = min(best, squares[r] + along_x)
    return best


def _near_rows(
    shape: tuple[int, ...], spacing_mm: tuple[float, float, float]
) -> tuple[tuple[NDArray[np.int64], NDArray[np.float64]], float]:
    """Return the rows around a point, nearest first, and the squared distance up to which they are all of them."""
    reach = [min(size - 1, _REACH) for size in shape[:2]]
    dz, dy = (a.ravel() for a in np.mgrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1])
    squares = (dz * spacing_mm[0]) ** 2 + (dy * spacing_mm[1]) ** 2
    cut = [a for a in (0, 1) if reach[a] < shape[a] - 1]
    complete = min([((reach[a] + 1) * spacing_mm[a]) ** 2 for a in cut], default=math.inf)
    order = np.argsort(squares, kind="stable")
    order = order[squares[order] < complete]
    return (np.stack([dz, dy], axis=1)[order].astype(np.int64), squares[order]), complete


def _distances(
    mask: NDArray[np.uint64],
    borders: NDArray[np.uint64],
    targets: NDArray[np.uint64],
    spacing_mm: tuple[float, float, float],
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return the distance in mm to the nearest target and the neighbour code of each element, in scan order.

    Rounding never changes the order of two numbers, so the least of the rounded sums ((z^2 + y^2) + x^2) is found
    exactly by taking the least after each axis, in whatever order candidates are looked at.
    """
    points, codes = _elements(mask, borders)
    squares = np.full(len(points), np.inf)
    if targets.any():
        rows, complete = _near_rows(targets.shape, spacing_mm)
        _search_near(targets, points, spacing_mm[2], rows, squares)
        far = np.flatnonzero(squares > complete)
        if far.size:
            squares[far] = _search_far(_steps_along_z(targets), points[far], np.array(spacing_mm))
    return np.sqrt(squares), codes


@compiled
def _elements(mask: NDArray[np.uint64], borders: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the points (z, y, x) and neighbour codes of all elements, in scan order."""
    num_elements = 0
    for word in borders.ravel():
        num_elements += popcount(word)
    points = np.empty((num_elements, 3), np.int64)
    codes = np.empty(num_elements, np.uint8)
    element = 0
    for z in range(borders.shape[0]):
        for y in range(borders.shape[1]):
            for w in range(borders.shape[2]):
                left = borders[z, y, w]
                while left != np.uint64(0):
                    x = 64 * w + lowest_bit(left)
                    left &= left - np.uint64(1)
                    points[element] = (z, y, x)
                    codes[element] = neighbour_code(mask, z, y, x)
                    element += 1
    return points, codes


@compiled
def _search_near(
    targets: NDArray[np.uint64],
    points: NDArray[np.int64],
    spacing_x_mm: float,
    rows: tuple[NDArray[np.int64], NDArray[np.float64]],
    squares: NDArray[np.float64],
) -> None:
    """Fill in the least squared distance of each point to a target in the rows around it."""
    for i in range(points.shape[0]):
        squares[i] = _nearest_in_rows(targets, (points[i, 0], points[i, 1], points[i, 2]), spacing_x_mm, rows)


@compiled
def _search_far(
    steps: NDArray[np.int32], points: NDArray[np.int64], spacing_mm: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the least squared distance of each point, in scan order, from the steps along z of every column."""
    squares = np.empty(points.shape[0], np.float64)
    in_plane = np.empty(steps.shape[2], np.float64)
    for i in range(points.shape[0]):
        z, y, x = points[i]
        if i == 0 or z != points[i - 1, 0] or y != points[i - 1, 1]:
            in_plane[:] = -1.0
        squares[i] = _nearest(steps, (z, y, x), spacing_mm, in_plane)
    return squares
