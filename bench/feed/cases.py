"""Synthetic CT-like cases at full size, as nnU-Net's preprocessor leaves them: what the benchmarks of the feed read.

A chest: air, table-less body, lungs with vessels, spine and ribs, organs as ellipsoids; every edge is soft. The noise
is Gaussian, filtered so that neighbours correlate as after a soft reconstruction kernel and resampling with cubic
splines (0.6 within a slice, 0.4 between slices), 14 HU in tissue and 9 HU in air and lungs, and nothing but -1024
outside of the scanner's circle. Windows are nnU-Net's fingerprints of two data sets of the Medical Segmentation
Decathlon.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from numpy.typing import NDArray
from scipy import ndimage

NOISE_SIGMA_VOXELS = (0.52, 0.7, 0.7)
"""Of the filter; a correlation of exp(-1 / (4 sigma^2)) between neighbours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Clipping and normalisation, in HU."""

    lower: float
    upper: float
    mean: float
    std: float


WINDOWS = {
    "wide": Window(lower=-1024, upper=325, mean=-158.58, std=324.70),  # Task06_Lung
    "narrow": Window(lower=-96, upper=215, mean=77.99, std=75.40),  # Task07_Pancreas
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeedCase:
    """One preprocessed case."""

    name: str
    data: NDArray[np.float32]
    """Shape (C, Z, Y, X), normalised."""
    seg: NDArray[np.int8]
    """Shape (1, Z, Y, X)."""
    properties: dict[str, Any]
    """With nnU-Net's own `class_locations`."""


def write_stock(case: FeedCase, target: Path, *, patch: Sequence[int]) -> None:
    """Write a case at a path without ending, as `DefaultPreprocessor.run_case_save` does for patches of a size."""
    # Where stand-ins take the places of libraries, only whoever writes needs it.
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    seg, sizes = case.seg.astype(np.int16), {}
    for end, array in (("", case.data), ("_seg", seg)):
        sizes[f"blocks{end}"], sizes[f"chunks{end}"] = comp_blosc2_params(array.shape, patch, array.itemsize)
    nnUNetDatasetBlosc2.save_case(case.data, seg, case.properties, str(target), **sizes)


def make_case(*, num_slices: int, size: int = 512, num_labels: int, window: str, seed: int) -> FeedCase:
    """Return a case of `num_slices` x `size` x `size` voxels with 2 labels (the lungs) or more (and organs)."""
    image, seg = make_scan(np.random.default_rng(seed), shape=(num_slices, size, size), num_labels=num_labels)
    chosen = WINDOWS[window]
    np.clip(image, chosen.lower, chosen.upper, out=image)
    image -= np.float32(chosen.mean)
    image /= np.float32(chosen.std)
    labels = list(range(1, num_labels + 1))
    properties = {
        "spacing": [1.0, 0.8, 0.8],
        "shape_before_cropping": seg.shape,
        "bbox_used_for_cropping": [[0, n] for n in seg.shape],
        "shape_after_cropping_and_before_resampling": seg.shape,
        "class_locations": DefaultPreprocessor._sample_foreground_locations(seg[None], labels),  # noqa: SLF001
    }
    name = f"{window}_{num_labels}_labels_{num_slices}_slices"
    return FeedCase(name=name, data=image[None], seg=seg[None], properties=properties)


def make_scan(
    random: np.random.Generator, *, shape: tuple[int, int, int], num_labels: int
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Return HU and labels (z, y, x) before any preprocessing."""
    image, seg = _anatomy(random, shape=shape, num_labels=num_labels)
    _add_noise(random, image)
    return image, seg


def _anatomy(
    random: np.random.Generator, *, shape: tuple[int, int, int], num_labels: int
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Draw HU without noise, and labels; coordinates go from -1 to 1."""
    image = np.full(shape, -1000, np.float32)
    seg = np.zeros(shape, np.int8)
    body = (0.0, 0.0, 0.0), (9.0, 0.62 + 0.04 * random.random(), 0.82 + 0.05 * random.random())
    _paint(image, seg, *body, hu=-90, label=0)  # fat
    _paint(image, seg, body[0], tuple(0.92 * radius for radius in body[1]), hu=45, label=0)
    for _ in range(max(0, num_labels - 2)):
        label = int(seg.max()) + 1 if seg.any() else 3
        centre = (random.uniform(-0.9, 0.9), random.uniform(-0.4, 0.4), random.uniform(-0.6, 0.6))
        radii = (random.uniform(0.1, 0.35), random.uniform(0.05, 0.16), random.uniform(0.05, 0.16))
        _paint(image, seg, centre, radii, hu=float(random.uniform(-10, 130)), label=min(label, num_labels))
    for label, side in ((1, -1), (2, 1)):
        _paint(image, seg, (0.1, -0.05, side * 0.38), (0.85, 0.42, 0.27), hu=-860, label=label)
    _paint(image, seg, (0.0, 0.42, 0.0), (9.0, 0.09, 0.09), hu=260, label=0, keep_labels=True)  # spine
    vessels = ndimage.gaussian_filter(random.standard_normal([max(8, n // 4) for n in shape], np.float32), 1.2)
    vessels = ndimage.zoom(vessels, [n / m for n, m in zip(shape, vessels.shape, strict=True)], order=1)
    image[((seg == 1) | (seg == 2)) & (vessels > 2.1 * vessels.std())] = 20
    for plane in image:
        plane[...] = ndimage.gaussian_filter(plane, 0.8)
    return image, seg


def _paint(
    image: NDArray[np.float32],
    seg: NDArray[np.int8],
    centre: tuple[float, ...],
    radii: tuple[float, ...],
    *,
    hu: float,
    label: int,
    keep_labels: bool = False,
) -> None:
    """Fill an ellipsoid, touching only its bounding box."""
    box, squares = [], 0
    for axis, (middle, radius, size) in enumerate(zip(centre, radii, image.shape, strict=True)):
        first = max(0, int((middle - radius + 1) / 2 * size))
        last = min(size, int((middle + radius + 1) / 2 * size) + 2)
        box.append(slice(first, last))
        positions = (np.arange(first, last) + 0.5) / size * 2 - 1
        along = [1, 1, 1]
        along[axis] = -1
        squares = squares + (((positions - middle) / radius) ** 2).reshape(along)
    inside = squares < 1
    image[tuple(box)][inside] = hu
    if not keep_labels:
        seg[tuple(box)][inside] = label


def _add_noise(random: np.random.Generator, image: NDArray[np.float32]) -> None:
    """Add noise in slabs, so that a large case needs little more than its own memory."""
    z_sigma, *sigmas = NOISE_SIGMA_VOXELS
    _, num_rows, num_columns = image.shape
    y, x = np.ogrid[:num_rows, :num_columns]
    outside = np.hypot((y + 0.5) / num_rows * 2 - 1, (x + 0.5) / num_columns * 2 - 1) > 1
    kernel = np.exp(-(np.arange(-2, 3) ** 2) / (2 * z_sigma**2)).astype(np.float32)
    planes = [ndimage.gaussian_filter(random.standard_normal(outside.shape, np.float32), sigmas) for _ in kernel]
    scale = 1 / (planes[0].std() * np.sqrt((kernel**2).sum()))
    for z in range(len(image)):
        noise = sum(weight * one for weight, one in zip(kernel, planes, strict=True)) * scale
        image[z] += noise * np.where(image[z] < -500, np.float32(9), np.float32(14))
        image[z, outside] = -1024
        planes = [
            *planes[1:],
            ndimage.gaussian_filter(random.standard_normal(outside.shape, np.float32), sigmas),
        ]
