"""Label maps on another grid: the numbers of batchgenerators' `resize_segmentation`, order 1, in one pass.

That interpolates the mask of each label linearly, in double precision, and takes the label with the largest value;
where several have it, that of the nearest voxel if it is one of them, else the smallest. At most eight labels meet in
a voxel, so only their values are calculated, each a sum in the order of scipy's zoom.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.resampling.zoom_taps import Taps, linear_taps, nearest_taps


class _Axis(NamedTuple):
    """Between which voxels along an axis those of the output lie, and which is the nearest."""

    taps: Taps
    nearest: NDArray[np.int64]


def zoom_labels(labels: NDArray[np.int16], output: NDArray[np.int16], *, keeps_slices: bool) -> None:
    """Resample a label map.

    Parameters
    ----------
    labels : int16 array, shape (Z, Y, X)
        Any numbers.
    output : int16 array, shape (z, y, x)
        Filled in.
    keeps_slices : bool
        Whether a slice of the output is made of the nearest slice alone.
    """
    along_z, along_y, along_x = (
        _axis(num, new, interpolates=axis > 0 or not keeps_slices)
        for axis, (num, new) in enumerate(zip(labels.shape, output.shape, strict=True))
    )
    corners, shares = np.empty(8, np.int16), np.empty(8)
    z_taps = along_z.taps
    for z, made in enumerate(output):
        lower, upper, nearest = (
            np.ascontiguousarray(labels[indices[z]]) for indices in (z_taps.lower, z_taps.upper, along_z.nearest)
        )
        weights = z_taps.lower_weight[z], z_taps.upper_weight[z]
        _zoom_slice((lower, upper), nearest, weights, along_y, along_x, corners, shares, made)


def _axis(num: int, new: int, *, interpolates: bool) -> _Axis:
    nearest = nearest_taps(num, new)
    return _Axis(linear_taps(num, new) if interpolates else nearest, nearest.lower)


@compiled_in_place
def _zoom_slice(
    slices: tuple[NDArray[np.int16], NDArray[np.int16]],
    nearest: NDArray[np.int16],
    z_weights: tuple[float, float],
    along_y: _Axis,
    along_x: _Axis,
    corners: NDArray[np.int16],
    shares: NDArray[np.float64],
    output: NDArray[np.int16],
) -> None:
    y_taps, x_taps = along_y.taps, along_x.taps
    for y in range(output.shape[0]):
        low, high = y_taps.lower[y], y_taps.upper[y]
        first, second, third, fourth = slices[0][low], slices[0][high], slices[1][low], slices[1][high]
        y_weights = y_taps.lower_weight[y], y_taps.upper_weight[y]
        nearest_row = nearest[along_y.nearest[y]]
        for x in range(output.shape[1]):
            left, right = x_taps.lower[x], x_taps.upper[x]
            label = first[left]
            if (
                (label == first[right])
                & ((label == second[left]) & (label == second[right]))
                & ((label == third[left]) & (label == third[right]))
                & ((label == fourth[left]) & (label == fourth[right]))
            ):
                output[y, x] = label
                continue
            corners[0], corners[1], corners[2], corners[3] = label, first[right], second[left], second[right]
            corners[4], corners[5], corners[6], corners[7] = third[left], third[right], fourth[left], fourth[right]
            for k in range(8):
                x_weight = x_taps.upper_weight[x] if k % 2 else x_taps.lower_weight[x]
                shares[k] = z_weights[k // 4] * y_weights[k // 2 % 2] * x_weight
            output[y, x] = _largest(corners, shares, nearest_row[along_x.nearest[x]])


@compiled_in_place
def _largest(corners: NDArray[np.int16], shares: NDArray[np.float64], nearest: int) -> int:
    """Return the label with the largest share; of equal ones that of the nearest voxel, else the smallest."""
    most, largest, of_nearest = -1.0, nearest, -1.0
    for i in range(8):
        share = 0.0
        for k in range(8):
            if corners[k] == corners[i]:
                share += shares[k]
        share = min(share, 1.0)
        if share > most or (share == most and corners[i] < largest):
            most, largest = share, corners[i]
        if corners[i] == nearest:
            of_nearest = share
    return nearest if of_nearest == most else largest
