"""Voxels at the surface of a mask: what a binary erosion takes away."""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place


def find_voxel_borders(mask: NDArray[np.uint64], *, is_flat: bool) -> NDArray[np.uint64]:
    """Find the voxels of a packed mask that have a neighbour across a face, or an edge of a pixel, outside of it.

    Parameters
    ----------
    mask : uint64 array, shape (z + 2, y + 2, words), or (2, y + 2, words) if flat, as in `MaskPair`
    is_flat : whether only neighbours in the plane count

    Returns
    -------
    uint64 array, shape (z + 1, y + 1, words), or (1, y + 1, words): one bit a voxel, none in the last row and slice
    """
    borders = np.zeros((mask.shape[0] - 1, mask.shape[1] - 1, mask.shape[2]), np.uint64)
    _write_borders(mask, is_flat, borders)
    return borders


@compiled_in_place
def _write_borders(mask: NDArray[np.uint64], is_flat: bool, borders: NDArray[np.uint64]) -> None:
    one, top, every = np.uint64(1), np.uint64(63), ~np.uint64(0)
    num_words = mask.shape[2]
    for z in range(1, 2 if is_flat else mask.shape[0] - 1):
        for y in range(1, mask.shape[1] - 1):
            for w in range(num_words):
                here = mask[z, y, w]
                if here == np.uint64(0):
                    continue
                left, right = here << one, here >> one
                if w > 0:
                    left |= mask[z, y, w - 1] >> top
                if w + 1 < num_words:
                    right |= mask[z, y, w + 1] << top
                beside = every if is_flat else mask[z - 1, y, w] & mask[z + 1, y, w]
                inside = left & right & mask[z, y - 1, w] & mask[z, y + 1, w] & beside
                borders[z - 1, y - 1, w] = here & ~inside
