"""The distance of every surface element to the nearest element of another surface, exactly.

Most elements of two masks that resemble each other have a near one: 64 of them are looked at together, step by step
outwards. The others are searched block by block, nearest blocks first.

A distance is the float64 value of sqrt(((dz sz)^2 + (dy sy)^2) + (dx sx)^2) with whole steps dz, dy and dx. Rounding
never changes the order of two numbers, so bounds that are calculated in the same way from fewer steps are no larger:
leaving out what they exclude changes no bit of a result.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled
from kernels.intrinsics import lesser, lowest_bit
from kernels.surface_elements import NUM_CODES, count_codes, neighbour_code, surfel_areas

# Steps outwards that are taken for 64 elements together; after so many in vain the rest are searched in blocks.
_REACH = (8, 8, 31)
_IN_VAIN = 16
# Blocks are cubes of this many of the smallest spacing; this many of them along each axis have a bound in common.
_BLOCK_EDGE = 12
_BLOCKS_A_GROUP = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ElementDistances:
    """Elements of one surface, some of those that are alike together, in no order."""

    distances_mm: NDArray[np.float64]
    """Shape (N,): to the nearest element of the other surface; infinite if it has none."""
    codes: NDArray[np.uint8]
    """Shape (N,): neighbour codes."""
    areas_mm2: NDArray[np.float64]
    """Shape (N,): area of each single element."""
    counts: NDArray[np.int64]
    """Shape (N,): how many elements these are."""

    def sorted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the distances in mm and areas in mm^2 of all single elements, by distance and then by area."""
        order = np.lexsort((self.areas_mm2, self.distances_mm))
        counts = self.counts[order]
        return np.repeat(self.distances_mm[order], counts), np.repeat(self.areas_mm2[order], counts)

    def count_beyond(self, tolerance_mm: float) -> NDArray[np.int64]:
        """Count the elements farther away than the tolerance by neighbour code, shape (256,)."""
        counts = np.zeros(NUM_CODES, np.int64)
        is_beyond = self.distances_mm > tolerance_mm
        np.add.at(counts, self.codes[is_beyond], self.counts[is_beyond])
        return counts


NO_ELEMENTS = ElementDistances(
    distances_mm=np.zeros(0), codes=np.zeros(0, np.uint8), areas_mm2=np.zeros(0), counts=np.zeros(0, np.int64)
)
"""Those of an empty mask."""


def element_distances(
    mask: NDArray[np.uint64],
    borders: NDArray[np.uint64],
    targets: NDArray[np.uint64],
    *,
    spacing_mm: tuple[float, float, float],
) -> ElementDistances:
    """Measure the elements of one surface.

    Parameters
    ----------
    mask : packed mask that the elements are of, uint64, shape (z + 2, y + 2, words)
    borders, targets : its elements and those of the other surface, uint64, shape (z + 1, y + 1, words)
    spacing_mm : (z, y, x)
    """
    steps, squares = _steps_outwards(spacing_mm)
    near, left = _count_near(mask, borders, targets, steps)
    rank, codes = np.nonzero(near)
    all_squares, all_codes, all_counts = [squares[rank]], [codes.astype(np.uint8)], [near[rank, codes]]
    if left.any():
        edge = _BLOCK_EDGE * min(spacing_mm)
        size_z, size_y, size_x = (max(1, round(edge / step)) for step in spacing_mm)
        elements = _blocks(left, (size_z, size_y, size_x))
        all_squares.append(_search(elements, _blocks(targets, (size_z, size_y, size_x)), np.array(spacing_mm)))
        all_codes.append(_codes_of(mask, elements.points))
        all_counts.append(np.ones(len(all_codes[-1]), np.int64))
    element_codes = np.concatenate(all_codes)
    return ElementDistances(
        distances_mm=np.sqrt(np.concatenate(all_squares)),
        codes=element_codes,
        areas_mm2=surfel_areas(spacing_mm)[element_codes],
        counts=np.concatenate(all_counts),
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


@compiled
def _count_near(
    mask: NDArray[np.uint64],
    borders: NDArray[np.uint64],
    targets: NDArray[np.uint64],
    steps: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Count elements at the first step that leads to a target by neighbour code, shape (steps, 256).

    Those that no step leads from are returned as bits.
    """
    size_z, size_y, num_words = borders.shape
    counts = np.zeros((steps.shape[0], NUM_CODES), np.int64)
    left_over = np.empty_like(borders)
    codes = np.empty(64, np.uint8)
    for z in range(size_z):
        for y in range(size_y):
            for w in range(num_words):
                left = borders[z, y, w]
                last_hit = 0
                k = 0
                while left != np.uint64(0) and k < steps.shape[0] and k - last_hit <= _IN_VAIN:
                    other_z, other_y = z + steps[k, 0], y + steps[k, 1]
                    if 0 <= other_z < size_z and 0 <= other_y < size_y:
                        hits = left & _beside(targets[other_z, other_y], w, steps[k, 2])
                        if hits != np.uint64(0):
                            count_codes(mask, (z, y, w), hits, counts[k], codes)
                            left &= ~hits
                            last_hit = k
                    k += 1
                left_over[z, y, w] = left
    return counts, left_over


@compiled
def _beside(row: NDArray[np.uint64], w: int, dx: int) -> np.uint64:
    """Return which bits of word w have a set bit of the row exactly dx, 0 to 63, to the left or right of them."""
    word: np.uint64 = row[w]
    if dx == 0:
        return word
    near, far = np.uint64(dx), np.uint64(64 - dx)
    beside = (word << near) | (word >> near)
    if w > 0:
        beside |= row[w - 1] >> far
    if w + 1 < row.size:
        beside |= row[w + 1] << far
    return beside


class _Blocks(NamedTuple):
    """Elements sorted into blocks and blocks into groups, without empty ones."""

    points: NDArray[np.float64]
    """Shape (3, elements): z, y, x, those of a block together."""
    ends: NDArray[np.int64]
    """Shape (blocks + 1,): first point of each block, then the number of points."""
    boxes: NDArray[np.float64]
    """Shape (blocks, 6): first and last z, y and x."""
    group_ends: NDArray[np.int64]
    """Shape (groups + 1,): first block of each group, then the number of blocks."""
    group_boxes: NDArray[np.float64]
    """Shape (groups, 6)."""


def _blocks(elements: NDArray[np.uint64], shape: tuple[int, int, int]) -> _Blocks:
    points, stops = _sorted_into_blocks(elements, shape)
    sizes = np.diff(stops, prepend=0)
    occupied = np.flatnonzero(sizes)
    firsts = (stops - sizes)[occupied]
    group_firsts = np.flatnonzero(np.diff(occupied // _BLOCKS_A_GROUP**3, prepend=-1))
    boxes = np.empty((len(firsts), 6))
    group_boxes = np.empty((len(group_firsts), 6))
    if len(firsts):
        boxes[:, 0::2] = np.minimum.reduceat(points, firsts, axis=1).T
        boxes[:, 1::2] = np.maximum.reduceat(points, firsts, axis=1).T
        group_boxes[:, 0::2] = np.minimum.reduceat(boxes[:, 0::2], group_firsts)
        group_boxes[:, 1::2] = np.maximum.reduceat(boxes[:, 1::2], group_firsts)
    return _Blocks(
        points=points,
        ends=np.append(firsts, points.shape[1]),
        boxes=boxes,
        group_ends=np.append(group_firsts, len(firsts)),
        group_boxes=group_boxes,
    )


@compiled
def _sorted_into_blocks(
    elements: NDArray[np.uint64], shape: tuple[int, int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the points (z, y, x), shape (3, elements), and where those of each block end, group by group."""
    size_z, size_y, num_words = elements.shape
    edge = _BLOCKS_A_GROUP
    groups_z = (size_z - 1) // (shape[0] * edge) + 1
    groups_y = (size_y - 1) // (shape[1] * edge) + 1
    groups_x = (64 * num_words - 1) // (shape[2] * edge) + 1
    places = np.zeros(groups_z * groups_y * groups_x * edge**3, np.int64)
    points = np.empty((3, 0), np.float64)
    # The first round counts; with the sums of the counts the second one knows the place of every point.
    for is_counting in (True, False):
        if not is_counting:
            sums = np.cumsum(places)
            points = np.empty((3, sums[-1]), np.float64)
            places = sums - places
        for z in range(size_z):
            for y in range(size_y):
                for w in range(num_words):
                    left = elements[z, y, w]
                    while left != np.uint64(0):
                        x = 64 * w + lowest_bit(left)
                        left &= left - np.uint64(1)
                        bz, by, bx = z // shape[0], y // shape[1], x // shape[2]
                        group = ((bz // edge) * groups_y + by // edge) * groups_x + bx // edge
                        block = ((group * edge + bz % edge) * edge + by % edge) * edge + bx % edge
                        if not is_counting:
                            points[0, places[block]], points[1, places[block]], points[2, places[block]] = z, y, x
                        places[block] += 1
    return points, places


@compiled
def _least_square(a: NDArray[np.float64], b: NDArray[np.float64], spacing_mm: NDArray[np.float64]) -> float:
    """Return a lower bound of the squared distances between the points of two boxes."""
    dz = max(0.0, a[0] - b[1], b[0] - a[1]) * spacing_mm[0]
    dy = max(0.0, a[2] - b[3], b[2] - a[3]) * spacing_mm[1]
    dx = max(0.0, a[4] - b[5], b[4] - a[5]) * spacing_mm[2]
    return float((dz * dz + dy * dy) + dx * dx)


@compiled
def _largest_square(a: NDArray[np.float64], b: NDArray[np.float64], spacing_mm: NDArray[np.float64]) -> float:
    """Return an upper bound of the squared distances between the points of two boxes."""
    dz = max(a[1] - b[0], b[1] - a[0]) * spacing_mm[0]
    dy = max(a[3] - b[2], b[3] - a[2]) * spacing_mm[1]
    dx = max(a[5] - b[4], b[5] - a[4]) * spacing_mm[2]
    return float((dz * dz + dy * dy) + dx * dx)


@compiled
def _least_of_points(
    points: NDArray[np.float64], first: int, stop: int, place: NDArray[np.float64], spacing_mm: NDArray[np.float64]
) -> float:
    """Return the least squared distance of a point, given as a box, to some of the points."""
    step_z, step_y, step_x = spacing_mm[0], spacing_mm[1], spacing_mm[2]
    z, y, x = place[0], place[2], place[4]
    all_z, all_y, all_x = points[0, first:stop], points[1, first:stop], points[2, first:stop]
    best = np.inf
    for i in range(all_z.size):
        dz, dy, dx = (all_z[i] - z) * step_z, (all_y[i] - y) * step_y, (all_x[i] - x) * step_x
        best = lesser((dz * dz + dy * dy) + dx * dx, best)
    return best


@compiled
def _candidates(
    box: NDArray[np.float64], targets: _Blocks, spacing_mm: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the blocks that may hold the target nearest to a point of a box, nearest first, and their lower bounds."""
    enough = np.inf
    for group_box in targets.group_boxes:
        enough = min(enough, _largest_square(box, group_box, spacing_mm))
    candidates = np.empty(len(targets.boxes), np.int64)
    bounds = np.empty(len(targets.boxes), np.float64)
    num_candidates = 0
    for g in range(len(targets.group_boxes)):
        if _least_square(box, targets.group_boxes[g], spacing_mm) <= enough:
            for t in range(targets.group_ends[g], targets.group_ends[g + 1]):
                least = _least_square(box, targets.boxes[t], spacing_mm)
                if least <= enough:
                    enough = min(enough, _largest_square(box, targets.boxes[t], spacing_mm))
                    candidates[num_candidates] = t
                    bounds[num_candidates] = least
                    num_candidates += 1
    num_kept = 0
    for c in range(num_candidates):
        if bounds[c] <= enough:
            least, t = bounds[c], candidates[c]
            place = num_kept
            while place > 0 and bounds[place - 1] > least:
                bounds[place], candidates[place] = bounds[place - 1], candidates[place - 1]
                place -= 1
            bounds[place], candidates[place] = least, t
            num_kept += 1
    return candidates[:num_kept], bounds[:num_kept]


@compiled
def _search(elements: _Blocks, targets: _Blocks, spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least squared distance of each element, in the order of `elements`, to a target."""
    squares = np.empty(elements.points.shape[1], np.float64)
    place = np.empty(6, np.float64)
    for b in range(len(elements.boxes)):
        candidates, bounds = _candidates(elements.boxes[b], targets, spacing_mm)
        for i in range(elements.ends[b], elements.ends[b + 1]):
            for axis in range(3):
                place[2 * axis] = place[2 * axis + 1] = elements.points[axis, i]
            best = np.inf
            for c in range(candidates.size):
                if bounds[c] >= best:
                    break
                t = candidates[c]
                if _least_square(place, targets.boxes[t], spacing_mm) < best:
                    own = _least_of_points(targets.points, targets.ends[t], targets.ends[t + 1], place, spacing_mm)
                    best = min(best, own)
            squares[i] = best
    return squares


@compiled
def _codes_of(mask: NDArray[np.uint64], points: NDArray[np.float64]) -> NDArray[np.uint8]:
    codes = np.empty(points.shape[1], np.uint8)
    for i in range(codes.size):
        codes[i] = neighbour_code(mask, int(points[0, i]), int(points[1, i]), int(points[2, i]))
    return codes
