"""Where the voxels of a rotated and scaled patch lie, and what of an image they need.

A patch is sampled at ``matrix @ (i - middle of the patch) + centre`` for every index i, in voxels (z, y, x).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A box is enlarged by this many voxels, for what rounding may do to positions.
_ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """Voxels of an array, (z, y, x)."""

    start: tuple[int, int, int]
    shape: tuple[int, int, int]


def rotation_matrix(angles_rad: tuple[float, float, float], scales: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the matrix, shape (3, 3), that scales the axes (z, y, x) and then rotates about each of them in turn."""
    (s0, s1, s2), (c0, c1, c2) = np.sin(angles_rad), np.cos(angles_rad)
    about_z = np.array([[1, 0, 0], [0, c0, -s0], [0, s0, c0]])
    about_y = np.array([[c1, 0, s1], [0, 1, 0], [-s1, 0, c1]])
    about_x = np.array([[c2, -s2, 0], [s2, c2, 0], [0, 0, 1]])
    matrix: NDArray[np.float64] = about_x @ about_y @ about_z @ np.diag(scales)
    return matrix


def box_needed(
    *,
    matrix: NDArray[np.float64],
    centre: tuple[float, float, float],
    patch_shape: tuple[int, int, int],
    limits: tuple[int, int, int],
) -> Box:
    """Return the voxels within `limits` that can have a part in a patch.

    Parameters
    ----------
    matrix
        Shape (3, 3), from steps in the patch to steps in the image.
    centre
        Where the middle of the patch lies, in voxels (z, y, x).
    patch_shape
        Of the patch.
    limits
        Shape of the array beyond which everything counts as padding.
    """
    half = np.abs(matrix) @ ((np.array(patch_shape) - 1) / 2) + _ROUNDING
    first = np.clip(np.floor(np.array(centre) - half), 0, np.array(limits) - 1).astype(int)
    last = np.clip(np.floor(np.array(centre) + half) + 1, first, np.array(limits) - 1).astype(int)
    start, shape = first.tolist(), (last - first + 1).tolist()
    return Box(start=(start[0], start[1], start[2]), shape=(shape[0], shape[1], shape[2]))


def slabs_needed(
    *,
    matrix: NDArray[np.float64],
    centre: tuple[float, float, float],
    patch_shape: tuple[int, int, int],
) -> NDArray[np.float64]:
    """Return which voxels of a box can have a part in a patch, as three pairs of planes: the patch stands aslant in it.

    Parameters are those of `box_needed`, but that `centre` counts from the start of the box. A voxel p has no part if
    ``abs(slabs[k, :3] @ p - slabs[k, 3]) > 1`` for any row k of the result, whose shape is (3, 4).
    """
    inverse = np.linalg.inv(matrix)
    # A neighbour lies less than a voxel from the point along each axis.
    half = (np.array(patch_shape) - 1) / 2 + np.abs(inverse).sum(axis=1) + _ROUNDING
    normals = inverse / half[:, None]
    slabs: NDArray[np.float64] = np.column_stack([normals, normals @ np.array(centre)])
    return slabs
