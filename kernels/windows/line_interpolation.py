"""Values between four lines of one class: products and sums in scipy's order, rounded to halves."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.llvm.half_precision import double_to_half, half_to_float
from kernels.resampling.zoom_taps import Taps


class Corners(NamedTuple):
    """The four lines between which a line of labels lies, by z and y, and their weights."""

    lines: tuple[int, int, int, int]
    """Places of the lines (lower z, lower y), (lower z, upper y), (upper z, lower y), (upper z, upper y)."""
    z_weights: tuple[float, float]
    y_weights: tuple[float, float]


@compiled_in_place
def _multiply(line: NDArray[np.uint16], z_weight: float, y_weight: float, products: NDArray[np.float64]) -> None:
    """Fill in values of a line times weights, in this order, in double precision."""
    for x in range(line.size):
        products[x] = np.float64(half_to_float(line[x])) * z_weight * y_weight


# Places are unsigned, since Numba checks a signed index for being negative at every access.
@compiled_in_place
def _add(products: NDArray[np.float64], taps: Taps, run: tuple[int, int], totals: NDArray[np.float64]) -> None:
    """Add up the products of four lines, two of each at every voxel, one after the other."""
    first, end = run
    start = taps.lower[first]
    a, b, c, d = products[0], products[1], products[2], products[3]
    for x in range(first, end):
        left, right = np.uint64(taps.lower[x] - start), np.uint64(taps.upper[x] - start)
        left_weight, right_weight = taps.lower_weight[x], taps.upper_weight[x]
        total = 0.0
        total += a[left] * left_weight
        total += a[right] * right_weight
        total += b[left] * left_weight
        total += b[right] * right_weight
        total += c[left] * left_weight
        total += c[right] * right_weight
        total += d[left] * left_weight
        total += d[right] * right_weight
        totals[np.uint64(x - first)] = total


@compiled_in_place
def interpolate_class(
    sums: NDArray[np.uint16],
    number: int,
    corners: Corners,
    taps: Taps,
    run: tuple[int, int],
    memory: tuple[NDArray[np.float64], NDArray[np.float64]],
    values: NDArray[np.uint16],
) -> None:
    """Fill in a run of voxels of one class, as halves, in scipy's order of products and sums: z, then y, then x.

    `memory` is for a line of products, shape (4, X), and one of totals, shape (x,).
    """
    (first, end), (products, totals) = run, memory
    start, stop = taps.lower[first], taps.upper[end - 1] + 1
    for k in range(4):
        line = sums[corners.lines[k], number]
        _multiply(line[start:stop], corners.z_weights[k // 2], corners.y_weights[k % 2], products[k])
    _add(products, taps, run, totals)
    for k in range(end - first):
        values[np.uint64(k)] = double_to_half(totals[np.uint64(k)])
