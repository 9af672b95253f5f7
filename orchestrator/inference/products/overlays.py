"""Pictures of a label map over its image: three planes through what was found, and a mosaic of slices."""

import io
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

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

    Parameters
    ----------
    image, labels
        Of three axes, on one grid.
    """
    image, labels = (sitk.DICOMOrient(one, "LPS") for one in (image, labels))
    x_mm, y_mm, z_mm = image.GetSpacing()
    voxels, found = (sitk.GetArrayFromImage(one) for one in (image, labels))
    grey = _grey(voxels)
    places = np.nonzero(found)
    middle = [
        int(np.median(where)) if where.size else size // 2 for where, size in zip(places, found.shape, strict=True)
    ]
    planes = [
        _drawn(grey[middle[0]], found[middle[0]], pixel_mm=(y_mm, x_mm), height=_PLANE_HEIGHT),
        # The head is above.
        _drawn(grey[::-1, middle[1]], found[::-1, middle[1]], pixel_mm=(z_mm, x_mm), height=_PLANE_HEIGHT),
        _drawn(grey[::-1, :, middle[2]], found[::-1, :, middle[2]], pixel_mm=(z_mm, y_mm), height=_PLANE_HEIGHT),
    ]
    first, last = (int(places[0].min()), int(places[0].max())) if places[0].size else (0, len(found) - 1)
    rows, columns = _MOSAIC
    chosen = np.unique(np.linspace(first, last, rows * columns).round().astype(int))
    tiles = [_drawn(grey[z], found[z], pixel_mm=(y_mm, x_mm), height=_TILE_HEIGHT) for z in chosen]
    lines = [np.concatenate(tiles[at : at + columns], axis=1) for at in range(0, len(tiles), columns)]
    width = max(line.shape[1] for line in lines)
    mosaic = np.concatenate([np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0))) for line in lines])
    return _png(np.concatenate(planes, axis=1)), _png(mosaic)


def _grey(voxels: NDArray[np.generic]) -> Picture:
    """Return an image as grey values, black and white where all but a few intensities end; of its shape.

    What is no number is black.
    """
    step = max(1, round((voxels.size / 1e6) ** (1 / 3)))
    sample = voxels[::step, ::step, ::step].astype(np.float32)
    finite = sample[np.isfinite(sample)]
    low, high = np.percentile(finite, _PERCENTILES) if finite.size else (0.0, 1.0)
    grey = np.empty(voxels.shape, np.uint8)
    for plane, target in zip(voxels, grey, strict=True):
        known = np.nan_to_num(plane.astype(np.float32), nan=low, posinf=high, neginf=low)
        target[:] = np.clip((known - low) * (255 / max(high - low, 1e-6)), 0, 255)
    return grey


def _drawn(grey: Picture, labels: NDArray[np.integer], *, pixel_mm: Sequence[float], height: int) -> Picture:
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
