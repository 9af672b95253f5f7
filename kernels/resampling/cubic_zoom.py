"""Cubic interpolation of a volume on another grid, by slices: the numbers of scipy's zoom, order 3, mode `nearest`.

The spline's coefficients are scipy's own; products and sums are in its order (z, then y, then x), so that the results
are the same to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.resampling.spline_filter import MARGIN, backward_slices, filter_slice


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CubicTaps:
    """The four voxels along one axis from which each voxel of another grid is interpolated."""

    start: NDArray[np.int64]
    """Index of the first one, in the volume with its margin."""
    weights: NDArray[np.float64]
    """Shape (voxels, 4)."""


def cubic_taps(num_in: int, num_out: int) -> CubicTaps:
    """Return the taps from `num_in` to `num_out` voxels, bit for bit as scipy has them."""
    position = (np.arange(num_out) + 0.5) * (num_in / num_out) - 0.5 + MARGIN
    below = np.floor(position)
    after = position - below
    before = 1.0 - after
    second = (after * after * (after - 2.0) * 3.0 + 4.0) / 6.0
    third = (before * before * (before - 2.0) * 3.0 + 4.0) / 6.0
    first = before * before * before / 6.0
    return CubicTaps(
        start=below.astype(np.int64) - 1,
        weights=np.stack([first, second, third, 1.0 - first - second - third], axis=1),
    )


def zoom_cubic(image: NDArray[np.float32], output: NDArray[np.float32]) -> None:
    """Interpolate a volume on another grid.

    Parameters
    ----------
    image : float32 array, shape (Z, Y, X)
        Finite numbers.
    output : float32 array, shape (z, y, x)
        Filled in; its values are within those of the image.
    """
    along_z = cubic_taps(len(image), len(output))
    zoom = _SliceZoom(image.shape[1:], output.shape[1:], limits=(float(image.min()), float(image.max())), num_slices=4)
    z = len(output) - 1
    first, last = int(along_z.start[0]), int(along_z.start[-1]) + 3
    for index, plane in backward_slices(image, first=first, last=last, largest=zoom.largest):
        zoom.take(plane, index)
        while z >= 0 and along_z.start[z] == index:
            zoom.fill(output[z], first=index, z_weights=along_z.weights[z])
            z -= 1


def zoom_cubic_slice(image: NDArray[np.float32], output: NDArray[np.float32]) -> None:
    """Interpolate a slice, shape (Y, X), on another grid in its plane; as `zoom_cubic`."""
    zoom = _SliceZoom(image.shape, output.shape, limits=(float(image.min()), float(image.max())), num_slices=1)
    zoom.take(image.astype(np.float64, order="C"), 0)
    zoom.fill(output, first=0, z_weights=np.ones(1))


class _SliceZoom:
    """The last few slices of coefficients, and what is made of them."""

    def __init__(
        self, shape: Sequence[int], new_shape: Sequence[int], *, limits: tuple[float, float], num_slices: int
    ) -> None:
        self.largest = max(-limits[0], limits[1])
        """Absolute value of the largest voxel."""
        self._limits = limits
        self._along_y, self._along_x = (cubic_taps(num, new) for num, new in zip(shape, new_shape, strict=True))
        self._x_weights = np.ascontiguousarray(self._along_x.weights.T)
        self._ring = np.empty((num_slices, *(size + 2 * MARGIN for size in shape)))
        self._spread = np.empty((num_slices, 4, 4, new_shape[1]))
        self._totals = np.empty(new_shape[1])

    def take(self, plane: NDArray[np.float64], index: int) -> None:
        """Filter a slice and keep it in place of the oldest one."""
        filter_slice(plane, self._ring[index % len(self._ring)], largest=self.largest)

    def fill(self, output: NDArray[np.float32], *, first: int, z_weights: NDArray[np.float64]) -> None:
        """Fill in a slice between those from `first` on."""
        _zoom_slice(
            self._ring,
            first,
            z_weights,
            (self._along_y.start, self._along_y.weights),
            (self._along_x.start, self._x_weights),
            self._spread,
            self._totals,
            self._limits,
            output,
        )


@compiled_in_place
def _spread(row: NDArray[np.float64], z_weight: float, starts: NDArray[np.int64], spread: NDArray[np.float64]) -> None:
    for k in range(4):
        for x in range(starts.size):
            spread[k, x] = row[starts[x] + k] * z_weight


@compiled_in_place
def _add(
    spread: NDArray[np.float64], y_weight: float, x_weights: NDArray[np.float64], totals: NDArray[np.float64]
) -> None:
    first, second, third, fourth = spread[0], spread[1], spread[2], spread[3]
    of_first, of_second, of_third, of_fourth = x_weights[0], x_weights[1], x_weights[2], x_weights[3]
    for x in range(totals.size):
        total = totals[x] + first[x] * y_weight * of_first[x]
        total += second[x] * y_weight * of_second[x]
        total += third[x] * y_weight * of_third[x]
        totals[x] = total + fourth[x] * y_weight * of_fourth[x]


@compiled_in_place
def _zoom_slice(
    ring: NDArray[np.float64],
    first: int,
    z_weights: NDArray[np.float64],
    along_y: tuple[NDArray[np.int64], NDArray[np.float64]],
    along_x: tuple[NDArray[np.int64], NDArray[np.float64]],
    spread: NDArray[np.float64],
    totals: NDArray[np.float64],
    limits: tuple[float, float],
    output: NDArray[np.float32],
) -> None:
    starts, y_weights = along_y
    num, end = z_weights.size, 0
    for y in range(output.shape[0]):
        start = starts[y]
        for row in range(max(end, start), start + 4):
            for k in range(num):
                _spread(ring[(first + k) % num, row], z_weights[k], along_x[0], spread[k, row % 4])
        end = start + 4
        totals[:] = 0.0
        for k in range(4 * num):
            _add(spread[k // 4, (start + k % 4) % 4], y_weights[y, k % 4], along_x[1], totals)
        for x in range(totals.size):
            output[y, x] = np.float32(min(max(totals[x], limits[0]), limits[1]))
