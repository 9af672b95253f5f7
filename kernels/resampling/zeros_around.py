"""Voxels around a body: zeros from which a path of zeros leads to an edge of the volume, as if holes were filled."""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place

_WITHIN, _AROUND = np.uint8(1), np.uint8(2)


def zeros_around(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where an image is zero in all channels and not enclosed by what is not zero.

    Neighbours share a face. What is not marked is scipy's `binary_fill_holes` of the voxels that are not zero.

    Parameters
    ----------
    image : float32 array, shape (channels, Z, Y, X)

    Returns
    -------
    bool array, shape (Z, Y, X)
    """
    zeros = np.empty(image.shape[1:], np.uint8)
    for z, plane in enumerate(zeros):
        np.all(image[:, z] == 0, axis=0, out=plane.view(np.bool_))
    for axis in range(zeros.ndim):
        for face in (0, -1):
            edge = np.moveaxis(zeros, axis, 0)[face]
            edge[edge == _WITHIN] = _AROUND
    # Forwards and backwards, until nothing changes: a path takes a turn for each time that it turns back.
    while _sweep(zeros, 1) or _sweep(zeros, -1):
        pass
    marked: NDArray[np.bool_] = zeros == _AROUND
    return marked


@compiled_in_place
def _sweep(zeros: NDArray[np.uint8], step: int) -> bool:
    """Go over all lines in one direction, mark what touches marked zeros, and return whether that was anything."""
    num_slices, num_rows = zeros.shape[0], zeros.shape[1]
    is_changed = False
    for i in range(num_slices):
        z = i if step > 0 else num_slices - 1 - i
        for j in range(num_rows):
            y = j if step > 0 else num_rows - 1 - j
            below, above = zeros[max(z - 1, 0), y], zeros[min(z + 1, num_slices - 1), y]
            before, after = zeros[z, max(y - 1, 0)], zeros[z, min(y + 1, num_rows - 1)]
            kinds = _touch(zeros[z, y], below, above, before, after)
            is_changed |= kinds > 3
            if kinds & 3 == 3:
                is_changed |= _touch_along(zeros[z, y])
    return is_changed


@compiled_in_place
def _touch(
    row: NDArray[np.uint8],
    below: NDArray[np.uint8],
    above: NDArray[np.uint8],
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
) -> int:
    """Mark zeros beside marked ones of other lines; returns the kinds that there are, and 4 if one was marked."""
    kinds = np.uint8(0)
    for x in range(row.size):
        marks = (below[x] | above[x] | before[x] | after[x]) & _AROUND
        is_new = (row[x] & _WITHIN) & (marks >> np.uint8(1))
        row[x] = row[x] + is_new
        kinds |= row[x] | (is_new << np.uint8(2))
    return int(kinds)


@compiled_in_place
def _touch_along(row: NDArray[np.uint8]) -> bool:
    is_changed = False
    for x in range(1, row.size):
        if row[x] == _WITHIN and row[x - 1] == _AROUND:
            row[x] = _AROUND
            is_changed = True
    for x in range(row.size - 2, -1, -1):
        if row[x] == _WITHIN and row[x + 1] == _AROUND:
            row[x] = _AROUND
            is_changed = True
    return is_changed
