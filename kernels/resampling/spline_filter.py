"""Coefficients of cubic splines through a volume, slice by slice, last one first: the numbers of scipy's filter.

scipy's `spline_filter` (order 3, mode `nearest`) runs along each line of an axis forwards and then backwards, in double
precision, first all along z, then y, then x. Here the way forwards along z keeps one slice in many; on the way back the
slices between are calculated again, block by block. Sums and products are in scipy's order, so that the results are
the same to the last bit.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place

MARGIN = 12
"""Voxels by which scipy continues each edge before it filters."""
_POLE = -0.267949192431122706472553658494127633
_GAIN = (1.0 - _POLE) * (1.0 - 1.0 / _POLE)
_STRIP = 64
"""Lines that are filtered at a time: few enough for the cache of a core, enough for its vectors."""
_END = _POLE / (_POLE - 1.0)
_BOUND = 128.0
"""A factor by which no coefficient, of whatever axes so far, is larger than the largest voxel: 54 by theory."""
_NEGLIGIBLE = 2.0**-55


def backward_slices(
    image: NDArray[np.float32], *, first: int, last: int, largest: float
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Filter a volume along z.

    Parameters
    ----------
    image : float32 array, shape (Z, Y, X)
        Finite numbers.
    first, last : int
        Slices that are wanted; 0 is the first one of the margin, 12 slices before the volume.
    largest : float
        Absolute value of the largest voxel.

    Yields
    ------
    int, float64 array, shape (Y, X)
        Index and values of each slice from `last` to `first`; valid until the next is asked for.
    """
    num_slices = len(image) + 2 * MARGIN
    size = math.isqrt(num_slices)
    block = np.empty((size, *image.shape[1:]))
    checkpoints = np.empty((-(-num_slices // size), *image.shape[1:]))
    plane = _first_forwards(image, bound=largest * _BOUND)
    checkpoints[0] = plane
    for index in range(1, (len(checkpoints) - 1) * size + 1):
        _forwards(_voxels(image, index), plane, plane)
        if index % size == 0:
            checkpoints[index // size] = plane
    for number in reversed(range(len(checkpoints))):
        start, stop = number * size, min((number + 1) * size, num_slices)
        block[0] = checkpoints[number]
        for index in range(start + 1, stop):
            _forwards(_voxels(image, index), block[index - 1 - start], block[index - start])
        for index in reversed(range(start, stop)):
            here = block[index - start]
            if index == num_slices - 1:
                np.multiply(here, _END, out=plane)
            else:
                _backwards(here, plane)
            if index <= last:
                yield index, plane
            if index == first:
                return


def filter_slice(plane: NDArray[np.float64], filtered: NDArray[np.float64], *, largest: float) -> None:
    """Filter a slice along y, then x.

    Parameters
    ----------
    plane : float64 array, shape (Y, X)
        As filtered along z.
    filtered : float64 array, shape (Y + 24, X + 24)
        Filled in.
    largest : float
        Absolute value of the largest voxel of the volume.
    """
    turned = np.empty((plane.shape[1], len(filtered)))
    for lines, result in ((plane, turned), (turned, filtered)):
        num = result.shape[1]
        work = np.empty((num + 1, _STRIP))
        _filter_and_turn(lines, work, math.pow(_POLE, num), largest * _BOUND, result)


def _voxels(image: NDArray[np.float32], index: int) -> NDArray[np.float32]:
    """Return a slice of the volume with its margin."""
    return np.ascontiguousarray(image[min(max(index - MARGIN, 0), len(image) - 1)])


def _first_forwards(image: NDArray[np.float32], *, bound: float) -> NDArray[np.float64]:
    """Return the first slice of the way forwards: a sum over the whole lines, as far as it changes."""
    num_slices = len(image) + 2 * MARGIN
    power, last_power = _POLE, math.pow(_POLE, num_slices)
    total = _voxels(image, 0).astype(np.float64) * _GAIN
    first = total.copy()
    total += last_power * (_voxels(image, num_slices - 1).astype(np.float64) * _GAIN)
    for index in range(1, num_slices):
        smallest = _add_pairs(_voxels(image, index), _voxels(image, num_slices - 1 - index), power, last_power, total)
        power *= _POLE
        if abs(power) * bound <= smallest * _NEGLIGIBLE:
            break
    first += total * _POLE / (1.0 - last_power * last_power)
    return first


@compiled_in_place
def _add_pairs(
    voxels: NDArray[np.float32],
    mirrored: NDArray[np.float32],
    power: float,
    last_power: float,
    total: NDArray[np.float64],
) -> float:
    """Add the next terms to the sums of all lines, and return the smallest absolute value of a sum."""
    smallest = np.inf
    for y in range(total.shape[0]):
        _add_voxels(voxels[y], mirrored[y], power, last_power, total[y])
        smallest = min(smallest, _smallest(total[y]))
    return smallest


@compiled_in_place
def _add_voxels(
    voxels: NDArray[np.float32],
    mirrored: NDArray[np.float32],
    power: float,
    last_power: float,
    total: NDArray[np.float64],
) -> None:
    for x in range(total.size):
        total[x] += power * (np.float64(voxels[x]) * _GAIN + last_power * (np.float64(mirrored[x]) * _GAIN))


@compiled_in_place
def _smallest(total: NDArray[np.float64]) -> float:
    smallest = np.inf
    for x in range(total.size):
        smallest = min(smallest, abs(total[x]))
    return smallest


@compiled_in_place
def _forwards(voxels: NDArray[np.float32], before: NDArray[np.float64], here: NDArray[np.float64]) -> None:
    for y in range(here.shape[0]):
        _forwards_row(voxels[y], before[y], here[y])


@compiled_in_place
def _forwards_row(voxels: NDArray[np.float32], before: NDArray[np.float64], here: NDArray[np.float64]) -> None:
    for x in range(here.size):
        here[x] = np.float64(voxels[x]) * _GAIN + _POLE * before[x]


@compiled_in_place
def _backwards(here: NDArray[np.float64], after: NDArray[np.float64]) -> None:
    for y in range(here.shape[0]):
        _backwards_row(here[y], after[y], after[y])


@compiled_in_place
def _backwards_row(here: NDArray[np.float64], after: NDArray[np.float64], result: NDArray[np.float64]) -> None:
    for x in range(here.size):
        result[x] = _POLE * (after[x] - here[x])


@compiled_in_place
def _filter_and_turn(
    lines: NDArray[np.float64],
    work: NDArray[np.float64],
    last_power: float,
    bound: float,
    turned: NDArray[np.float64],
) -> None:
    """Filter the columns of `lines`, continued at both ends, and write them as rows."""
    num, width = work.shape[0] - 1, work.shape[1]
    for start in range(0, lines.shape[1], width):
        stop = min(start + width, lines.shape[1])
        strip = work[:, : stop - start]
        for k in range(num):
            _gain(lines[min(max(k - MARGIN, 0), lines.shape[0] - 1), start:stop], strip[k])
        _filter_strip(strip, num, last_power, bound)
        for k in range(0, num, 8):
            _turn(strip[k : min(k + 8, num)], turned[start:stop, k : min(k + 8, num)])


@compiled_in_place
def _turn(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> None:
    for x in range(rows.shape[1]):
        for k in range(rows.shape[0]):
            columns[x, k] = rows[k, x]


@compiled_in_place
def _filter_strip(strip: NDArray[np.float64], num: int, last_power: float, bound: float) -> None:
    total, power = strip[num], _POLE
    _begin(strip[0], strip[num - 1], last_power, total)
    for k in range(1, num):
        _add(strip[k], strip[num - 1 - k], power, last_power, total)
        power *= _POLE
        if k % 8 == 0 and abs(power) * bound <= _smallest(total) * _NEGLIGIBLE:
            break
    _finish(total, 1.0 - last_power * last_power, strip[0])
    for k in range(1, num):
        _forwards_more(strip[k - 1], strip[k])
    _end(strip[num - 1])
    for k in range(num - 2, -1, -1):
        _backwards_row(strip[k], strip[k + 1], strip[k])


@compiled_in_place
def _gain(row: NDArray[np.float64], result: NDArray[np.float64]) -> None:
    for x in range(row.size):
        result[x] = row[x] * _GAIN


@compiled_in_place
def _begin(
    first: NDArray[np.float64], last: NDArray[np.float64], last_power: float, total: NDArray[np.float64]
) -> None:
    for x in range(total.size):
        total[x] = first[x] + last_power * last[x]


@compiled_in_place
def _add(
    here: NDArray[np.float64],
    mirrored: NDArray[np.float64],
    power: float,
    last_power: float,
    total: NDArray[np.float64],
) -> None:
    for x in range(total.size):
        total[x] += power * (here[x] + last_power * mirrored[x])


@compiled_in_place
def _finish(total: NDArray[np.float64], divisor: float, first: NDArray[np.float64]) -> None:
    for x in range(total.size):
        first[x] += total[x] * _POLE / divisor


@compiled_in_place
def _forwards_more(before: NDArray[np.float64], here: NDArray[np.float64]) -> None:
    for x in range(here.size):
        here[x] += _POLE * before[x]


@compiled_in_place
def _end(last: NDArray[np.float64]) -> None:
    for x in range(last.size):
        last[x] *= _END
