"""Sums of the predictions of overlapping windows, in half precision, rounded after each addition as torch does.

Sums are uint16, the bits of halves, shape (slots, Y, classes + 1, X): a slot holds one slice, and the last row of a
line the sum of the weights. Lines along x are next to each other for all classes of a voxel, so that what is decided
between classes reads memory in order.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled, compiled_in_place
from kernels.windows.half_precision import float_of_order, float_to_half, half_order, half_to_float, quotient

BLOCK = 16
"""Voxels along x that share a largest value."""
CLASSES_AT_A_TIME = 8
"""Whose predictions are read side by side: those of all would come from too many places of the memory."""
UNSURE = -1
"""Stands for the label of a voxel near which it must be calculated."""
LEAST = -0x8000
"""Below all halves in the order of `half_order`."""


@compiled_in_place
def _add_products(sums: NDArray[np.uint16], values: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
    for x in range(values.size):
        product = values[x] * weights[x]
        sums[x] = float_to_half(half_to_float(sums[x]) + product)


@compiled_in_place
def _add_rounded_products(sums: NDArray[np.uint16], values: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
    for x in range(values.size):
        product = half_to_float(float_to_half(values[x] * weights[x]))
        sums[x] = float_to_half(half_to_float(sums[x]) + product)


@compiled_in_place
def _add_weights(sums: NDArray[np.uint16], weights: NDArray[np.float32]) -> None:
    for x in range(weights.size):
        sums[x] = float_to_half(half_to_float(sums[x]) + weights[x])


@compiled_in_place
def add_window(
    sums: NDArray[np.uint16],
    prediction: NDArray[np.float32],
    weights: NDArray[np.float32],
    start: tuple[int, int, int],
    rounds_products: bool,
) -> None:
    """Add a window to the sums.

    Parameters
    ----------
    sums : uint16 array, shape (slots, Y, classes + 1, X)
        Slice z is in slot z % slots.
    prediction : float32 array, shape (classes, z, y, x)
        What the network says.
    weights : float32 array, shape (z, y, x)
        Of its voxels, the same for all classes.
    start : tuple of int
        Voxel (z, y, x) at which the window begins.
    rounds_products : bool
        Whether products are rounded before they are added, as where the network itself gives halves.
    """
    num_slots, num_classes, size_z, size_y = sums.shape[0], *prediction.shape[:3]
    first_z, first_y, first_x = start
    for z in range(size_z):
        slot = (first_z + z) % num_slots
        for first_class in range(0, num_classes, CLASSES_AT_A_TIME):
            for y in range(size_y):
                for number in range(first_class, min(num_classes, first_class + CLASSES_AT_A_TIME)):
                    line = sums[slot, first_y + y, number][first_x:]
                    if rounds_products:
                        _add_rounded_products(line, prediction[number, z, y], weights[z, y])
                    else:
                        _add_products(line, prediction[number, z, y], weights[z, y])
        for y in range(size_y):
            _add_weights(sums[slot, first_y + y, num_classes][first_x:], weights[z, y])


@compiled_in_place
def _divide(sums: NDArray[np.uint16], weights: NDArray[np.uint16]) -> Any:
    num_infinite = np.uint16(0)
    for x in range(sums.size):
        average = float_to_half(quotient(half_to_float(sums[x]), half_to_float(weights[x])))
        sums[x] = average
        num_infinite |= np.uint16(average & np.uint16(0x7FFF) == np.uint16(0x7C00))
    return num_infinite


@compiled_in_place
def finish_slice(sums: NDArray[np.uint16]) -> Any:
    """Divide sums of a slice, shape (Y, classes + 1, X), by those of its weights; returns whether any is infinite."""
    num_infinite = np.uint16(0)
    for y in range(sums.shape[0]):
        for c in range(sums.shape[1] - 1):
            num_infinite |= _divide(sums[y, c], sums[y, -1])
    return num_infinite > 0


@compiled_in_place
def average_slice(sums: NDArray[np.uint16], others: NDArray[np.uint16], num_models: int) -> None:
    """Add a finished slice to another one, and divide by the number of models unless that is 0."""
    for y in range(sums.shape[0]):
        for c in range(sums.shape[1] - 1):
            for x in range(sums.shape[2]):
                total = float_to_half(half_to_float(sums[y, c, x]) + half_to_float(others[y, c, x]))
                if num_models:
                    total = float_to_half(quotient(half_to_float(total), np.float32(num_models)))
                sums[y, c, x] = total


@compiled_in_place
def _largest_of_row(
    row: NDArray[np.uint16],
    number: int,
    first: NDArray[np.int16],
    second: NDArray[np.int16],
    best: NDArray[np.int16],
) -> None:
    for x in range(row.size):
        order = half_order(row[x])
        second[x] = max(second[x], min(first[x], order))
        best[x] = np.int16(number) if order > first[x] else best[x]
        first[x] = max(first[x], order)


@compiled_in_place
def _largest_of_blocks(row: NDArray[np.uint16], largest: NDArray[np.int16]) -> None:
    for block in range(largest.size):
        most = np.int16(LEAST)
        for x in range(block * BLOCK, min(row.size, (block + 1) * BLOCK)):
            most = max(most, half_order(row[x]))
        largest[block] = most


@compiled
def _is_far(first: Any, second: Any) -> Any:
    """Whether a value is so much above another that no interpolation can round both to the same half.

    Halves have 11 bits. Where the leads of the same class at all neighbours are that large, so is the interpolated one.
    """
    above, below = float_of_order(first), float_of_order(second)
    return above - below > abs(above) * np.float32(2.0**-9) + np.float32(2.0**-20)


class SurveyScratch(NamedTuple):
    """Memory for one line."""

    first: NDArray[np.int16]
    """The largest value of each voxel so far."""
    second: NDArray[np.int16]
    """The largest but one."""
    best: NDArray[np.int16]
    """The class of the largest."""


@compiled_in_place
def survey_labels(
    sums: NDArray[np.uint16],
    best: NDArray[np.int64],
    largest: NDArray[np.int16],
    scratch: SurveyScratch,
    keeps_unsure: bool,
) -> None:
    """Find the best class of each voxel of a finished slice.

    Parameters
    ----------
    sums : uint16 array, shape (Y, classes + 1, X)
        Finished.
    best : int64 array, shape (Y, X)
        Filled in: the first class of the largest value, or its -1 - class if it does not lead by far.
    largest : int16 array, shape (Y, blocks, classes)
        Filled in: the largest of each `BLOCK` voxels along x, in the order of `half_order`.
    scratch : SurveyScratch
        Arrays of shape (X,).
    keeps_unsure : bool
        Whether leads matter; otherwise `best` has classes only, and `largest` is left.
    """
    num_classes = sums.shape[1] - 1
    first, second, found = scratch
    for y in range(sums.shape[0]):
        first[:], second[:], found[:] = LEAST, LEAST, 0
        for number in range(num_classes):
            _largest_of_row(sums[y, number], number, first, second, found)
            if keeps_unsure:
                _largest_of_blocks(sums[y, number], largest[y, :, number])
        for x in range(first.size):
            is_sure = not keeps_unsure or num_classes == 1 or _is_far(first[x], second[x])
            best[y, x] = found[x] if is_sure else -1 - found[x]


@compiled_in_place
def survey_regions(sums: NDArray[np.uint16], best: NDArray[np.int64]) -> None:
    """Find which regions each voxel of a finished slice is in: bit r of `best`, shape (Y, X), stands for region r."""
    for y in range(sums.shape[0]):
        best[y] = 0
        for region in range(sums.shape[1] - 1):
            for x in range(sums.shape[2]):
                best[y, x] |= np.int64(is_inside(half_order(sums[y, region, x]))) << np.int64(region)


@compiled
def is_inside(order: Any) -> Any:
    """Whether a voxel is in a region, by its value in the order of `half_order`.

    A sigmoid in single precision is above 0.5 from the second half above 0 on; what is no number is not.
    """
    return 2 <= order <= 0x7C00
