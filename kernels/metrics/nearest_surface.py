"""The distance of every surface element to the nearest element of another surface, exactly.

Most elements of two masks that resemble each other have a near one: 64 of them are looked at together, step by step
outwards. The others are searched block by block.

A distance is the float64 value of sqrt(((dz sz)^2 + (dy sy)^2) + (dx sx)^2) with whole steps dz, dy and dx, the least
over all elements of the other surface.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled, compiled_in_place
from kernels.llvm.intrinsics import lowest_bit
from kernels.metrics.block_search import search_blocks
from kernels.metrics.surface_elements import NUM_CODES, codes_of_word
from kernels.metrics.surfaces import Surface, Surfaces

# Steps outwards that are taken for 64 elements together; after so many in vain the rest are searched in blocks, and
# sooner beside elements for which none was of use.
_REACH = (8, 8, 31)
_IN_VAIN = 16
_IN_VAIN_BESIDE = 2
_ADDED_ONE_BY_ONE = 256

DistanceArrays = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""Distances in mm, areas in mm^2 and counts of elements."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ElementDistances:
    """Elements of one surface, some of those that are alike together, in no order."""

    distances_mm: NDArray[np.float64]
    """Shape (N,): to the nearest element of the other surface; infinite if it has none."""
    codes: NDArray[np.uint8]
    """Shape (N,): neighbour codes, of eight voxels or, in the plane, of four; 0 for voxels that count as such."""
    areas_mm2: NDArray[np.float64]
    """Shape (N,): area of each single element, its length in mm in the plane, 1 for voxels that count as such."""
    counts: NDArray[np.int64]
    """Shape (N,): how many elements these are."""

    def sorted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the distances in mm and areas in mm^2 of all single elements, by distance and then by area."""
        order = np.lexsort((self.areas_mm2, self.distances_mm))
        counts = self.counts[order]
        return np.repeat(self.distances_mm[order], counts), np.repeat(self.areas_mm2[order], counts)

    def count_beyond(self, tolerance_mm: float, *, num_codes: int) -> NDArray[np.int64]:
        """Count the elements farther away than the tolerance by neighbour code, shape (num_codes,)."""
        counts = np.zeros(num_codes, np.int64)
        is_beyond = self.distances_mm > tolerance_mm
        np.add.at(counts, self.codes[is_beyond], self.counts[is_beyond])
        return counts


NO_ELEMENTS = ElementDistances(
    distances_mm=np.zeros(0), codes=np.zeros(0, np.uint8), areas_mm2=np.zeros(0), counts=np.zeros(0, np.int64)
)
"""Those of an empty mask."""


def mean_distance(*surfaces: ElementDistances) -> float:
    """Return the mean distance in mm of all elements by what they count; NaN if there are none."""
    sums = [_sums((elements.distances_mm, elements.areas_mm2, elements.counts)) for elements in surfaces]
    area, moment = (sum(column) for column in zip(*sums, strict=True))
    return moment / area if area > 0 else math.nan


@compiled_in_place
def _sums(arrays: DistanceArrays) -> tuple[float, float]:
    """Return the area of all elements, and the sum of their distances times areas."""
    distances, areas, counts = arrays
    area = moment = 0.0
    # Sums of sums: a hundred thousand numbers added one after the other lose four digits.
    for start in range(0, distances.size, _ADDED_ONE_BY_ONE):
        area_here = moment_here = 0.0
        for i in range(start, min(start + _ADDED_ONE_BY_ONE, distances.size)):
            own = areas[i] * counts[i]
            area_here += own
            moment_here += distances[i] * own
        area += area_here
        moment += moment_here
    return area, moment


def element_distances(surfaces: Surfaces) -> tuple[ElementDistances, ElementDistances]:
    """Measure the elements of the reference's surface and those of the prediction's, each from the other one."""
    a, b = surfaces.reference, surfaces.prediction
    return _measure(a, b.borders, surfaces), _measure(b, a.borders, surfaces)


def _measure(surface: Surface, targets: NDArray[np.uint64], surfaces: Surfaces) -> ElementDistances:
    mask, borders = surface.mask, surface.borders
    steps, squares = _steps_outwards(surfaces.steps_mm)
    counts, left_over = np.zeros((len(steps), NUM_CODES), np.int64), np.zeros_like(borders)
    patience = np.full(borders.shape[2], _IN_VAIN)
    num_steps = _count_near(mask, borders, targets, steps, counts, left_over, patience, np.empty(64, np.uint8))
    ranks, codes, numbers = _entries(counts[:num_steps])
    square = squares[ranks]
    if left_over.any():
        far_square, far_codes = search_blocks(mask, left_over, targets, surfaces.steps_mm)
        square, codes = np.concatenate([square, far_square]), np.concatenate([codes, far_codes])
        numbers = np.concatenate([numbers, np.ones_like(far_codes, np.int64)])
    return ElementDistances(
        distances_mm=np.sqrt(square),
        codes=codes % 16 if surfaces.is_flat else codes,
        areas_mm2=surfaces.sizes.take(codes),
        counts=numbers,
    )


@lru_cache(maxsize=64)
def _steps_outwards(spacing_mm: tuple[float, float, float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps (dz, dy, dx >= 0) up to a distance, all of them, nearest first, and their squares in mm^2."""
    dz, dy, dx = (
        axis.ravel() for axis in np.mgrid[-_REACH[0] : _REACH[0] + 1, -_REACH[1] : _REACH[1] + 1, 0 : _REACH[2] + 1]
    )
    squares = ((dz * spacing_mm[0]) ** 2 + (dy * spacing_mm[1]) ** 2) + (dx * spacing_mm[2]) ** 2
    complete = min(((reach + 1) * step) ** 2 for reach, step in zip(_REACH, spacing_mm, strict=True))
    order = np.argsort(squares, kind="stable")
    order = order[squares[order] < complete]
    return np.stack([dz, dy, dx], axis=1)[order].astype(np.int64), squares[order]


@compiled_in_place
def _count_near(
    mask: NDArray[np.uint64],
    borders: NDArray[np.uint64],
    targets: NDArray[np.uint64],
    steps: NDArray[np.int64],
    counts: NDArray[np.int64],
    left_over: NDArray[np.uint64],
    patience: NDArray[np.int64],
    codes: NDArray[np.uint8],
) -> int:
    """Count elements at the first step that leads to a target by neighbour code: `counts`, shape (steps, 256), zeros.

    Those that no step leads from are left as bits in `left_over`, zeros. `patience`, a number for a word of a
    row, and `codes`, shape (64,), are room. Returns how many steps were of use, with those before them.
    """
    num_steps = 0
    size_z, size_y, num_words = borders.shape
    for z in range(size_z):
        for y in range(size_y):
            for w in range(num_words):
                left = borders[z, y, w]
                if left == np.uint64(0):
                    continue
                last_hit = -1
                k = 0
                while left != np.uint64(0) and k < steps.shape[0] and k - last_hit <= patience[w]:
                    other_z, other_y = z + steps[k, 0], y + steps[k, 1]
                    if 0 <= other_z < size_z and 0 <= other_y < size_y:
                        hits = left & _beside(targets, (other_z, other_y, w), steps[k, 2])
                        if hits != np.uint64(0):
                            if last_hit < 0:
                                codes_of_word(mask, (z, y, w), codes)
                            last_hit = k
                            left &= ~hits
                            while hits != np.uint64(0):
                                counts[k, codes[lowest_bit(hits)]] += 1
                                hits &= hits - np.uint64(1)
                    k += 1
                left_over[z, y, w] = left
                num_steps = max(num_steps, last_hit + 1)
                patience[w] = _IN_VAIN if left == np.uint64(0) or last_hit > 0 else _IN_VAIN_BESIDE
    return num_steps


# Indices without a sign, since Numba looks for negative ones.
@compiled_in_place
def _beside(targets: NDArray[np.uint64], at: tuple[int, int, int], dx: int) -> np.uint64:
    """Return which bits of a word (z, y, w) have a set bit of its row exactly dx, 0 to 63, to the left or right."""
    z, y, w, one = np.uint64(at[0]), np.uint64(at[1]), np.uint64(at[2]), np.uint64(1)
    word: np.uint64 = targets[z, y, w]
    if dx == 0:
        return word
    near, far = np.uint64(dx), np.uint64(64 - dx)
    beside: np.uint64 = (word << near) | (word >> near)
    if at[2] > 0:
        beside |= targets[z, y, w - one] >> far
    if at[2] + 1 < targets.shape[2]:
        beside |= targets[z, y, w + one] << far
    return beside


@compiled
def _entries(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Return step, code and number of all counts above 0."""
    num_entries = np.count_nonzero(counts)
    ranks, codes = np.empty(num_entries, np.int64), np.empty(num_entries, np.uint8)
    numbers = np.empty(num_entries, np.int64)
    place = 0
    for k in range(counts.shape[0]):
        for code in range(counts.shape[1]):
            if counts[k, code] > 0:
                ranks[place], codes[place], numbers[place] = k, code, counts[k, code]
                place += 1
    return ranks, codes, numbers
