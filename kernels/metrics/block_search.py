"""The nearest of the elements of another surface, block by block, exactly and however far away.

Elements of a block are measured against only those targets that can be the nearest of any of them.

Which can, decides a *duel* with one target n near the middle of the block's box. The squared distance of a point to a
target t less that to n is linear in the point, so where it is positive at all corners of the box, t is the nearest
nowhere in it. Its least value over the corners is a sum over the axes, and for a part that holds many targets (a run, a
block, a group of blocks) the same sum with the gaps to the part is a lower bound. What is left are the few targets that
face the box, however far away they are.

A target loses a duel only by a margin far above all rounding, so leaving it out changes no bit of a distance.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.llvm.block_intrinsics import AT_ONCE, LANES, least_squares, undefeated_boxes, undefeated_runs
from kernels.llvm.intrinsics import lowest_bit
from kernels.metrics.surface_blocks import Blocks, block_shape, sorted_into_blocks
from kernels.metrics.surface_elements import codes_of_word

# A duel is lost by this share of the squared distance to the winner; rounding is a million times smaller.
_MARGIN = 1e-9


def search_blocks(
    mask: NDArray[np.uint64],
    elements: NDArray[np.uint64],
    targets: NDArray[np.uint64],
    spacing_mm: tuple[float, float, float],
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Search the nearest target of each of some elements.

    Parameters
    ----------
    mask : packed mask that the elements are of, uint64, shape (z + 2, y + 2, words)
    elements, targets : some of its elements and those of the other surface, uint64, shape (z + 1, y + 1, words)
    spacing_mm : (z, y, x)

    Returns
    -------
    squares : float64 array, shape (elements,), squared distances in mm^2, infinite without any target
    codes : uint8 array, shape (elements,), neighbour codes
    """
    shape = block_shape(spacing_mm)
    blocks, others = sorted_into_blocks(elements, shape), sorted_into_blocks(targets, shape)
    codes = np.empty(blocks.num_elements, np.uint8)
    _write_codes(mask, blocks, codes, np.empty(64, np.uint8))
    squares = np.full(codes.size + AT_ONCE, np.inf)
    if others.ends.size > 1:
        groups, candidates = np.empty(others.group_ends.size, np.int64), np.empty_like(others.runs)
        _search(blocks, others, spacing_mm, squares, groups, candidates)
    return squares[: codes.size], codes


@compiled_in_place
def _search(
    elements: Blocks,
    targets: Blocks,
    spacing_mm: tuple[float, float, float],
    squares: NDArray[np.float64],
    groups: NDArray[np.int64],
    candidates: NDArray[np.float64],
) -> None:
    """Write the least squared distance of each element, run by run; `groups` and `candidates` are room."""
    place = 0
    for b in range(elements.ends.size - 1):
        num_candidates = _gather_candidates(_box(elements.boxes, b), targets, spacing_mm, groups, candidates)
        for r in range(elements.ends[b], elements.ends[b + 1]):
            z, y, first_x = elements.runs[0, r], elements.runs[1, r], elements.runs[2, r]
            length = int(elements.runs[3, r] - first_x) + 1
            for i in range(0, length, AT_ONCE):
                least_squares(candidates, num_candidates, (z, y, first_x + i), spacing_mm, squares, place + i)
            place += length


@compiled_in_place
def _gather_candidates(
    box: tuple[float, ...],
    targets: Blocks,
    spacing_mm: tuple[float, float, float],
    groups: NDArray[np.int64],
    candidates: NDArray[np.float64],
) -> int:
    """Copy the runs that may hold the target nearest to an element in a box; returns their number.

    The last one is repeated until they fill whole vectors. `groups` is room for this function's own list.
    """
    centre = ((box[0] + box[1]) / 2, (box[2] + box[3]) / 2, (box[4] + box[5]) / 2)
    num_groups = targets.group_ends.size - 1
    nearest, _ = _nearest_mark(targets.group_marks, 0, num_groups, centre, spacing_mm)
    duel = _duel(box, _point(targets.group_marks, nearest), spacing_mm)
    num_kept = 0
    nearest, least = 0, np.inf
    for start in range(0, num_groups, LANES):
        bits = undefeated_boxes(targets.group_boxes, start, duel) & _lanes_until(num_groups - start)
        while bits != np.uint64(0):
            g = start + lowest_bit(bits)
            bits &= bits - np.uint64(1)
            groups[num_kept] = g
            num_kept += 1
            block, square = _nearest_mark(
                targets.marks, targets.group_ends[g], targets.group_ends[g + 1], centre, spacing_mm
            )
            if square < least:
                nearest, least = block, square
    duel = _duel(box, _nearest_of_block(targets, nearest, centre, spacing_mm), spacing_mm)
    num_candidates = 0
    for kept in range(num_kept):
        g = groups[kept]
        stop = targets.group_ends[g + 1]
        for start in range(targets.group_ends[g], stop, LANES):
            bits = undefeated_boxes(targets.boxes, start, duel) & _lanes_until(stop - start)
            while bits != np.uint64(0):
                num_candidates = _add_candidates(targets, start + lowest_bit(bits), duel, candidates, num_candidates)
                bits &= bits - np.uint64(1)
    while num_candidates % LANES > 0:
        for row in range(4):
            candidates[row, num_candidates] = candidates[row, num_candidates - 1]
        num_candidates += 1
    return num_candidates


@compiled_in_place
def _add_candidates(
    targets: Blocks, block: int, duel: tuple[float, ...], candidates: NDArray[np.float64], place: int
) -> int:
    """Copy the runs of a block that a duel does not exclude, from a place on; returns the place after them."""
    stop = targets.ends[block + 1]
    for start in range(targets.ends[block], stop, LANES):
        bits = undefeated_runs(targets.runs, start, duel) & _lanes_until(stop - start)
        while bits != np.uint64(0):
            r = start + lowest_bit(bits)
            bits &= bits - np.uint64(1)
            for row in range(4):
                candidates[row, place] = targets.runs[row, r]
            place += 1
    return place


@compiled_in_place
def _lanes_until(count: int) -> np.uint64:
    """Return a bit for each of the first `count` lanes of a vector."""
    return (np.uint64(1) << np.uint64(min(count, LANES))) - np.uint64(1)


@compiled_in_place
def _box(boxes: NDArray[np.float64], b: int) -> tuple[float, ...]:
    return boxes[0, b], boxes[1, b], boxes[2, b], boxes[3, b], boxes[4, b], boxes[5, b]


@compiled_in_place
def _point(points: NDArray[np.float64], i: int) -> tuple[float, float, float]:
    return points[0, i], points[1, i], points[2, i]


@compiled_in_place
def _square(a: tuple[float, float, float], b: tuple[float, float, float], spacing_mm: tuple[float, ...]) -> float:
    """Return the squared distance of two points in mm^2."""
    dz, dy, dx = (a[0] - b[0]) * spacing_mm[0], (a[1] - b[1]) * spacing_mm[1], (a[2] - b[2]) * spacing_mm[2]
    return dz * dz + dy * dy + dx * dx


@compiled_in_place
def _nearest_mark(
    marks: NDArray[np.float64],
    first: int,
    stop: int,
    centre: tuple[float, float, float],
    spacing_mm: tuple[float, float, float],
) -> tuple[int, float]:
    """Return which of some marks is the nearest to a point, and its squared distance."""
    nearest, least = first, np.inf
    for i in range(first, stop):
        square = _square(_point(marks, i), centre, spacing_mm)
        if square < least:
            nearest, least = i, square
    return nearest, least


@compiled_in_place
def _nearest_of_block(
    targets: Blocks, block: int, centre: tuple[float, float, float], spacing_mm: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return the target of a block that is nearest to a point, but for half a step along x."""
    nearest, least = (0.0, 0.0, 0.0), np.inf
    for r in range(targets.ends[block], targets.ends[block + 1]):
        x = min(max(np.floor(centre[2]), targets.runs[2, r]), targets.runs[3, r])
        target = (targets.runs[0, r], targets.runs[1, r], x)
        square = _square(target, centre, spacing_mm)
        if square < least:
            nearest, least = target, square
    return nearest


@compiled_in_place
def _duel(
    box: tuple[float, ...], target: tuple[float, float, float], spacing_mm: tuple[float, float, float]
) -> tuple[float, ...]:
    """Return for each axis its step, and the box's first and last coordinate with their squares in mm^2 from a target.

    Last comes the square by which another target loses against this one.
    """
    z_0, z_1 = (box[0] - target[0]) * spacing_mm[0], (box[1] - target[0]) * spacing_mm[0]
    y_0, y_1 = (box[2] - target[1]) * spacing_mm[1], (box[3] - target[1]) * spacing_mm[1]
    x_0, x_1 = (box[4] - target[2]) * spacing_mm[2], (box[5] - target[2]) * spacing_mm[2]
    zz_0, zz_1, yy_0, yy_1, xx_0, xx_1 = z_0 * z_0, z_1 * z_1, y_0 * y_0, y_1 * y_1, x_0 * x_0, x_1 * x_1
    margin = _MARGIN * (max(zz_0, zz_1) + max(yy_0, yy_1) + max(xx_0, xx_1))
    return (
        *(spacing_mm[0], box[0], zz_0, box[1], zz_1),
        *(spacing_mm[1], box[2], yy_0, box[3], yy_1),
        *(spacing_mm[2], box[4], xx_0, box[5], xx_1),
        margin,
    )


@compiled_in_place
def _write_codes(
    mask: NDArray[np.uint64], elements: Blocks, codes: NDArray[np.uint8], codes_of_one: NDArray[np.uint8]
) -> None:
    """Write the neighbour code of each element, run by run; `codes_of_one`, shape (64,), is room."""
    place = 0
    for r in range(elements.ends[-1]):
        first, last = int(elements.runs[2, r]), int(elements.runs[3, r])
        codes_of_word(mask, (int(elements.runs[0, r]), int(elements.runs[1, r]), first >> 6), codes_of_one)
        for x in range(first, last + 1):
            codes[place] = codes_of_one[x & 63]
            place += 1
