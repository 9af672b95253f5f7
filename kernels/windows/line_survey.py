"""Which classes can win between the voxels of four lines, and in which regions all of these are.

Whatever is interpolated between some voxels lies between their least and their largest value. So a class can win there
only if its largest is not below the least of another class. And where a class is the first of the best at all of them,
no later one comes before it, since products and sums keep the order of numbers. Mostly that leaves one class.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled, compiled_in_place
from kernels.llvm.half_precision import half_order

LONGEST_RUN = 64
"""Voxels that are calculated together."""
NO_CLASS = 0x7FFF
"""After all classes."""
LEAST = -0x8000
"""Below all halves in the order of `half_order`."""


class Scratch(NamedTuple):
    """Memory for one line. What is said of x is said of the voxels x and, where x is interpolated, x + 1."""

    most: NDArray[np.int16]
    """Shape (classes, X + 1): the largest value of each class."""
    least: NDArray[np.int16]
    """Shape (X + 1,): the least of one class."""
    floor: NDArray[np.int16]
    """Shape (X,): below it no class wins."""
    num: NDArray[np.int16]
    """Shape (X,): classes that can win."""
    only: NDArray[np.int16]
    """Shape (X,): one of them."""
    joint: NDArray[np.int16]
    """Shape (X + 1,): the class that is the best at all of the voxels, `NO_CLASS` if there is none."""
    everywhere: NDArray[np.int64]
    """Shape (X + 1,): regions, one bit each, in which all of the voxels are."""
    anywhere: NDArray[np.int64]
    """Shape (X + 1,): regions in which any of them is."""
    products: NDArray[np.float64]
    """Shape (4, X): values of the lines, times their weights of z and y."""
    totals: NDArray[np.float64]
    """Of one class in a run."""
    values: NDArray[np.uint16]
    """The same as halves, as bits."""
    best: NDArray[np.int16]
    """The largest of all classes so far."""
    labels: NDArray[np.int64]
    """Whose that is."""
    found: NDArray[np.int64]
    """Shape (classes,): those that can win anywhere, besides `joint`, come first."""
    is_done: NDArray[np.bool_]
    """Shape (classes,): whether it was calculated for the run."""


def new_scratch(*, size_x: int, num_classes: int) -> Scratch:
    """Return memory for lines of so many voxels."""
    return Scratch(
        most=np.empty((num_classes, size_x + 1), np.int16),
        least=np.empty(size_x + 1, np.int16),
        floor=np.empty(size_x, np.int16),
        num=np.empty(size_x, np.int16),
        only=np.empty(size_x, np.int16),
        joint=np.empty(size_x + 1, np.int16),
        everywhere=np.empty(size_x + 1, np.int64),
        anywhere=np.empty(size_x + 1, np.int64),
        products=np.empty((4, size_x), np.float64),
        totals=np.empty(LONGEST_RUN, np.float64),
        values=np.empty(LONGEST_RUN, np.uint16),
        best=np.empty(LONGEST_RUN, np.int16),
        labels=np.empty(LONGEST_RUN, np.int64),
        found=np.empty(num_classes, np.int64),
        is_done=np.empty(num_classes, np.bool_),
    )


@compiled
def is_inside(order: Any) -> Any:
    """Whether a voxel is in a region, by its value in the order of `half_order`.

    A sigmoid in single precision is above 0.5 from the second half above 0 on; what is no number is not.
    """
    return 2 <= order <= 0x7C00


@compiled_in_place
def _bound(
    first: NDArray[np.uint16],
    second: NDArray[np.uint16],
    third: NDArray[np.uint16],
    fourth: NDArray[np.uint16],
    least: NDArray[np.int16],
    most: NDArray[np.int16],
) -> None:
    """Find the least and the largest value of four lines at each x."""
    for x in range(first.size):
        a, b, c, d = half_order(first[x]), half_order(second[x]), half_order(third[x]), half_order(fourth[x])
        least[x] = min(a, b, c, d)
        most[x] = max(a, b, c, d)
    least[first.size] = least[first.size - 1]
    most[first.size] = most[first.size - 1]


@compiled_in_place
def _raise_floor(floor: NDArray[np.int16], least: NDArray[np.int16], most: NDArray[np.int16], reach: int) -> None:
    if reach:
        for x in range(floor.size):
            floor[x] = max(floor[x], min(least[x], least[x + 1]))
            most[x] = max(most[x], most[x + 1])
    else:
        for x in range(floor.size):
            floor[x] = max(floor[x], least[x])


@compiled_in_place
def find_best(
    sums: NDArray[np.uint16], lines: NDArray[np.int64], most: NDArray[np.int16], best: NDArray[np.int16]
) -> None:
    """Find the first of the best classes of each voxel of some finished lines.

    Parameters
    ----------
    sums : uint16 array, shape (lines, classes + 1, X)
        Halves, as bits.
    lines : int64 array
        Which of them.
    most : int16 array, shape (X,)
        Memory for one line.
    best : int16 array, shape (lines, X)
        Filled in for these lines.
    """
    for line in lines:
        most[:] = LEAST
        found = best[line]
        for number in range(sums.shape[1] - 1):
            values = sums[line, number]
            for x in range(found.size):
                order = half_order(values[x])
                found[x] = np.int16(number) if order > most[x] else found[x]
                most[x] = max(most[x], order)


@compiled_in_place
def _join(best: NDArray[np.int16], lines: tuple[int, int, int, int], reach: int, joint: NDArray[np.int16]) -> None:
    first, second = best[lines[0]], best[lines[1]]
    third, fourth = best[lines[2]], best[lines[3]]
    for x in range(first.size):
        is_same = (first[x] == second[x]) & (first[x] == third[x]) & (first[x] == fourth[x])
        joint[x] = first[x] if is_same else np.int16(NO_CLASS)
    joint[first.size] = joint[first.size - 1]
    if reach:
        for x in range(first.size):
            joint[x] = joint[x] if joint[x] == joint[x + 1] else np.int16(NO_CLASS)


# Arrays are named one by one where a function is called for each class: all of a `Scratch` are many words to hand over.
@compiled_in_place
def _count(
    number: int,
    most: NDArray[np.int16],
    floor: NDArray[np.int16],
    joint: NDArray[np.int16],
    num: NDArray[np.int16],
    only: NDArray[np.int16],
) -> Any:
    """Count a class where it can win; returns whether that is anywhere."""
    # All of 16 bits, so that many are compared at a time.
    is_anywhere, this = False, np.int16(number)
    for x in range(floor.size):
        can_win = (most[x] >= floor[x]) & (this < joint[x])
        num[x] += np.int16(can_win)
        is_anywhere = is_anywhere | can_win
        only[x] = this if can_win else only[x]
    return is_anywhere


@compiled_in_place
def survey_classes(
    sums: NDArray[np.uint16], best: NDArray[np.int16], lines: tuple[int, int, int, int], reach: int, scratch: Scratch
) -> int:
    """Find which classes can win between the voxels of four lines; returns how many they are."""
    first, second, third, fourth = lines
    joint = scratch.joint
    _join(best, lines, reach, joint)
    for x in range(scratch.num.size):
        scratch.num[x] = np.int16(joint[x] != np.int16(NO_CLASS))
        scratch.only[x] = joint[x]
    scratch.floor[:] = LEAST
    for number in range(scratch.most.shape[0]):
        most = scratch.most[number]
        _bound(
            sums[first, number], sums[second, number], sums[third, number], sums[fourth, number], scratch.least, most
        )
        _raise_floor(scratch.floor, scratch.least, most, reach)
    num_found = 0
    for number in range(scratch.most.shape[0]):
        if _count(number, scratch.most[number], scratch.floor, joint, scratch.num, scratch.only):
            scratch.found[num_found] = number
            num_found += 1
    return num_found


@compiled_in_place
def survey_regions(sums: NDArray[np.uint16], lines: tuple[int, int, int, int], reach: int, scratch: Scratch) -> None:
    """Find in which regions all, and any, of the voxels of four lines are."""
    everywhere, anywhere = scratch.everywhere, scratch.anywhere
    size = everywhere.size - 1
    everywhere[:], anywhere[:] = 0, 0
    for region in range(scratch.most.shape[0]):
        first, second = sums[lines[0], region], sums[lines[1], region]
        third, fourth = sums[lines[2], region], sums[lines[3], region]
        for x in range(size):
            a, b = is_inside(half_order(first[x])), is_inside(half_order(second[x]))
            c, d = is_inside(half_order(third[x])), is_inside(half_order(fourth[x]))
            everywhere[x] |= np.int64(a & b & c & d) << np.int64(region)
            anywhere[x] |= np.int64(a | b | c | d) << np.int64(region)
    everywhere[size], anywhere[size] = everywhere[size - 1], anywhere[size - 1]
    if reach:
        for x in range(size):
            everywhere[x] &= everywhere[x + 1]
            anywhere[x] |= anywhere[x + 1]
    for x in range(size):
        scratch.num[x] = 1 + np.int16(everywhere[x] != anywhere[x])
