"""Copies of an image as they come about: cut, resampled, mirrored, turned, windowed, read from another file."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from orchestrator.images.alike.pairs import alike_images
from orchestrator.images.alike.thumbnail import Thumbnail
from orchestrator.phantoms.anatomy import make_phantom
from orchestrator.phantoms.scanner import LOOKS

Image = tuple[NDArray[np.generic], tuple[float, float, float]]
"""Voxels, shape (Z, Y, X), and their spacing in mm."""


def likeness_of(one: Thumbnail | None, other: Thumbnail | None) -> float:
    """Return the likeness of two images whether it is enough or not; 0 where landmarks suggest no placement."""
    found = alike_images([one, other], least_likeness=-1.0) if one and other else []
    return max((pair.likeness for pair in found), default=0.0)


def resampled(factors: Sequence[float]) -> Callable[[Image], Image]:
    """Return a copy with voxels so many times as large along (z, y, x)."""

    def copy(image: Image) -> Image:
        voxels, spacing_mm = image
        size = [max(1, round(num / factor)) for num, factor in zip(voxels.shape, factors, strict=True)]
        zoom = [new / old for new, old in zip(size, voxels.shape, strict=True)]
        edges = [edge / by for edge, by in zip(spacing_mm, zoom, strict=True)]
        smooth = scipy.ndimage.zoom(voxels.astype(np.float32), zoom, order=1, mode="nearest", grid_mode=True)
        return smooth.astype(voxels.dtype), (edges[0], edges[1], edges[2])

    return copy


def cut(axis: int, *, low: float, high: float) -> Callable[[Image], Image]:
    """Return a copy without such shares of an axis at its ends."""

    def copy(image: Image) -> Image:
        voxels, spacing_mm = image
        num = voxels.shape[axis]
        part = slice(round(low * num), num - round(high * num))
        return np.moveaxis(np.moveaxis(voxels, axis, 0)[part], 0, axis), spacing_mm

    return copy


def windowed(low: float, high: float) -> Callable[[Image], Image]:
    """Return a copy that is cut off at two intensities and scaled to 0 to 255."""

    def copy(image: Image) -> Image:
        voxels, spacing_mm = image
        return ((np.clip(voxels.astype(np.float32), low, high) - low) / (high - low) * 255).astype(np.uint8), spacing_mm

    return copy


def in_turn(*steps: Callable[[Image], Image]) -> Callable[[Image], Image]:
    """Return one copy after the other."""

    def copy(image: Image) -> Image:
        for step in steps:
            image = step(image)
        return image

    return copy


def _flipped(*axes: int) -> Callable[[Image], Image]:
    return lambda image: (np.flip(image[0], axes), image[1])


def _turned(*axes: int) -> Callable[[Image], Image]:
    return lambda image: (image[0].transpose(axes), tuple(image[1][axis] for axis in axes))


def _noisy(image: Image) -> Image:
    noise = np.random.default_rng(0).normal(0, 20, image[0].shape)
    return (image[0] + noise).astype(np.float32), image[1]


COPIES: Mapping[str, Callable[[Image], Image]] = {
    "the same": lambda image: image,
    "voxels 0.8 as large": resampled([0.8] * 3),
    "voxels 0.9 as large": resampled([0.9] * 3),
    "voxels 1.1 as large": resampled([1.1] * 3),
    "voxels 1.25 as large": resampled([1.25] * 3),
    "slices 1.25 as thick": resampled([1.25, 1, 1]),
    "20 % off both ends of z": cut(0, low=0.2, high=0.2),
    "20 % off both ends of y": cut(1, low=0.2, high=0.2),
    "20 % off both ends of x": cut(2, low=0.2, high=0.2),
    "35 % off the end of z": cut(0, low=0.0, high=0.35),
    "10 % off every side": in_turn(*(cut(axis, low=0.1, high=0.1) for axis in range(3))),
    "flipped along z": _flipped(0),
    "flipped along y": _flipped(1),
    "flipped along x": _flipped(2),
    "flipped along all axes": _flipped(0, 1, 2),
    "axes exchanged": _turned(2, 0, 1),
    "scaled and shifted": lambda image: (image[0] * 0.37 + 400, image[1]),
    "noise of 20": _noisy,
    "window -1250 to 250": windowed(-1250, 250),
    "window -1000 to 1000": windowed(-1000, 1000),
    "cut, flipped, resampled, windowed": in_turn(
        cut(0, low=0.1, high=0.2), _flipped(2), resampled([1.2, 1.1, 1.1]), windowed(-1250, 250)
    ),
}
"""By name; windows are those of a CT."""
HARD_COPIES: Mapping[str, Callable[[Image], Image]] = {
    "inverted": lambda image: (np.float32(-2) * image[0], image[1]),
    "window -160 to 240": windowed(-160, 240),
    "voxels twice as large": resampled([2.0] * 3),
    "30 % off both ends of z": cut(0, low=0.3, high=0.3),
    "20 % off every side": in_turn(*(cut(axis, low=0.2, high=0.2) for axis in range(3))),
}
"""More than is claimed."""


def phantom_images(number: int, *, spacing_mm: float) -> list[Image]:
    """Return phantoms of different patients, of all scanners in turn."""
    looks = list(LOOKS.values())
    found = []
    for seed in range(number):
        look = looks[seed % len(looks)]
        phantom = make_phantom(seed=seed, look=look, lesions=("infection",), spacing_mm=spacing_mm)
        found.append((phantom.image, phantom.spacing_mm))
    return found
