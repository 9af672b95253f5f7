"""Between which voxels those of another grid lie, and how near: the numbers of scipy's zoom with `grid_mode`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Taps(NamedTuple):
    """The two voxels along one axis from which each voxel of another grid is interpolated."""

    lower: NDArray[np.int64]
    """Index of the first one."""
    upper: NDArray[np.int64]
    """Index of the second one: the next, or the same at an edge or where nothing is interpolated."""
    lower_weight: NDArray[np.float64]
    """Of the first one."""
    upper_weight: NDArray[np.float64]
    """Of the second one."""

    def shifted(self, offset: int) -> "Taps":
        """Return the same taps on a grid that begins `offset` voxels earlier."""
        return self._replace(lower=self.lower + offset, upper=self.upper + offset)

    def part(self, voxels: slice) -> "Taps":
        """Return the taps of some voxels of the other grid."""
        return Taps(self.lower[voxels], self.upper[voxels], self.lower_weight[voxels], self.upper_weight[voxels])


def same_taps(num: int) -> Taps:
    """Return the taps of a grid from itself."""
    index = np.arange(num)
    return Taps(lower=index, upper=index, lower_weight=np.ones(num), upper_weight=np.zeros(num))


def linear_taps(num_in: int, num_out: int) -> Taps:
    """Return the taps of scipy's zoom of order 1, mode `nearest`, from `num_in` to `num_out` voxels, bit for bit.

    Positions are not limited to the grid, only indices are: the weights at an edge are those beyond it.
    """
    position = (np.arange(num_out) + 0.5) * (num_in / num_out) - 0.5
    below = np.floor(position)
    lower_weight = 1.0 - (position - below)
    lower = below.astype(np.int64)
    return Taps(
        lower=lower.clip(0, num_in - 1),
        upper=(lower + 1).clip(0, num_in - 1),
        lower_weight=lower_weight,
        upper_weight=1.0 - lower_weight,
    )


def nearest_taps(num_in: int, num_out: int) -> Taps:
    """Return the taps of scipy's `map_coordinates` of order 0, mode `nearest`, at the positions of such a zoom."""
    position = (num_in / num_out) * (np.arange(num_out) + 0.5) - 0.5
    index = np.floor(position.clip(0, num_in - 1) + 0.5).astype(np.int64)
    return Taps(lower=index, upper=index, lower_weight=np.ones(num_out), upper_weight=np.zeros(num_out))
