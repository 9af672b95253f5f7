"""Sums of the predictions of overlapping windows, in half precision, rounded after each addition as torch does.

Sums are uint16, the bits of halves, shape (lines, classes + 1, X): a line along x holds all classes next to each other,
and the sum of the weights in its last row, so that what is decided between classes reads memory in order. Which line of
the image lies where is a table of shape (Z, Y).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.llvm.half_precision import float_to_half, half_to_float, quotient

CLASSES_AT_A_TIME = 8
"""Whose predictions are read side by side: those of all would come from too many places of the memory."""


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
    places: NDArray[np.int64],
    prediction: NDArray[np.float32],
    weights: NDArray[np.float32],
    start: tuple[int, int, int],
    rounds_products: bool,
) -> None:
    """Add a window to the sums.

    Parameters
    ----------
    sums : uint16 array, shape (lines, classes + 1, X)
        Changed.
    places : int64 array, shape (Z, Y)
        Which of them is that of a slice and row.
    prediction : float32 array, shape (classes, z, y, x)
        What the network says.
    weights : float32 array, shape (z, y, x)
        Of its voxels, the same for all classes.
    start : tuple of int
        Voxel (z, y, x) at which the window begins.
    rounds_products : bool
        Whether products are rounded before they are added, as where the network itself gives halves.
    """
    num_classes, size_z, size_y = prediction.shape[:3]
    first_z, first_y, first_x = start
    for z in range(size_z):
        lines = places[first_z + z]
        for first_class in range(0, num_classes, CLASSES_AT_A_TIME):
            for y in range(size_y):
                for number in range(first_class, min(num_classes, first_class + CLASSES_AT_A_TIME)):
                    line = sums[lines[first_y + y], number][first_x:]
                    if rounds_products:
                        _add_rounded_products(line, prediction[number, z, y], weights[z, y])
                    else:
                        _add_products(line, prediction[number, z, y], weights[z, y])
        for y in range(size_y):
            _add_weights(sums[lines[first_y + y], num_classes][first_x:], weights[z, y])


@compiled_in_place
def _divide(sums: NDArray[np.uint16], weights: NDArray[np.uint16]) -> Any:
    num_infinite = np.uint16(0)
    for x in range(sums.size):
        average = float_to_half(quotient(half_to_float(sums[x]), half_to_float(weights[x])))
        sums[x] = average
        num_infinite |= np.uint16(average & np.uint16(0x7FFF) == np.uint16(0x7C00))
    return num_infinite


@compiled_in_place
def finish_lines(sums: NDArray[np.uint16], lines: NDArray[np.int64]) -> Any:
    """Divide the sums of some lines by those of their weights; returns whether any is infinite."""
    num_infinite = np.uint16(0)
    for line in lines:
        for number in range(sums.shape[1] - 1):
            num_infinite |= _divide(sums[line, number], sums[line, -1])
    return num_infinite > 0


@compiled_in_place
def average_lines(
    sums: NDArray[np.uint16], others: NDArray[np.uint16], lines: NDArray[np.int64], num_models: int
) -> None:
    """Add some finished lines of another model, and divide by the number of models unless that is 0."""
    for line in lines:
        for number in range(sums.shape[1] - 1):
            total, other = sums[line, number], others[line, number]
            for x in range(total.size):
                added = float_to_half(half_to_float(total[x]) + half_to_float(other[x]))
                if num_models:
                    added = float_to_half(quotient(half_to_float(added), np.float32(num_models)))
                total[x] = added
