"""Surface elements as runs along x, sorted into blocks, and blocks into groups."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.llvm.block_intrinsics import LANES
from kernels.llvm.intrinsics import lowest_bit, popcount

# Blocks are cubes of this many of the smallest spacing; a group is a word wide and this many blocks along z and y.
_BLOCK_EDGE = 16
_BLOCKS_A_GROUP = 4

# Which rows of an array of runs and of boxes are first and last z, y and x.
_OF_RUN = (0, 0, 1, 1, 2, 3)
_OF_BOX = (0, 1, 2, 3, 4, 5)


class Blocks(NamedTuple):
    """Elements as runs along x, those of a block together, blocks of a group together, nothing empty.

    Coordinates are whole numbers of steps as float64. Behind the last run, block and group is room for one vector.
    """

    runs: NDArray[np.float64]
    """Shape (4, runs + room): z, y, first and last x; no run leaves its block."""
    ends: NDArray[np.int64]
    """Shape (blocks + 1,): first run of each block, then the number of runs."""
    boxes: NDArray[np.float64]
    """Shape (6, blocks + room): first and last z, y and x."""
    marks: NDArray[np.float64]
    """Shape (3, blocks): z, y and x of one element of each block, amid it."""
    group_ends: NDArray[np.int64]
    """Shape (groups + 1,): first block of each group, then the number of blocks."""
    group_boxes: NDArray[np.float64]
    """Shape (6, groups + room)."""
    group_marks: NDArray[np.float64]
    """Shape (3, groups)."""

    @property
    def num_elements(self) -> int:
        """Elements of all runs."""
        return int((self.runs[3] - self.runs[2]).sum()) + int(self.ends[-1])


def block_shape(spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return the size of a block in elements along (z, y, x); that along x divides a word."""
    edge = _BLOCK_EDGE * min(spacing_mm)
    size_z, size_y, size_x = (max(1, round(edge / step)) for step in spacing_mm)
    return size_z, size_y, 1 << min(6, round(math.log2(size_x)))


def sorted_into_blocks(elements: NDArray[np.uint64], shape: tuple[int, int, int]) -> Blocks:
    """Sort elements, uint64, shape (z, y, words), one bit each, into blocks of a shape as `block_shape` returns it."""
    num_runs = _count_runs(elements, shape[2])
    runs = np.empty((4, num_runs + LANES))
    runs[:, num_runs:] = 0.0
    ends, group_ends = np.empty(num_runs + 1, np.int64), np.empty(num_runs + 1, np.int64)
    num_blocks, num_groups = _fill_blocks(elements, shape, runs, ends, group_ends)
    ends, group_ends = ends[: num_blocks + 1], group_ends[: num_groups + 1]
    boxes, group_boxes = np.zeros((6, num_blocks + LANES)), np.zeros((6, num_groups + LANES))
    _enclose(runs, _OF_RUN, ends, boxes)
    _enclose(boxes, _OF_BOX, group_ends, group_boxes)
    marks = runs[:3, (ends[:-1] + ends[1:]) // 2]
    return Blocks(
        runs=runs,
        ends=ends,
        boxes=boxes,
        marks=marks,
        group_ends=group_ends,
        group_boxes=group_boxes,
        group_marks=marks[:, (group_ends[:-1] + group_ends[1:]) // 2],
    )


@compiled_in_place
def _count_runs(elements: NDArray[np.uint64], size_x: int) -> int:
    """Return how many runs there are, each inside of one of the parts of its word that are `size_x` bits wide."""
    borders = np.uint64(0)
    for start in range(0, 64, size_x):
        borders |= np.uint64(1) << np.uint64(start)
    flat = elements.reshape(-1)
    num_runs = 0
    for i in range(flat.size):
        num_runs += popcount(flat[i] & (~(flat[i] << np.uint64(1)) | borders))
    return num_runs


@compiled_in_place
def _fill_blocks(
    elements: NDArray[np.uint64],
    shape: tuple[int, int, int],
    runs: NDArray[np.float64],
    ends: NDArray[np.int64],
    group_ends: NDArray[np.int64],
) -> tuple[int, int]:
    """Write the runs, where those of each block begin, and where the blocks of each group begin.

    Returns the numbers of blocks and of groups.
    """
    size_z, size_y, num_words = elements.shape
    edge_z, edge_y, in_block = shape[0], shape[1], ~np.uint64(0) >> np.uint64(64 - shape[2])
    num_filled = num_blocks = num_groups = 0
    for group_z in range(0, size_z, edge_z * _BLOCKS_A_GROUP):
        for group_y in range(0, size_y, edge_y * _BLOCKS_A_GROUP):
            for w in range(num_words):
                group_ends[num_groups] = num_blocks
                for z in range(group_z, min(group_z + edge_z * _BLOCKS_A_GROUP, size_z), edge_z):
                    for y in range(group_y, min(group_y + edge_y * _BLOCKS_A_GROUP, size_y), edge_y):
                        stops = (min(z + edge_z, size_z), min(y + edge_y, size_y))
                        left = _any_of(elements, (z, y, w), stops)
                        while left != np.uint64(0):
                            start = lowest_bit(left) // shape[2] * shape[2]
                            part = in_block << np.uint64(start)
                            ends[num_blocks] = num_filled
                            num_filled = _add_runs(elements, (z, y, w), stops, part, runs, num_filled)
                            num_blocks += 1
                            left &= ~part
                num_groups += int(num_blocks > group_ends[num_groups])
    ends[num_blocks], group_ends[num_groups] = num_filled, num_blocks
    return num_blocks, num_groups


@compiled_in_place
def _any_of(elements: NDArray[np.uint64], start: tuple[int, int, int], stops: tuple[int, int]) -> np.uint64:
    """Return the bits that are set in a word of any row of a block."""
    some = np.uint64(0)
    for z in range(start[0], stops[0]):
        for y in range(start[1], stops[1]):
            some |= elements[z, y, start[2]]
    return some


@compiled_in_place
def _add_runs(
    elements: NDArray[np.uint64],
    start: tuple[int, int, int],
    stops: tuple[int, int],
    part: np.uint64,
    runs: NDArray[np.float64],
    place: int,
) -> int:
    """Write the runs of a block, which is a part of one word of its rows, from a place on; returns the next place."""
    first_x = 64 * start[2]
    for z in range(start[0], stops[0]):
        for y in range(start[1], stops[1]):
            bits = elements[z, y, start[2]] & part
            first, last = bits & ~(bits << np.uint64(1)), bits & ~(bits >> np.uint64(1))
            while first != np.uint64(0):
                runs[0, place], runs[1, place] = z, y
                runs[2, place], runs[3, place] = first_x + lowest_bit(first), first_x + lowest_bit(last)
                first &= first - np.uint64(1)
                last &= last - np.uint64(1)
                place += 1
    return place


@compiled_in_place
def _enclose(
    parts: NDArray[np.float64], rows: tuple[int, ...], ends: NDArray[np.int64], boxes: NDArray[np.float64]
) -> None:
    """Write the boxes around all parts from each end to the next."""
    for axis in range(3):
        lower, upper = rows[2 * axis], rows[2 * axis + 1]
        for b in range(ends.size - 1):
            first, last = parts[lower, ends[b]], parts[upper, ends[b]]
            for part in range(ends[b] + 1, ends[b + 1]):
                first, last = min(first, parts[lower, part]), max(last, parts[upper, part])
            boxes[2 * axis, b], boxes[2 * axis + 1, b] = first, last
