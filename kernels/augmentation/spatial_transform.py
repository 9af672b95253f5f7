"""Rotation and scaling of a patch in one pass: the image trilinear, the labels by vote.

The patch is sampled at ``matrix @ (i - middle of the patch) + centre`` for every index i, in voxels of the box that is
given. What lies outside of the box is padding: 0 in the image, `PADDING_LABEL` in the segmentation. The neighbours of a
point vote on its label, all labels at once; batchgeneratorsv2's SpatialTransform calls `grid_sample` for each of them.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.augmentation.label_vote import Ballot, new_ballot, vote
from kernels.compiled import compiled
from kernels.llvm.intrinsics import prefetch

PADDING_LABEL = -1

Position = tuple[float, float, float]
Line = tuple[Position, Position]
"""Where the first voxel of a row lies, and the step to the next."""


class _Volume(NamedTuple):
    """A box or a patch, C-ordered."""

    image: NDArray[np.float32]
    """Shape (C, z, y, x)."""
    segmentation: NDArray[np.int16]
    """Shape (z, y, x)."""


class _Places(NamedTuple):
    """Memory for the places of the voxels of a row: the first neighbour, and how far beyond it they lie."""

    at: NDArray[np.int64]
    fz: NDArray[np.float32]
    fy: NDArray[np.float32]
    fx: NDArray[np.float32]


def sample_patch(
    image: NDArray[np.float32],
    segmentation: NDArray[np.int16],
    *,
    matrix: NDArray[np.float64],
    centre: tuple[float, float, float],
    patch_image: NDArray[np.float32],
    patch_segmentation: NDArray[np.int16],
) -> None:
    """Fill `patch_image` and `patch_segmentation` from a box.

    Parameters
    ----------
    image
        Shape (C, z, y, x), C-ordered: the box.
    segmentation
        Shape (z, y, x), C-ordered: labels of the box.
    matrix
        Shape (3, 3), from steps in the patch to steps in the box.
    centre
        Where in the box the middle of the patch lies, in voxels (z, y, x).
    patch_image
        Shape (C, Z, Y, X), C-ordered; overwritten.
    patch_segmentation
        Shape (Z, Y, X), C-ordered; overwritten.
    """
    middle = (np.array(patch_segmentation.shape) - 1) / 2
    affine = np.column_stack([matrix, np.array(centre) - matrix @ middle])
    box, patch = _Volume(image, segmentation), _Volume(patch_image, patch_segmentation)
    if _keeps_slices(affine):
        _sample_slices(box, affine, patch)
    else:
        _sample_volume(box, affine, patch)


def _keeps_slices(affine: NDArray[np.float64]) -> bool:
    """Whether every slice of the patch is sampled from one slice of the box."""
    unit = np.array([1.0, 0.0, 0.0])
    whole = abs(affine[0, 3] - round(affine[0, 3])) < 1e-3
    return bool(whole and (affine[0, :3] == unit).all() and (affine[:, 0] == unit).all())


@compiled
def _new_places(num: int) -> _Places:
    return _Places(
        np.zeros(num, np.int64), np.zeros(num, np.float32), np.zeros(num, np.float32), np.zeros(num, np.float32)
    )


@compiled
def _within(start: float, step: float, low: float, high: float, num: int) -> tuple[int, int]:
    """Return the first and one past the last x whose ``start + x step`` lies within [low, high)."""
    if abs(step) < 1e-12:
        return (0, num) if low <= start < high else (0, 0)
    a, b = (low - start) / step, (high - start) / step
    if a > b:
        a, b = b, a
    first = max(0, min(num, math.ceil(a)))
    return first, max(first, min(num, math.ceil(b)))


@compiled
def _label_at(segmentation: NDArray[np.int16], z: int, y: int, x: int) -> np.int16:
    """Return the label of a voxel, which may lie outside."""
    size_z, size_y, size_x = segmentation.shape
    if 0 <= z < size_z and 0 <= y < size_y and 0 <= x < size_x:
        return np.int16(segmentation[z, y, x])
    return np.int16(PADDING_LABEL)


@compiled
def _parts(box: _Volume, line: Line, num: int, keeps_slices: bool) -> tuple[int, int, int, int]:
    """Return where, of a row, neighbours inside of the box begin, then those that all are, and where either ends.

    Before and behind the outer part all neighbours are padding. A row that keeps to its slice has no neighbours beyond.
    """
    start, step = line
    begin, first, last, end = 0, 0, num, num
    for axis in range(1 if keeps_slices else 0, 3):
        size = box.segmentation.shape[axis]
        # Two millionths of a voxel keep rounding from reading beyond the box.
        a, b = _within(start[axis], step[axis], 2e-6, size - 1 - 2e-6, num)
        first, last = max(first, a), min(last, b)
        a, b = _within(start[axis], step[axis], -1 - 2e-6, size + 2e-6, num)
        begin, end = max(begin, a), min(end, b)
    if keeps_slices and not 0 <= start[0] < box.segmentation.shape[0]:
        end = begin
    end = max(begin, end)
    first = min(max(first, begin), end)
    return begin, first, min(max(last, first), end), end


@compiled
def _pad(row: _Volume, part: tuple[int, int]) -> None:
    """Fill a part of a row that lies outside of the box with all of its neighbours."""
    row.image[:, part[0] : part[1]] = np.float32(0)
    row.segmentation[part[0] : part[1]] = np.int16(PADDING_LABEL)


@compiled
def _sample_border(box: _Volume, line: Line, row: _Volume, part: tuple[int, int], ballot: Ballot) -> None:
    """Sample a part of a row anywhere."""
    start, step = line
    size_z, size_y, size_x = box.segmentation.shape
    one = np.float32(1)
    for t in range(part[0], part[1]):
        pz, py, px = start[0] + step[0] * t, start[1] + step[1] * t, start[2] + step[2] * t
        z, y, x = math.floor(pz), math.floor(py), math.floor(px)
        fz, fy, fx = np.float32(pz - z), np.float32(py - y), np.float32(px - x)
        row.image[:, t] = np.float32(0)
        for k in range(8):
            weight_z = fz if k & 4 else one - fz
            weight_y = fy if k & 2 else one - fy
            weight_x = fx if k & 1 else one - fx
            ballot.weights[k] = weight_x * weight_y * weight_z
            kz, ky, kx = z + (k >> 2), y + ((k >> 1) & 1), x + (k & 1)
            ballot.labels[k] = _label_at(box.segmentation, kz, ky, kx)
            if 0 <= kz < size_z and 0 <= ky < size_y and 0 <= kx < size_x:
                for c in range(box.image.shape[0]):
                    row.image[c, t] += box.image[c, kz, ky, kx] * ballot.weights[k]
        nearest = _label_at(box.segmentation, int(np.rint(pz)), int(np.rint(py)), int(np.rint(px)))
        row.segmentation[t] = vote(ballot, nearest)


@compiled
def _sample_volume(box: _Volume, affine: NDArray[np.float64], patch: _Volume) -> None:
    """Sample every voxel from eight; those of a row with all eight inside need no checks."""
    num = patch.segmentation.shape[2]
    ballot, places = new_ballot(8), _new_places(num)
    step = (affine[0, 2], affine[1, 2], affine[2, 2])
    is_turned, ahead = affine[0, 2] != 0 or affine[1, 2] != 0, _to_next_row(box, affine)
    for z in range(patch.segmentation.shape[0]):
        for y in range(patch.segmentation.shape[1]):
            start = (
                affine[0, 3] + affine[0, 0] * z + affine[0, 1] * y,
                affine[1, 3] + affine[1, 0] * z + affine[1, 1] * y,
                affine[2, 3] + affine[2, 0] * z + affine[2, 1] * y,
            )
            row = _Volume(patch.image[:, z, y], patch.segmentation[z, y])
            begin, first, last, end = _parts(box, (start, step), num, False)
            _pad(row, (0, begin))
            _sample_border(box, (start, step), row, (begin, first), ballot)
            _find_places(box, (start, step), (first, last), places)
            if is_turned:
                _ask_ahead(box, places, (first, last), ahead)
            _interpolate_inner(box, places, row, (first, last))
            _elect_inner(box, places, row, (first, last), ballot)
            _sample_border(box, (start, step), row, (last, end), ballot)
            _pad(row, (end, num))


@compiled
def _to_next_row(box: _Volume, affine: NDArray[np.float64]) -> int:
    """Return how far in memory the last neighbour of a voxel lies beyond the first of the one a row before."""
    size_y, size_x = box.segmentation.shape[1], box.segmentation.shape[2]
    z, y, x = np.rint(affine[0, 1]), np.rint(affine[1, 1]), np.rint(affine[2, 1])
    return int(((z + 1) * size_y + y + 1) * size_x + x)


@compiled
def _ask_ahead(box: _Volume, places: _Places, part: tuple[int, int], ahead: int) -> None:
    """Ask for what the next row is sampled from: a turned row crosses the box so that no processor foresees it."""
    for c in range(box.image.shape[0]):
        values = box.image[c].reshape(-1)
        for t in range(part[0], part[1]):
            prefetch(values, places.at[t] + ahead)
    labels = box.segmentation.reshape(-1)
    for t in range(part[0], part[1]):
        prefetch(labels, places.at[t] + ahead)


@compiled
def _find_places(box: _Volume, line: Line, part: tuple[int, int], places: _Places) -> None:
    """Note the first neighbour of each voxel of a part of a row, and how far beyond it the voxel lies."""
    start, step = line
    at, fz, fy, fx = places
    size_y, size_x = box.segmentation.shape[1], box.segmentation.shape[2]
    for t in range(part[0], part[1]):
        pz, py, px = start[0] + step[0] * t, start[1] + step[1] * t, start[2] + step[2] * t
        z, y, x = np.int32(pz), np.int32(py), np.int32(px)
        fz[t], fy[t], fx[t] = np.float32(pz - z), np.float32(py - y), np.float32(px - x)
        at[t] = (z * size_y + y) * size_x + x


# Places are unsigned in the loops below, since Numba checks a signed index for being negative at every access.
@compiled
def _interpolate_inner(box: _Volume, places: _Places, row: _Volume, part: tuple[int, int]) -> None:
    """Interpolate a part of a row between eight neighbours that are all inside of the box."""
    at, fz, fy, fx = places
    down = np.uint64(box.segmentation.shape[2])
    up = np.uint64(box.segmentation.shape[1] * box.segmentation.shape[2])
    for c in range(box.image.shape[0]):
        values, out = box.image[c].reshape(-1), row.image[c]
        for t in range(part[0], part[1]):
            i, j = np.uint64(at[t]), np.uint64(at[t] + 1)
            a, b = values[i], values[i + down]
            d, e = values[i + up], values[i + up + down]
            a += (values[j] - a) * fx[t]
            b += (values[j + down] - b) * fx[t]
            d += (values[j + up] - d) * fx[t]
            e += (values[j + up + down] - e) * fx[t]
            a += (b - a) * fy[t]
            d += (e - d) * fy[t]
            out[t] = a + (d - a) * fz[t]


@compiled
def _elect_inner(box: _Volume, places: _Places, row: _Volume, part: tuple[int, int], ballot: Ballot) -> None:
    """Let eight neighbours vote, which are all inside of the box; mostly they agree."""
    at, fz, fy, fx = places
    values, out = box.segmentation.reshape(-1), row.segmentation
    labels, weights, _, _ = ballot
    down = np.uint64(box.segmentation.shape[2])
    up = np.uint64(box.segmentation.shape[1] * box.segmentation.shape[2])
    one = np.float32(1)
    for t in range(part[0], part[1]):
        i, j = np.uint64(at[t]), np.uint64(at[t] + 1)
        l0, l1, l2, l3 = values[i], values[j], values[i + down], values[j + down]
        l4, l5, l6, l7 = values[i + up], values[j + up], values[i + up + down], values[j + up + down]
        out[t] = l0
        if (l0 ^ l1) | (l0 ^ l2) | (l0 ^ l3) | (l0 ^ l4) | (l0 ^ l5) | (l0 ^ l6) | (l0 ^ l7) != 0:
            labels[0], labels[1], labels[2], labels[3] = l0, l1, l2, l3
            labels[4], labels[5], labels[6], labels[7] = l4, l5, l6, l7
            a, b = (one - fx[t]) * (one - fy[t]), fx[t] * (one - fy[t])
            d, e = (one - fx[t]) * fy[t], fx[t] * fy[t]
            gz = one - fz[t]
            weights[0], weights[1], weights[2], weights[3] = a * gz, b * gz, d * gz, e * gz
            weights[4], weights[5], weights[6], weights[7] = a * fz[t], b * fz[t], d * fz[t], e * fz[t]
            out[t] = vote(ballot, labels[_nearest(fx[t]) + 2 * _nearest(fy[t]) + 4 * _nearest(fz[t])])


@compiled
def _nearest(fraction: np.float32) -> int:
    """Return 1 if the second of two neighbours is nearer."""
    return 1 if fraction > np.float32(0.5) else 0


@compiled
def _sample_slices(box: _Volume, affine: NDArray[np.float64], patch: _Volume) -> None:
    """Sample every voxel from four of its own slice; those of a row with all four inside need no checks."""
    num = patch.segmentation.shape[2]
    ballot, places = new_ballot(8), _new_places(num)
    few = new_ballot(4)
    step = (0.0, affine[1, 2], affine[2, 2])
    for z in range(patch.segmentation.shape[0]):
        from_z = int(np.rint(affine[0, 3])) + z
        for y in range(patch.segmentation.shape[1]):
            start = (float(from_z), affine[1, 3] + affine[1, 1] * y, affine[2, 3] + affine[2, 1] * y)
            row = _Volume(patch.image[:, z, y], patch.segmentation[z, y])
            begin, first, last, end = _parts(box, (start, step), num, True)
            _pad(row, (0, begin))
            _sample_border(box, (start, step), row, (begin, first), ballot)
            _find_places(box, (start, step), (first, last), places)
            _sample_inner_slice(box, places, row, (first, last), few)
            _sample_border(box, (start, step), row, (last, end), ballot)
            _pad(row, (end, num))


@compiled
def _sample_inner_slice(box: _Volume, places: _Places, row: _Volume, part: tuple[int, int], ballot: Ballot) -> None:
    """Interpolate between four neighbours of one slice, and let them vote."""
    at, _, fy, fx = places
    labels, weights, _, _ = ballot
    down = np.uint64(box.segmentation.shape[2])
    one = np.float32(1)
    for c in range(box.image.shape[0]):
        values, out = box.image[c].reshape(-1), row.image[c]
        for t in range(part[0], part[1]):
            i, j = np.uint64(at[t]), np.uint64(at[t] + 1)
            a, b = values[i], values[i + down]
            a += (values[j] - a) * fx[t]
            b += (values[j + down] - b) * fx[t]
            out[t] = a + (b - a) * fy[t]
    segmentation, elected = box.segmentation.reshape(-1), row.segmentation
    for t in range(part[0], part[1]):
        i, j = np.uint64(at[t]), np.uint64(at[t] + 1)
        l0, l1, l2, l3 = segmentation[i], segmentation[j], segmentation[i + down], segmentation[j + down]
        elected[t] = l0
        if (l0 ^ l1) | (l0 ^ l2) | (l0 ^ l3) != 0:
            labels[0], labels[1], labels[2], labels[3] = l0, l1, l2, l3
            weights[0], weights[1] = (one - fx[t]) * (one - fy[t]), fx[t] * (one - fy[t])
            weights[2], weights[3] = (one - fx[t]) * fy[t], fx[t] * fy[t]
            elected[t] = vote(ballot, labels[_nearest(fx[t]) + 2 * _nearest(fy[t])])
