"""Cubic interpolation of a volume on another grid, by slices: the numbers of scipy's zoom, order 3, mode `nearest`.

The spline's coefficients are scipy's own; products and sums are in its order (z, then y, then x), so that the results
are the same to the last bit.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place

MARGIN = 12
"""Voxels by which scipy continues each edge before it filters."""


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


def zoom_cubic(
    coefficients: NDArray[np.float64], output: NDArray[np.float32], *, lowest: float, highest: float
) -> None:
    """Fill in the volume on another grid.

    Parameters
    ----------
    coefficients : float64 array, shape (Z + 24, Y + 24, X + 24)
        Of the spline, with a margin of 12 voxels at each edge.
    output : float32 array, shape (z, y, x)
        Filled in.
    lowest, highest : float
        To which the results are limited.
    """
    inner = (size - 2 * MARGIN for size in coefficients.shape)
    along_z, along_y, along_x = (cubic_taps(num, new) for num, new in zip(inner, output.shape, strict=True))
    products = np.empty((16, coefficients.shape[2]))
    totals = np.empty(output.shape[2])
    x_weights = np.ascontiguousarray(along_x.weights.T)
    for z in range(output.shape[0]):
        start = int(along_z.start[z])
        _zoom_slice(
            coefficients[start : start + 4],
            along_z.weights[z],
            along_y.start,
            along_y.weights,
            along_x.start,
            x_weights,
            products,
            totals,
            (lowest, highest),
            output[z],
        )


@compiled_in_place
def _multiply(line: NDArray[np.float64], z_weight: float, y_weight: float, products: NDArray[np.float64]) -> None:
    for x in range(line.size):
        products[x] = line[x] * z_weight * y_weight


@compiled_in_place
def _add(
    products: NDArray[np.float64], starts: NDArray[np.int64], weights: NDArray[np.float64], totals: NDArray[np.float64]
) -> None:
    for x in range(totals.size):
        start = starts[x]
        total = totals[x] + products[start] * weights[0, x]
        total += products[start + 1] * weights[1, x]
        total += products[start + 2] * weights[2, x]
        totals[x] = total + products[start + 3] * weights[3, x]


@compiled_in_place
def _zoom_slice(
    coefficients: NDArray[np.float64],
    z_weights: NDArray[np.float64],
    y_starts: NDArray[np.int64],
    y_weights: NDArray[np.float64],
    x_starts: NDArray[np.int64],
    x_weights: NDArray[np.float64],
    products: NDArray[np.float64],
    totals: NDArray[np.float64],
    limits: tuple[float, float],
    output: NDArray[np.float32],
) -> None:
    for y in range(output.shape[0]):
        totals[:] = 0.0
        for k in range(16):
            row = y_starts[y] + k % 4
            _multiply(coefficients[k // 4, row], z_weights[k // 4], y_weights[y, k % 4], products[k])
            _add(products[k], x_starts, x_weights, totals)
        for x in range(totals.size):
            output[y, x] = np.float32(min(max(totals[x], limits[0]), limits[1]))
