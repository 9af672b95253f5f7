"""Rotation, scaling and elastic deformation of a patch in one pass: the image trilinear, the labels by vote.

The patch is sampled at ``matrix @ (i - middle of the patch) + centre`` for every index i, in voxels of the box that is
given. What lies outside of the box is padding: 0 in the image, `PADDING_LABEL` in the segmentation. A label's score is
the weight of the neighbours that have it, rounded to float16 after multiplication by 1000; the highest wins, and a tie
goes to the label of the nearest voxel if that is among the best, else to the lowest label. These are the rules of
batchgeneratorsv2's SpatialTransform, which calls `grid_sample` once for every label.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled

PADDING_LABEL = -1

_THOUSAND = np.float32(1000)
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
    reach: tuple[float, float, float] = (0.0, 0.0, 0.0),
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
    reach
        Farthest that an elastic deformation moves a point of the patch along (z, y, x).
    """
    half = np.abs(matrix) @ ((np.array(patch_shape) - 1) / 2 + 2 * np.array(reach)) + _ROUNDING
    first = np.clip(np.floor(np.array(centre) - half), 0, np.array(limits) - 1).astype(int)
    last = np.clip(np.floor(np.array(centre) + half) + 1, first, np.array(limits) - 1).astype(int)
    start, shape = first.tolist(), (last - first + 1).tolist()
    return Box(start=(start[0], start[1], start[2]), shape=(shape[0], shape[1], shape[2]))


def sample_patch(
    image: NDArray[np.float32],
    segmentation: NDArray[np.int16],
    *,
    matrix: NDArray[np.float64],
    centre: tuple[float, float, float],
    patch_image: NDArray[np.float32],
    patch_segmentation: NDArray[np.int16],
    offsets: NDArray[np.float32] | None = None,
) -> None:
    """Fill `patch_image` and `patch_segmentation` from a box.

    Parameters
    ----------
    image
        Shape (C, z, y, x), C-ordered: the box.
    segmentation
        Shape (z, y, x), C-ordered: labels of the box.
    matrix, centre
        As above; `centre` counts from the start of the box.
    patch_image
        Shape (C, Z, Y, X), C-ordered; overwritten.
    patch_segmentation
        Shape (Z, Y, X), C-ordered; overwritten.
    offsets
        Shape (3, Z, Y, X): what is added to the steps in the patch before the matrix; None for no deformation. Their
        mean is taken out again, so that the patch stays where it is.
    """
    middle = (np.array(patch_segmentation.shape) - 1) / 2
    if offsets is not None:
        middle = middle + offsets.mean(axis=(1, 2, 3), dtype=np.float64)
    origin = np.array(centre) - matrix @ middle
    if offsets is not None:
        _sample_deformed(image, segmentation, matrix, origin, offsets, patch_image, patch_segmentation)
    elif _keeps_slices(matrix, origin):
        _sample_slices(image, segmentation, matrix, origin, patch_image, patch_segmentation)
    else:
        _sample_volume(image, segmentation, matrix, origin, patch_image, patch_segmentation)


def elastic_offsets(
    generator: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    sigmas: tuple[float, float, float],
    magnitudes: tuple[float, float, float],
) -> NDArray[np.float32]:
    """Return smooth random displacements, shape (3, Z, Y, X): white noise blurred with `sigmas` voxels.

    Entry k of both is that of the displacement along axis k, whose largest is `magnitudes[k]` voxels. An axis of one
    slice is neither blurred nor displaced.
    """
    offsets = np.zeros((3, *shape), np.float32)
    for axis in range(3):
        noise = generator.standard_normal(shape, dtype=np.float32)
        if shape[axis] == 1:
            continue
        spectrum = np.fft.rfftn(noise)
        for along, size in enumerate(shape):
            frequency = np.fft.rfftfreq(size) if along == 2 else np.fft.fftfreq(size)
            damping = np.exp(-2 * (math.pi * sigmas[axis] * frequency) ** 2)
            spectrum *= damping.reshape([-1 if axis_ == along else 1 for axis_ in range(3)])
        smooth = np.fft.irfftn(spectrum, s=shape, axes=(0, 1, 2))
        offsets[axis] = smooth * (max(magnitudes[axis], 1e-8) / np.abs(smooth).max())
    return offsets


def _keeps_slices(matrix: NDArray[np.float64], origin: NDArray[np.float64]) -> bool:
    """Whether every slice of the patch is sampled from one slice of the box."""
    unit = np.array([1.0, 0.0, 0.0])
    whole = abs(origin[0] - round(origin[0])) < _ROUNDING
    return bool(whole and (matrix[0] == unit).all() and (matrix[:, 0] == unit).all())


@compiled
def _as_float16(score: np.float32) -> np.float32:
    """Round a score from 64 to 1024 to the nearest float16; lower ones never win, so they stay as they are."""
    if score >= np.float32(512):
        return np.float32((score + np.float32(6291456)) - np.float32(6291456))
    if score >= np.float32(256):
        return np.float32((score + np.float32(3145728)) - np.float32(3145728))
    if score >= np.float32(128):
        return np.float32((score + np.float32(1572864)) - np.float32(1572864))
    if score >= np.float32(64):
        return np.float32((score + np.float32(786432)) - np.float32(786432))
    return score


@compiled
def _vote(
    labels: NDArray[np.int16],
    weights: NDArray[np.float32],
    nearest: np.int16,
    names: NDArray[np.int16],
    scores: NDArray[np.float32],
) -> np.int16:
    """Return the label with the highest score; `names` and `scores` are scratch memory."""
    num = 0
    for k in range(labels.size):
        found = num
        for j in range(num):
            if names[j] == labels[k]:
                found = j
        if found == num:
            names[num] = labels[k]
            scores[num] = np.float32(0)
            num += 1
        scores[found] += weights[k] * _THOUSAND
    best, best_score, nearest_score = names[0], np.float32(-1), np.float32(-2)
    for j in range(num):
        score = _as_float16(scores[j])
        if names[j] == nearest:
            nearest_score = score
        if score > best_score or (score == best_score and names[j] < best):
            best, best_score = names[j], score
    return nearest if nearest_score == best_score else best


@compiled
def _inside(start: float, step: float, size: int, num: int) -> tuple[int, int]:
    """Return the first and one past the last x whose ``start + x step`` lies within [0, size - 1)."""
    # Two millionths of a voxel keep rounding from reading beyond the box.
    low, high = 2e-6, size - 1 - 2e-6
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
        return segmentation[z, y, x]
    return np.int16(PADDING_LABEL)


@compiled
def _sample_point(
    image: NDArray[np.float32],
    segmentation: NDArray[np.int16],
    position: tuple[float, float, float],
    target: tuple[int, int, int],
    patch_image: NDArray[np.float32],
    patch_segmentation: NDArray[np.int16],
    labels: NDArray[np.int16],
    weights: NDArray[np.float32],
    names: NDArray[np.int16],
    scores: NDArray[np.float32],
) -> None:
    """Sample one voxel of a patch anywhere."""
    size_z, size_y, size_x = segmentation.shape
    pz, py, px = position
    tz, ty, tx = target
    z, y, x = math.floor(pz), math.floor(py), math.floor(px)
    fz, fy, fx = np.float32(pz - z), np.float32(py - y), np.float32(px - x)
    one = np.float32(1)
    for k in range(8):
        weight_z = fz if k & 4 else one - fz
        weight_y = fy if k & 2 else one - fy
        weight_x = fx if k & 1 else one - fx
        weights[k] = weight_x * weight_y * weight_z
        labels[k] = _label_at(segmentation, z + (k >> 2), y + ((k >> 1) & 1), x + (k & 1))
    for c in range(image.shape[0]):
        value = np.float32(0)
        for k in range(8):
            kz, ky, kx = z + (k >> 2), y + ((k >> 1) & 1), x + (k & 1)
            if 0 <= kz < size_z and 0 <= ky < size_y and 0 <= kx < size_x:
                value += image[c, kz, ky, kx] * weights[k]
        patch_image[c, tz, ty, tx] = value
    nearest = _label_at(segmentation, int(np.rint(pz)), int(np.rint(py)), int(np.rint(px)))
    patch_segmentation[tz, ty, tx] = _vote(labels, weights, nearest, names, scores)


@compiled
def _sample_volume(
    image: NDArray[np.float32],
    segmentation: NDArray[np.int16],
    matrix: NDArray[np.float64],
    origin: NDArray[np.float64],
    patch_image: NDArray[np.float32],
    patch_segmentation: NDArray[np.int16],
) -> None:
    """Sample every voxel from eight; those of a row with all eight inside need no checks."""
    size_z, size_y, size_x = segmentation.shape
    labels, weights = np.empty(8, np.int16), np.empty(8, np.float32)
    names, scores = np.empty(8, np.int16), np.empty(8, np.float32)
    flat_labels = segmentation.reshape(-1)
    num_z, num_y, num_x = patch_segmentation.shape
    step_z, step_y, step_x = matrix[0, 2], matrix[1, 2], matrix[2, 2]
    up, down = size_y * size_x, size_x
    one = np.float32(1)
    for tz in range(num_z):
        for ty in range(num_y):
            start_z = origin[0] + matrix[0, 0] * tz + matrix[0, 1] * ty
            start_y = origin[1] + matrix[1, 0] * tz + matrix[1, 1] * ty
            start_x = origin[2] + matrix[2, 0] * tz + matrix[2, 1] * ty
            first, last = _inside(start_z, step_z, size_z, num_x)
            for begin, end in (
                _inside(start_y, step_y, size_y, num_x),
                _inside(start_x, step_x, size_x, num_x),
            ):
                first, last = max(first, begin), min(last, end)
            last = max(first, last)
            for tx in range(num_x):
                pz, py, px = start_z + step_z * tx, start_y + step_y * tx, start_x + step_x * tx
                if not first <= tx < last:
                    _sample_point(
                        image, segmentation, (pz, py, px), (tz, ty, tx),
                        patch_image, patch_segmentation, labels, weights, names, scores,
                    )  # fmt: skip
                    continue
                z, y, x = np.uint32(pz), np.uint32(py), np.uint32(px)
                fz, fy, fx = np.float32(pz - z), np.float32(py - y), np.float32(px - x)
                gz, gy, gx = one - fz, one - fy, one - fx
                at = (np.int64(z) * size_y + np.int64(y)) * size_x + np.int64(x)
                w0, w1, w2, w3 = gx * gy * gz, fx * gy * gz, gx * fy * gz, fx * fy * gz
                w4, w5, w6, w7 = gx * gy * fz, fx * gy * fz, gx * fy * fz, fx * fy * fz
                for c in range(image.shape[0]):
                    flat = image[c].reshape(-1)
                    value = flat[at] * w0 + flat[at + 1] * w1
                    value += flat[at + down] * w2 + flat[at + down + 1] * w3
                    value += flat[at + up] * w4 + flat[at + up + 1] * w5
                    value += flat[at + up + down] * w6 + flat[at + up + down + 1] * w7
                    patch_image[c, tz, ty, tx] = value
                l0 = flat_labels[at]
                differ = (l0 ^ flat_labels[at + 1]) | (l0 ^ flat_labels[at + down]) | (l0 ^ flat_labels[at + down + 1])
                differ |= (l0 ^ flat_labels[at + up]) | (l0 ^ flat_labels[at + up + 1])
                differ |= (l0 ^ flat_labels[at + up + down]) | (l0 ^ flat_labels[at + up + down + 1])
                if differ == 0:
                    patch_segmentation[tz, ty, tx] = l0
                    continue
                labels[0], labels[1] = l0, flat_labels[at + 1]
                labels[2], labels[3] = flat_labels[at + down], flat_labels[at + down + 1]
                labels[4], labels[5] = flat_labels[at + up], flat_labels[at + up + 1]
                labels[6], labels[7] = flat_labels[at + up + down], flat_labels[at + up + down + 1]
                weights[0], weights[1], weights[2], weights[3] = w0, w1, w2, w3
                weights[4], weights[5], weights[6], weights[7] = w4, w5, w6, w7
                nearest = segmentation[int(np.rint(pz)), int(np.rint(py)), int(np.rint(px))]
                patch_segmentation[tz, ty, tx] = _vote(labels, weights, nearest, names, scores)


@compiled
def _sample_slices(
    image: NDArray[np.float32],
    segmentation: NDArray[np.int16],
    matrix: NDArray[np.float64],
    origin: NDArray[np.float64],
    patch_image: NDArray[np.float32],
    patch_segmentation: NDArray[np.int16],
) -> None:
    """Sample every voxel from four of its own slice."""
    size_z, size_y, size_x = segmentation.shape
    labels, weights = np.empty(4, np.int16), np.empty(4, np.float32)
    names, scores = np.empty(4, np.int16), np.empty(4, np.float32)
    num_z, num_y, num_x = patch_segmentation.shape
    one = np.float32(1)
    for tz in range(num_z):
        z = tz + int(np.rint(origin[0]))
        if not 0 <= z < size_z:
            patch_image[:, tz] = np.float32(0)
            patch_segmentation[tz] = np.int16(PADDING_LABEL)
            continue
        for ty in range(num_y):
            start_y, start_x = origin[1] + matrix[1, 1] * ty, origin[2] + matrix[2, 1] * ty
            first, last = _inside(start_y, matrix[1, 2], size_y, num_x)
            begin, end = _inside(start_x, matrix[2, 2], size_x, num_x)
            first, last = max(first, begin), min(last, end)
            for tx in range(num_x):
                py, px = start_y + matrix[1, 2] * tx, start_x + matrix[2, 2] * tx
                y, x = math.floor(py), math.floor(px)
                fy, fx = np.float32(py - y), np.float32(px - x)
                gy, gx = one - fy, one - fx
                weights[0], weights[1], weights[2], weights[3] = gx * gy, fx * gy, gx * fy, fx * fy
                if first <= tx < last:
                    for c in range(image.shape[0]):
                        value = image[c, z, y, x] * weights[0] + image[c, z, y, x + 1] * weights[1]
                        value += image[c, z, y + 1, x] * weights[2] + image[c, z, y + 1, x + 1] * weights[3]
                        patch_image[c, tz, ty, tx] = value
                    labels[0], labels[1] = segmentation[z, y, x], segmentation[z, y, x + 1]
                    labels[2], labels[3] = segmentation[z, y + 1, x], segmentation[z, y + 1, x + 1]
                else:
                    for c in range(image.shape[0]):
                        value = np.float32(0)
                        for k in range(4):
                            ky, kx = y + (k >> 1), x + (k & 1)
                            if 0 <= ky < size_y and 0 <= kx < size_x:
                                value += image[c, z, ky, kx] * weights[k]
                        patch_image[c, tz, ty, tx] = value
                    for k in range(4):
                        labels[k] = _label_at(segmentation, z, y + (k >> 1), x + (k & 1))
                l0 = labels[0]
                if (l0 ^ labels[1]) | (l0 ^ labels[2]) | (l0 ^ labels[3]) == 0:
                    patch_segmentation[tz, ty, tx] = l0
                else:
                    nearest = _label_at(segmentation, z, int(np.rint(py)), int(np.rint(px)))
                    patch_segmentation[tz, ty, tx] = _vote(labels, weights, nearest, names, scores)


@compiled
def _sample_deformed(
    image: NDArray[np.float32],
    segmentation: NDArray[np.int16],
    matrix: NDArray[np.float64],
    origin: NDArray[np.float64],
    offsets: NDArray[np.float32],
    patch_image: NDArray[np.float32],
    patch_segmentation: NDArray[np.int16],
) -> None:
    """Sample every voxel where the deformation has moved it."""
    labels, weights = np.empty(8, np.int16), np.empty(8, np.float32)
    names, scores = np.empty(8, np.int16), np.empty(8, np.float32)
    num_z, num_y, num_x = patch_segmentation.shape
    for tz in range(num_z):
        for ty in range(num_y):
            for tx in range(num_x):
                dz, dy, dx = tz + offsets[0, tz, ty, tx], ty + offsets[1, tz, ty, tx], tx + offsets[2, tz, ty, tx]
                pz = origin[0] + matrix[0, 0] * dz + matrix[0, 1] * dy + matrix[0, 2] * dx
                py = origin[1] + matrix[1, 0] * dz + matrix[1, 1] * dy + matrix[1, 2] * dx
                px = origin[2] + matrix[2, 0] * dz + matrix[2, 1] * dy + matrix[2, 2] * dx
                _sample_point(
                    image, segmentation, (pz, py, px), (tz, ty, tx),
                    patch_image, patch_segmentation, labels, weights, names, scores,
                )  # fmt: skip
