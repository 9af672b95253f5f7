"""Normalised surface Dice (NSD): the share of two surfaces that lies within a tolerance of the other one.

Source: Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
radiotherapy" (2018), as google-deepmind/surface-distance computes it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.masks.bitmask import crop_pair
from kernels.masks.label_rows import find_labels
from kernels.masks.validation import check_pair, check_spacing, check_tolerance, check_tolerances, pack_masks
from kernels.metrics.nearest_surface import NO_ELEMENTS, ElementDistances, element_distances
from kernels.metrics.surface_elements import CODE_OF_ROWS, count_codes, surfel_areas
from kernels.metrics.surfaces import Surfaces, find_surfaces

# Beyond this many rows of the ball the distance of each element is cheaper than the search.
_MAX_ROWS = 4096
# The search looks one word to either side.
_MAX_HALF_WIDTH = 63
# A row of the ball takes one pass over a slice, and one more for each voxel of its half width.
_MAX_PASSES = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SurfaceOverlap:
    """Surface elements of two masks by neighbour code, in total and beyond the tolerance: integers, so exact."""

    num_reference: NDArray[np.int64]
    """Shape (256,), or (16,) in the plane: elements of the reference's surface."""
    num_reference_beyond: NDArray[np.int64]
    """Same shape: those farther than the tolerance from the prediction's surface."""
    num_predicted: NDArray[np.int64]
    """Same shape: elements of the prediction's surface."""
    num_predicted_beyond: NDArray[np.int64]
    """Same shape: those farther than the tolerance from the reference's surface."""
    spacing_mm: tuple[float, ...]
    """(z, y, x) or (y, x) spacing, from which areas or lengths follow."""
    tolerance_mm: float
    """An element exactly this far away is within the tolerance."""

    @property
    def surface_dice(self) -> float:
        """NSD, 0 to 1; NaN if neither mask has a surface, 0 if one has none."""
        areas = surfel_areas(self.spacing_mm)
        total = areas @ (self.num_reference + self.num_predicted)
        beyond = areas @ (self.num_reference_beyond + self.num_predicted_beyond)
        return float((total - beyond) / total) if total > 0 else math.nan

    def __add__(self, other: "SurfaceOverlap") -> "SurfaceOverlap":
        """Return the counts of both, as of one pair of masks; raises ValueError for another spacing or tolerance."""
        if (self.spacing_mm, self.tolerance_mm) != (other.spacing_mm, other.tolerance_mm):
            raise ValueError(
                f"spacing {self.spacing_mm} and tolerance {self.tolerance_mm}, then {other.spacing_mm} and "
                f"{other.tolerance_mm}; expected the same"
            )
        return SurfaceOverlap(
            num_reference=self.num_reference + other.num_reference,
            num_reference_beyond=self.num_reference_beyond + other.num_reference_beyond,
            num_predicted=self.num_predicted + other.num_predicted,
            num_predicted_beyond=self.num_predicted_beyond + other.num_predicted_beyond,
            spacing_mm=self.spacing_mm,
            tolerance_mm=self.tolerance_mm,
        )


def surface_dice(
    reference: NDArray[np.generic],
    prediction: NDArray[np.generic],
    *,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> float:
    """Return the normalised surface Dice, 0 to 1.

    Parameters
    ----------
    reference, prediction : bool or integer arrays of 0 and 1, shape (Z, Y, X), or (Y, X) for contours in the plane
    spacing_mm : distance of the voxels along (z, y, x), or of the pixels along (y, x)
    tolerance_mm : distance up to and including which surfaces agree

    Returns
    -------
    float, NaN if both masks are empty and 0 if one is

    Raises
    ------
    ValueError : for shapes that differ, axes other than two or three, floats, label maps, a spacing that is not as many
        positive finite numbers as there are axes, and a tolerance that is not a finite number of at least 0

    Notes
    -----
    Distances are the least float64 values of sqrt(((dz sz)^2 + (dy sy)^2) + (dx sx)^2), compared as they are. The
    distance transform of the reference implementation may return the larger of two that differ in the last bit.
    """
    return surface_overlap(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm).surface_dice


def surface_overlap(
    reference: NDArray[np.generic],
    prediction: NDArray[np.generic],
    *,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> SurfaceOverlap:
    """Return the exact counts behind `surface_dice`; same parameters and errors."""
    check_pair(reference, prediction)
    spacing, tolerance = check_spacing(spacing_mm, num_axes=reference.ndim), check_tolerance(tolerance_mm)
    pair = pack_masks(reference, prediction)
    surfaces = find_surfaces(pair, spacing_mm=spacing) if pair else None
    return overlap_of_surfaces(surfaces, spacing_mm=spacing, tolerance_mm=tolerance)


def surface_overlaps(
    reference: NDArray[np.generic],
    prediction: NDArray[np.generic],
    *,
    spacing_mm: Sequence[float],
    tolerances_mm: Mapping[int, float],
) -> dict[int, SurfaceOverlap]:
    """Return the counts of `surface_overlap` for labels of two label maps, each of which is read once.

    Parameters
    ----------
    reference, prediction : bool or integer arrays, shape (Z, Y, X), or (Y, X) for contours in the plane
    spacing_mm : distance of the voxels along (z, y, x), or of the pixels along (y, x)
    tolerances_mm : tolerance of each label to be scored

    Raises
    ------
    ValueError : as `score_masks`
    """
    check_pair(reference, prediction)
    spacing, tolerances = check_spacing(spacing_mm, num_axes=reference.ndim), check_tolerances(tolerances_mm)
    is_flat = reference.ndim == 2
    labels = [int(label) for label in tolerances]
    found = [find_labels(array[None] if is_flat else array, labels) for array in (reference, prediction)]
    overlaps = {}
    for number, (label, tolerance) in enumerate(zip(labels, tolerances.values(), strict=True)):
        pair = crop_pair(found[0], found[1], number, is_flat=is_flat)
        surfaces = find_surfaces(pair, spacing_mm=spacing) if pair else None
        overlaps[label] = overlap_of_surfaces(surfaces, spacing_mm=spacing, tolerance_mm=tolerance)
    return overlaps


def overlap_of_surfaces(
    surfaces: Surfaces | None, *, spacing_mm: tuple[float, ...], tolerance_mm: float
) -> SurfaceOverlap:
    """Compare two surfaces; None stands for those of two empty masks."""
    if surfaces is None:
        return overlap_of_distances((NO_ELEMENTS, NO_ELEMENTS), spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
    a, b = surfaces.reference, surfaces.prediction
    rows = _tolerance_rows(a.borders.shape, surfaces.steps_mm, tolerance_mm)
    if rows is None:
        return overlap_of_distances(element_distances(surfaces), spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
    counts = [
        count_codes(own.mask, own.borders, _find_beyond(own.borders, other.borders, rows))
        for own, other in ((a, b), (b, a))
    ]
    step = CODE_OF_ROWS if surfaces.is_flat else 1
    return SurfaceOverlap(
        num_reference=counts[0][0][::step],
        num_reference_beyond=counts[0][1][::step],
        num_predicted=counts[1][0][::step],
        num_predicted_beyond=counts[1][1][::step],
        spacing_mm=spacing_mm,
        tolerance_mm=tolerance_mm,
    )


def overlap_of_distances(
    distances: tuple[ElementDistances, ElementDistances], *, spacing_mm: tuple[float, ...], tolerance_mm: float
) -> SurfaceOverlap:
    """Count elements whose distances are known."""
    num_codes = len(surfel_areas(spacing_mm))
    # Every distance is more than -1.
    counts = [one.count_beyond(limit_mm, num_codes=num_codes) for one in distances for limit_mm in (-1.0, tolerance_mm)]
    return SurfaceOverlap(
        num_reference=counts[0],
        num_reference_beyond=counts[1],
        num_predicted=counts[2],
        num_predicted_beyond=counts[3],
        spacing_mm=spacing_mm,
        tolerance_mm=tolerance_mm,
    )


def _tolerance_rows(
    shape: tuple[int, ...], spacing_mm: tuple[float, float, float], tolerance_mm: float
) -> NDArray[np.int64] | None:
    """Return the ball of the tolerance as rows (dz, dy, half width in x), nearest first; None if it is too large.

    The float64 arithmetic is that of the distances themselves, so that a grid distance equal to the tolerance is in.
    """
    sizes = (shape[0], shape[1], 64 * shape[2])
    # One more than the quotient: rounding may have made it too small.
    reach = [int(min(size - 1, tolerance_mm / step + 1)) for size, step in zip(sizes, spacing_mm, strict=True)]
    if reach[2] > _MAX_HALF_WIDTH or (2 * reach[0] + 1) * (2 * reach[1] + 1) > _MAX_ROWS:
        return None
    return _rows_of_ball((reach[0], reach[1], reach[2]), spacing_mm, tolerance_mm)


@lru_cache(maxsize=64)
def _rows_of_ball(
    reach: tuple[int, int, int], spacing_mm: tuple[float, float, float], tolerance_mm: float
) -> NDArray[np.int64]:
    dz, dy = (a.ravel() for a in np.mgrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1])
    squares = (dz * spacing_mm[0]) ** 2 + (dy * spacing_mm[1]) ** 2
    along_x = (np.arange(reach[2] + 1) * spacing_mm[2]) ** 2
    half_widths = np.count_nonzero(np.sqrt(squares[:, None] + along_x) <= tolerance_mm, axis=1) - 1
    order = np.argsort(squares, kind="stable")
    order = order[half_widths[order] >= 0]
    return np.ascontiguousarray(np.stack([dz, dy, half_widths], axis=1)[order], dtype=np.int64)


def _find_beyond(
    borders: NDArray[np.uint64], targets: NDArray[np.uint64], rows: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return the elements of `borders` that have no element of `targets` in the ball of `rows`."""
    beyond = borders.copy()
    # Of the nearest rows all elements of a slice at once, until so many that most are gone.
    num_at_once = np.searchsorted(np.cumsum(rows[:, 2] + 1), _MAX_PASSES, side="right")
    _remove_at_once(beyond, targets, rows[:num_at_once])
    _remove_by_word(beyond, targets, rows[num_at_once:])
    return beyond


@compiled_in_place
def _remove_at_once(elements: NDArray[np.uint64], targets: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
    """Remove elements with a target in a row of the ball: in simple loops, which become vector instructions.

    All rows of a slice are passed as one: there are bits only up to the first one of the last word of a row, and
    nothing is spread so far that it could come from there to the next row or back.
    """
    size_z, size_y, _ = elements.shape
    for z in range(size_z):
        for r in range(rows.shape[0]):
            dz, dy, half_width = rows[r]
            if 0 <= z + dz < size_z and abs(dy) < size_y:
                y, stop = max(0, -dy), min(size_y, size_y - dy)
                left = elements[z, y:stop].reshape(-1)
                there = targets[z + dz, y + dy : stop + dy].reshape(-1)
                left_1, there_1 = left[1:], there[1:]
                for i in range(left.size):
                    left[i] &= ~there[i]
                for step in range(1, half_width + 1):
                    near, far = np.uint64(step), np.uint64(64 - step)
                    for i in range(left.size):
                        left[i] &= ~((there[i] << near) | (there[i] >> near))
                    for i in range(left_1.size):
                        left_1[i] &= ~(there[i] >> far)
                    for i in range(left_1.size):
                        left[i] &= ~(there_1[i] << far)


@compiled_in_place
def _remove_by_word(elements: NDArray[np.uint64], targets: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
    """Remove elements with a target in a row of the ball: word by word, only while there are any."""
    size_z, size_y, num_words = elements.shape
    for z in range(size_z):
        for y in range(size_y):
            for w in range(num_words):
                left = elements[z, y, w]
                r = 0
                while left != np.uint64(0) and r < rows.shape[0]:
                    other_z, other_y = z + rows[r, 0], y + rows[r, 1]
                    if 0 <= other_z < size_z and 0 <= other_y < size_y:
                        left &= ~_widened(targets, (other_z, other_y, w), rows[r, 2])
                    r += 1
                elements[z, y, w] = left


@compiled_in_place
def _widened(targets: NDArray[np.uint64], at: tuple[int, int, int], half_width: int) -> np.uint64:
    """Return a word (z, y, w) of bits after every bit of its row was spread by at most 63 to both sides."""
    z, y, w, one = np.uint64(at[0]), np.uint64(at[1]), np.uint64(at[2]), np.uint64(1)
    here: np.uint64 = targets[z, y, w]
    before = targets[z, y, w - one] if at[2] > 0 else np.uint64(0)
    after = targets[z, y, w + one] if at[2] + 1 < targets.shape[2] else np.uint64(0)
    wide: np.uint64 = here
    if here | before | after == np.uint64(0):
        return wide
    for step in range(1, half_width + 1):
        near, far = np.uint64(step), np.uint64(64 - step)
        wide |= (here << near) | (here >> near) | (before >> far) | (after << far)
    return wide
