"""Pictures of a label map over its image: three planes through what was found, and a mosaic of slices."""

import io
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from orchestrator.images.geometry import geometry_of, lps_order

_PLANE_HEIGHT = 360
_TILE_HEIGHT = 180
_MOSAIC = (4, 5)
"""Rows and columns."""
_PERCENTILES = (0.5, 99.5)
_SHARE = 0.35
"""Of a label's colour in its voxels; borders have it alone."""
_GOLDEN = 0.61803398875

Picture = NDArray[np.uint8]
"""Shape (height, width, 3)."""


def overlay_pngs(image: sitk.Image, labels: sitk.Image) -> tuple[bytes, bytes]:
    """Return two PNG files: axial, coronal and sagittal plane, and slices from the lowest to the topmost labelled one.

    No copy of either image is made, but of the planes that are drawn.

    Parameters
    ----------
    image, labels
        Of three axes, on one grid but for the order of these.
    """
    orders = [lps_order(geometry_of(one)) for one in (image, labels)]
    x_mm, y_mm, z_mm = orders[0].geometry(geometry_of(image)).spacing_mm
    voxels, found = (
        order.array(sitk.GetArrayViewFromImage(one)) for order, one in zip(orders, (image, labels), strict=True)
    )
    ends = _black_and_white(voxels)
    counts = _counts(found)
    z, y, x = map(_median, counts)
    planes = [
        _drawn(_grey(voxels[z], ends), found[z], pixel_mm=(y_mm, x_mm), height=_PLANE_HEIGHT),
        # The head is above.
        _drawn(_grey(voxels[::-1, y], ends), found[::-1, y], pixel_mm=(z_mm, x_mm), height=_PLANE_HEIGHT),
        _drawn(_grey(voxels[::-1, :, x], ends), found[::-1, :, x], pixel_mm=(z_mm, y_mm), height=_PLANE_HEIGHT),
    ]
    labelled = np.flatnonzero(counts[0])
    first, last = (labelled[0], labelled[-1]) if labelled.size else (0, len(found) - 1)
    rows, columns = _MOSAIC
    chosen = np.unique(np.linspace(first, last, rows * columns).round().astype(int))
    tiles = [_drawn(_grey(voxels[z], ends), found[z], pixel_mm=(y_mm, x_mm), height=_TILE_HEIGHT) for z in chosen]
    lines = [np.concatenate(tiles[at : at + columns], axis=1) for at in range(0, len(tiles), columns)]
    width = max(line.shape[1] for line in lines)
    mosaic = np.concatenate([np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0))) for line in lines])
    return _png(np.concatenate(planes, axis=1)), _png(mosaic)


def _counts(labels: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """Return how many labelled voxels have each index, of each axis; the indices of all take 24 bytes a voxel."""
    counts = [np.zeros(size, np.int64) for size in labels.shape]
    for z, plane in enumerate(labels):
        is_labelled = plane != 0
        of_rows = np.count_nonzero(is_labelled, axis=1)
        counts[0][z] = of_rows.sum()
        counts[1] += of_rows
        counts[2] += np.count_nonzero(is_labelled, axis=0)
    return counts


def _median(counts: NDArray[np.int64]) -> int:
    """Return the median of indices, rounded down, of which there are so many each; the middle one if there is none."""
    num_all = int(counts.sum())
    if not num_all:
        return len(counts) // 2
    lower, upper = np.searchsorted(np.cumsum(counts), [(num_all - 1) // 2, num_all // 2], side="right")
    return int(lower + upper) // 2


def _black_and_white(voxels: NDArray[np.generic]) -> tuple[float, float]:
    """Return where all but a few intensities end."""
    step = max(1, round((voxels.size / 1e6) ** (1 / 3)))
    sample = voxels[::step, ::step, ::step].astype(np.float32)
    finite = sample[np.isfinite(sample)]
    low, high = np.percentile(finite, _PERCENTILES) if finite.size else (0.0, 1.0)
    return low, high


def _grey(plane: NDArray[np.generic], ends: tuple[float, float]) -> NDArray[np.uint8]:
    """Return a plane as grey values between black and white; what is no number is black."""
    low, high = ends
    known = np.nan_to_num(plane.astype(np.float32), nan=low, posinf=high, neginf=low)
    grey: NDArray[np.uint8] = np.clip((known - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    return grey


def _drawn(grey: NDArray[np.uint8], labels: NDArray[np.integer], *, pixel_mm: Sequence[float], height: int) -> Picture:
    """Return a plane in colours, of that height and its true proportions."""
    there = np.unique(labels)
    colours = np.zeros((int(there.max()) + 1, 3), np.float32)
    for label in there:
        colours[label] = colour_of(int(label))
    is_border = np.zeros(labels.shape, bool)
    is_border[1:] |= labels[1:] != labels[:-1]
    is_border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    share = np.where(labels > 0, np.where(is_border, 1.0, _SHARE), 0.0)[..., None]
    coloured = grey[..., None] * (1 - share) + colours[labels] * share
    width = max(1, round(height * labels.shape[1] * pixel_mm[1] / (labels.shape[0] * pixel_mm[0])))
    resized = Image.fromarray(coloured.astype(np.uint8)).resize(
        (min(width, 8 * height), height), Image.Resampling.BILINEAR
    )
    return np.asarray(resized)


def colour_of(label: int) -> tuple[float, ...]:
    """Return a colour that is unlike those of the labels before."""
    hue = (label * _GOLDEN) % 1.0
    channels = (np.clip(abs((hue + shift) % 1.0 * 6 - 3) - 1, 0, 1) for shift in (0.0, 2 / 3, 1 / 3))
    return tuple(255 * float(value) for value in channels)


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
