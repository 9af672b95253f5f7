"""The distance of every surface element to the nearest element of another surface, exactly.

Most elements of two masks that resemble each other have a near one: 64 of them are looked at together, step by step
outwards. The others are searched block by block, nearest blocks first.

A distance is the float64 value of sqrt(((dz sz)^2 + (dy sy)^2) + (dx sx)^2) with whole steps dz, dy and dx. Rounding
never changes the order of two numbers, so bounds that are calculated in the same way from fewer steps are no larger:
leaving out what they exclude changes no bit of a result.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled
from kernels.intrinsics import greater, lesser, lowest_bit, popcount
from kernels.surface_elements import NUM_CODES, codes_of_word, count_codes, surfel_areas

# Steps outwards that are taken for 64 elements together; after so many in vain the rest are searched in blocks, and
# sooner beside elements for which none was of use.
_REACH = (8, 8, 31)
_IN_VAIN = 16
_IN_VAIN_BESIDE = 2
# Blocks are cubes of this many of the smallest spacing; this many of them along each axis have a bound in common.
_BLOCK_EDGE = 16
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
        shape = _block_shape(spacing_mm)
        elements = _blocks(left, shape)
        all_squares.append(_search(elements, _blocks(targets, shape), np.array(spacing_mm)))
        all_codes.append(_codes_of(mask, elements.runs))
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
    patience = np.full(num_words, _IN_VAIN)
    for z in range(size_z):
        for y in range(size_y):
            for w in range(num_words):
                left = borders[z, y, w]
                last_hit = 0
                k = 0
                while left != np.uint64(0) and k < steps.shape[0] and k - last_hit <= patience[w]:
                    other_z, other_y = z + steps[k, 0], y + steps[k, 1]
                    if 0 <= other_z < size_z and 0 <= other_y < size_y:
                        hits = left & _beside(targets[other_z, other_y], w, steps[k, 2])
                        if hits != np.uint64(0):
                            count_codes(mask, (z, y, w), hits, counts[k], codes)
                            left &= ~hits
                            last_hit = k
                    k += 1
                left_over[z, y, w] = left
                if k > 0:
                    patience[w] = _IN_VAIN if left == np.uint64(0) or last_hit > 0 else _IN_VAIN_BESIDE
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
    """Elements as runs along x, sorted into blocks and blocks into groups, without empty ones."""

    runs: NDArray[np.float64]
    """Shape (4, runs): z, y, first and last x, those of a block together; no run leaves its block."""
    ends: NDArray[np.int64]
    """Shape (blocks + 1,): first run of each block, then the number of runs."""
    boxes: NDArray[np.float64]
    """Shape (6, blocks): first and last z, y and x."""
    group_ends: NDArray[np.int64]
    """Shape (groups + 1,): first block of each group, then the number of blocks."""
    group_boxes: NDArray[np.float64]
    """Shape (6, groups)."""
    room: NDArray[np.float64]
    """For one number a run of any block."""


def _block_shape(spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return the size of a block in elements; that along x divides a word."""
    edge = _BLOCK_EDGE * min(spacing_mm)
    size_z, size_y, size_x = (max(1, round(edge / step)) for step in spacing_mm)
    return size_z, size_y, 1 << min(6, round(math.log2(size_x)))


def _blocks(elements: NDArray[np.uint64], shape: tuple[int, int, int]) -> _Blocks:
    runs, stops = _sorted_into_blocks(elements, shape)
    sizes = np.diff(stops, prepend=0)
    occupied = np.flatnonzero(sizes)
    firsts = (stops - sizes)[occupied]
    group_firsts = np.flatnonzero(np.diff(occupied // _BLOCKS_A_GROUP**3, prepend=-1))
    boxes = np.empty((6, len(firsts)))
    group_boxes = np.empty((6, len(group_firsts)))
    if len(firsts):
        boxes[0::2] = np.minimum.reduceat(runs[:3], firsts, axis=1)
        boxes[1::2] = np.maximum.reduceat(runs[[0, 1, 3]], firsts, axis=1)
        group_boxes[0::2] = np.minimum.reduceat(boxes[0::2], group_firsts, axis=1)
        group_boxes[1::2] = np.maximum.reduceat(boxes[1::2], group_firsts, axis=1)
    return _Blocks(
        runs=runs,
        ends=np.append(firsts, runs.shape[1]),
        boxes=boxes,
        group_ends=np.append(group_firsts, len(firsts)),
        group_boxes=group_boxes,
        room=np.empty(sizes.max(initial=0)),
    )


@compiled
def _add_runs(bits: np.uint64, start: tuple[int, int, int], runs: NDArray[np.float64], place: int) -> int:
    """Write the runs of bits of a block's row from a place on; returns the place after them."""
    first, last = bits & ~(bits << np.uint64(1)), bits & ~(bits >> np.uint64(1))
    while first != np.uint64(0):
        runs[0, place], runs[1, place] = start[0], start[1]
        runs[2, place], runs[3, place] = start[2] + lowest_bit(first), start[2] + lowest_bit(last)
        first &= first - np.uint64(1)
        last &= last - np.uint64(1)
        place += 1
    return place


@compiled
def _sorted_into_blocks(
    elements: NDArray[np.uint64], shape: tuple[int, int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the runs (z, y, first x, last x), shape (4, runs), and where those of each block end, group by group."""
    size_z, size_y, num_words = elements.shape
    edge = _BLOCKS_A_GROUP
    groups_z = (size_z - 1) // (shape[0] * edge) + 1
    groups_y = (size_y - 1) // (shape[1] * edge) + 1
    blocks_a_word = 64 // shape[2]
    groups_x = (blocks_a_word * num_words - 1) // edge + 1
    in_block = ~np.uint64(0) >> np.uint64(64 - shape[2])
    places = np.zeros(groups_z * groups_y * groups_x * edge**3, np.int64)
    runs = np.empty((4, 0), np.float64)
    # The first round counts; with the sums of the counts the second one knows the place of every run.
    for is_counting in (True, False):
        if not is_counting:
            sums = np.cumsum(places)
            runs = np.empty((4, sums[-1]), np.float64)
            places = sums - places
        for z in range(size_z):
            group_z, block_z = z // shape[0] // edge, z // shape[0] % edge
            for y in range(size_y):
                group_y, block_y = y // shape[1] // edge, y // shape[1] % edge
                for w in range(num_words):
                    word = elements[z, y, w]
                    if word == np.uint64(0):
                        continue
                    for part in range(blocks_a_word):
                        bits = (word >> np.uint64(part * shape[2])) & in_block
                        bx = w * blocks_a_word + part
                        group = (group_z * groups_y + group_y) * groups_x + bx // edge
                        block = ((group * edge + block_z) * edge + block_y) * edge + bx % edge
                        if is_counting:
                            places[block] += popcount(bits & ~(bits << np.uint64(1)))
                        else:
                            places[block] = _add_runs(bits, (z, y, bx * shape[2]), runs, places[block])
    return runs, places


@compiled
def _least_square(a: NDArray[np.float64], boxes: NDArray[np.float64], b: int, spacing_mm: NDArray[np.float64]) -> float:
    """Return a lower bound of the squared distances between the points of a box and of one of many."""
    dz = greater(greater(a[0] - boxes[1, b], boxes[0, b] - a[1]), 0.0) * spacing_mm[0]
    dy = greater(greater(a[2] - boxes[3, b], boxes[2, b] - a[3]), 0.0) * spacing_mm[1]
    dx = greater(greater(a[4] - boxes[5, b], boxes[4, b] - a[5]), 0.0) * spacing_mm[2]
    return float((dz * dz + dy * dy) + dx * dx)


@compiled
def _largest_square(
    a: NDArray[np.float64], boxes: NDArray[np.float64], b: int, spacing_mm: NDArray[np.float64]
) -> float:
    """Return an upper bound of the squared distances between the points of a box and of one of many."""
    dz = greater(a[1] - boxes[0, b], boxes[1, b] - a[0]) * spacing_mm[0]
    dy = greater(a[3] - boxes[2, b], boxes[3, b] - a[2]) * spacing_mm[1]
    dx = greater(a[5] - boxes[4, b], boxes[5, b] - a[4]) * spacing_mm[2]
    return float((dz * dz + dy * dy) + dx * dx)


@compiled
def _candidates(box: NDArray[np.float64], targets: _Blocks, spacing_mm: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the blocks that may hold the target nearest to a point of a box, nearest blocks first."""
    enough = np.inf
    for g in range(targets.group_boxes.shape[1]):
        enough = lesser(_largest_square(box, targets.group_boxes, g, spacing_mm), enough)
    candidates = np.empty(targets.boxes.shape[1], np.int64)
    bounds = np.empty(targets.boxes.shape[1], np.float64)
    num_candidates = 0
    for g in range(targets.group_boxes.shape[1]):
        if _least_square(box, targets.group_boxes, g, spacing_mm) <= enough:
            for t in range(targets.group_ends[g], targets.group_ends[g + 1]):
                least = _least_square(box, targets.boxes, t, spacing_mm)
                if least <= enough:
                    enough = lesser(_largest_square(box, targets.boxes, t, spacing_mm), enough)
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
    return candidates[:num_kept]


@compiled
def _improve(
    best: NDArray[np.float64], run: NDArray[np.float64], targets: _Blocks, t: int, spacing_mm: NDArray[np.float64]
) -> float:
    """Lower the squared distances of the elements of a run to those to one block of targets; returns the largest."""
    step_z, step_y, step_x = spacing_mm[0], spacing_mm[1], spacing_mm[2]
    first, stop = targets.ends[t], targets.ends[t + 1]
    all_z, all_y = targets.runs[0, first:stop], targets.runs[1, first:stop]
    all_first, all_last = targets.runs[2, first:stop], targets.runs[3, first:stop]
    # The part of the sums that the elements of the run have in common.
    planes = targets.room[: stop - first]
    has_planes = False
    largest = 0.0
    first_x, last_x = targets.boxes[4, t], targets.boxes[5, t]
    dz = greater(greater(run[0] - targets.boxes[1, t], targets.boxes[0, t] - run[0]), 0.0) * step_z
    dy = greater(greater(run[2] - targets.boxes[3, t], targets.boxes[2, t] - run[2]), 0.0) * step_y
    nearest_plane = dz * dz + dy * dy
    for j in range(best.size):
        x = run[4] + j
        least = best[j]
        gap = greater(greater(first_x - x, x - last_x), 0.0) * step_x
        if nearest_plane + gap * gap < least:
            if not has_planes:
                has_planes = True
                for i in range(planes.size):
                    dz, dy = (all_z[i] - run[0]) * step_z, (all_y[i] - run[2]) * step_y
                    planes[i] = dz * dz + dy * dy
            for i in range(planes.size):
                dx = greater(greater(all_first[i] - x, x - all_last[i]), 0.0) * step_x
                least = lesser(planes[i] + dx * dx, least)
            best[j] = least
        largest = greater(least, largest)
    return largest


@compiled
def _search(elements: _Blocks, targets: _Blocks, spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least squared distance of each element, run by run, to a target."""
    squares = np.full(_count_elements(elements.runs), np.inf)
    bounds = np.empty(targets.boxes.shape[1], np.float64)
    run = np.empty(6, np.float64)
    start = 0
    for b in range(elements.boxes.shape[1]):
        candidates = _candidates(elements.boxes[:, b], targets, spacing_mm)
        boxes = np.empty((6, candidates.size), np.float64)
        for c in range(candidates.size):
            boxes[:, c] = targets.boxes[:, candidates[c]]
        for r in range(elements.ends[b], elements.ends[b + 1]):
            run[0] = run[1] = elements.runs[0, r]
            run[2] = run[3] = elements.runs[1, r]
            run[4], run[5] = elements.runs[2, r], elements.runs[3, r]
            best = squares[start : start + int(run[5] - run[4]) + 1]
            start += best.size
            nearest = 0
            for c in range(candidates.size):
                bounds[c] = _least_square(run, boxes, c, spacing_mm)
            for c in range(candidates.size):
                nearest = c if bounds[c] < bounds[nearest] else nearest
            largest = np.inf
            if candidates.size:
                largest = _improve(best, run, targets, candidates[nearest], spacing_mm)
            for c in range(candidates.size):
                if bounds[c] < largest and c != nearest:
                    largest = _improve(best, run, targets, candidates[c], spacing_mm)
    return squares


@compiled
def _count_elements(runs: NDArray[np.float64]) -> int:
    num_elements: int = int((runs[3] - runs[2]).sum()) + runs.shape[1]
    return num_elements


@compiled
def _codes_of(mask: NDArray[np.uint64], runs: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the neighbour code of each element, run by run."""
    codes = np.empty(_count_elements(runs), np.uint8)
    codes_here = np.empty(64, np.uint8)
    place = 0
    for r in range(runs.shape[1]):
        first, last = int(runs[2, r]), int(runs[3, r])
        codes_of_word(mask, (int(runs[0, r]), int(runs[1, r]), first >> 6), codes_here)
        for x in range(first, last + 1):
            codes[place] = codes_here[x & 63]
            place += 1
    return codes
