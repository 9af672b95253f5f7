"""What is done to one patch: drawn first, so that no more of the case is read than the augmented patch needs.

Probabilities, ranges and order are those of nnU-Net 2.8.1's trainer (`get_training_transforms`). Draws come from the
generator that is passed in and from nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.augmentation.intensity_transforms import (
    add_noise,
    blur,
    change_contrast,
    change_gamma,
    lower_resolution,
    mask_outside,
    mirror,
    scale_brightness,
)
from kernels.augmentation.patch_geometry import box_needed, rotation_matrix, slabs_needed
from kernels.augmentation.spatial_transform import sample_patch
from kernels.packing.lane_unpacking import EVERYWHERE
from orchestrator.training.feed.case_folders import StoredCase

Shape = tuple[int, int, int]
Triple = tuple[float, float, float]
PerChannel = tuple[float | None, ...]
TakeMemory = Callable[[int, Shape], tuple[NDArray[np.float32], NDArray[np.int16]]]
"""Returns an image, shape (C, z, y, x), and a segmentation, shape (z, y, x), whose content does not matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchSettings:
    """What the plans of a training say about its patches."""

    patch_shape: Shape
    """(z, y, x) that the network sees; a 2d patch is one slice."""
    initial_shape: Shape
    """(z, y, x) that nnU-Net places in the case and augments: the middle of it becomes the patch."""
    is_2d: bool
    """Whether a patch is one slice, which nothing blurs along z."""
    in_plane: bool
    """Whether patches are rotated and scaled within their slices: 2d networks, and patches of few slices."""
    rotation_rad: tuple[float, float]
    """Range of angles."""
    mirror_axes: tuple[int, ...]
    """Axes of (z, y, x)."""
    masked_channels: tuple[int, ...] = ()
    """Channels that are set to 0 outside of what was cropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Normal noise."""

    sigma: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What was drawn for one sample, in the order in which it is done; None leaves the patch, or a channel, alone."""

    angles_rad: Triple | None
    scale: float | None
    """Steps in the image for one in the patch: above 1, things get smaller."""
    noise: Noise | None
    blur_sigmas: tuple[Triple | None, ...]
    brightness: PerChannel
    contrast: PerChannel
    low_resolution: PerChannel
    inverted_gamma: PerChannel
    gamma: PerChannel
    mirror_axes: tuple[int, ...]

    @property
    def is_plain_crop(self) -> bool:
        """Whether no voxel has to be interpolated."""
        return self.angles_rad is None and self.scale is None


def draw_augmentation(settings: PatchSettings, *, num_channels: int, generator: np.random.Generator) -> Augmentation:
    """Draw everything that happens to one sample."""
    chance, uniform = generator.random, generator.uniform
    # The third says whether nnU-Net deforms the patch; it trains with a probability of 0.
    rotates, scales, _ = (generator.random(3) < 0.2).tolist()
    angles = tuple(uniform(*settings.rotation_rad, 3).tolist()) if rotates else None
    if angles and settings.in_plane:
        angles = (angles[0], 0.0, 0.0)

    def factors(probability: float, low: float, high: float) -> PerChannel:
        """Half of the factors below 1, half above."""
        if chance() >= probability:
            return (None,) * num_channels
        return tuple(uniform(low, 1) if chance() < 0.5 else uniform(1, high) for _ in range(num_channels))

    return Augmentation(
        angles_rad=angles,
        scale=uniform(0.7, 1.4) if scales else None,
        noise=Noise(sigma=uniform(0, 0.1), seed=_seed(generator)) if chance() < 0.1 else None,
        blur_sigmas=_draw_blur(settings, num_channels, generator),
        brightness=factors(0.15, 0.75, 1.25),
        contrast=factors(0.15, 0.75, 1.25),
        low_resolution=_draw_low_resolution(num_channels, generator),
        inverted_gamma=factors(0.1, 0.7, 1.5),
        gamma=factors(0.3, 0.7, 1.5),
        mirror_axes=tuple(axis for axis in settings.mirror_axes if chance() < 0.5),
    )


def _seed(generator: np.random.Generator) -> int:
    return int(generator.integers(1 << 63))


def _draw_blur(settings: PatchSettings, num_channels: int, generator: np.random.Generator) -> tuple[Triple | None, ...]:
    drawn: list[Triple | None] = [None] * num_channels
    if generator.random() < 0.2:
        for channel in range(num_channels):
            if generator.random() < 0.5:
                z, y, x = generator.uniform(0.5, 1, 3).tolist()
                drawn[channel] = (0.0 if settings.is_2d else z, y, x)
    return tuple(drawn)


def _draw_low_resolution(num_channels: int, generator: np.random.Generator) -> PerChannel:
    if generator.random() >= 0.25:
        return (None,) * num_channels
    return tuple(generator.uniform(0.5, 1) if generator.random() < 0.5 else None for _ in range(num_channels))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReadPlan:
    """What of a case must be read for one patch, and how the patch is made of it."""

    start: Shape
    """First voxel (z, y, x) of the box in the case; it may lie outside."""
    shape: Shape
    """Of the box."""
    slabs: NDArray[np.float64]
    """Between which planes voxels of the box are needed (see `slabs_needed` of the kernels); the corners are not."""
    matrix: NDArray[np.float64] | None
    """From steps in the patch to steps in the box; None if the box is the patch."""
    centre: Triple
    """Where in the box the middle of the patch lies."""


def plan_read(augmentation: Augmentation | None, *, settings: PatchSettings, start: Shape) -> ReadPlan:
    """Return what to read for a patch whose initial patch begins at voxel `start` (z, y, x) of the case."""
    initial, shape = settings.initial_shape, settings.patch_shape
    middle = ((initial[0] - 1) / 2, (initial[1] - 1) / 2, (initial[2] - 1) / 2)
    if augmentation is None or augmentation.is_plain_crop:
        first = [whole // 2 - part // 2 for whole, part in zip(initial, shape, strict=True)]
        return ReadPlan(
            start=_moved(start, first), shape=shape, slabs=EVERYWHERE, matrix=None, centre=_from(middle, first)
        )
    scale = augmentation.scale or 1.0
    matrix = rotation_matrix(
        augmentation.angles_rad or (0.0, 0.0, 0.0), (1.0 if settings.in_plane else scale, scale, scale)
    )
    box = box_needed(matrix=matrix, centre=middle, patch_shape=shape, limits=initial)
    centre = _from(middle, box.start)
    # A patch that is not turned fills its box.
    slabs = EVERYWHERE
    if augmentation.angles_rad is not None:
        slabs = slabs_needed(matrix=matrix, centre=centre, patch_shape=shape)
    return ReadPlan(start=_moved(start, box.start), shape=box.shape, slabs=slabs, matrix=matrix, centre=centre)


def read_patch(
    case: StoredCase,
    augmentation: Augmentation | None,
    *,
    settings: PatchSettings,
    start: Shape,
    patch: tuple[NDArray[np.float32], NDArray[np.int16]],
    take_memory: TakeMemory,
) -> None:
    """Read what a patch needs and bring it into place: rotated and scaled as drawn.

    Parameters
    ----------
    case
        Where to read.
    augmentation
        What was drawn; None is a plain crop.
    settings
        Of the training.
    start
        First voxel (z, y, x) of the initial patch; it may lie outside of the case.
    patch
        Image, shape (C, Z, Y, X), and segmentation, shape (Z, Y, X); both are overwritten.
    take_memory
        For a box to sample from.
    """
    image, segmentation = patch
    plan = plan_read(augmentation, settings=settings, start=start)
    if plan.matrix is None:
        case.read_into(image, segmentation, start=plan.start)
        return
    box_image, box_segmentation = take_memory(image.shape[0], plan.shape)
    case.read_into(box_image, box_segmentation, start=plan.start, slabs=plan.slabs)
    sample_patch(
        box_image,
        box_segmentation,
        matrix=plan.matrix,
        centre=plan.centre,
        patch_image=image,
        patch_segmentation=segmentation,
    )


def _moved(start: Shape, by: Sequence[int]) -> Shape:
    return start[0] + by[0], start[1] + by[1], start[2] + by[2]


def _from(middle: Triple, start: Sequence[int]) -> Triple:
    """Return a place as counted from the start of a box."""
    return middle[0] - start[0], middle[1] - start[1], middle[2] - start[2]


def change_intensities(image: NDArray[np.float32], augmentation: Augmentation, *, settings: PatchSettings) -> None:
    """Do to a patch, shape (C, Z, Y, X), what was drawn for its intensities, in place."""
    if augmentation.noise:
        generator = np.random.Generator(np.random.SFC64(augmentation.noise.seed))
        add_noise(image, generator, sigma=augmentation.noise.sigma)
    for index, channel in enumerate(image):
        sigmas = augmentation.blur_sigmas[index]
        if sigmas is not None:
            blur(channel, sigmas=sigmas)
        if (factor := augmentation.brightness[index]) is not None:
            scale_brightness(channel, factor=factor)
        if (factor := augmentation.contrast[index]) is not None:
            change_contrast(channel, factor=factor)
        if (factor := augmentation.low_resolution[index]) is not None:
            lower_resolution(channel, scales=(1.0 if settings.in_plane else factor, factor, factor))
        for gammas, invert in ((augmentation.inverted_gamma, True), (augmentation.gamma, False)):
            if (gamma := gammas[index]) is not None:
                change_gamma(channel, gamma=gamma, invert=invert)


def finish_image(
    image: NDArray[np.float32],
    segmentation: NDArray[np.int16],
    augmentation: Augmentation,
    *,
    settings: PatchSettings,
) -> None:
    """Mask the image outside of what was cropped, then turn it around; the segmentation is not turned around yet."""
    for channel in settings.masked_channels:
        mask_outside(image[channel], segmentation)
    mirror(image, axes=augmentation.mirror_axes)
