"""Claims about what is drawn for a patch, and what is made of it; the reference is nnU-Net's own pipeline."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy.stats import binomtest, ks_2samp

from bench.feed.stock_augmentation import augment_with_stock
from kernels.augmentation.intensity_transforms import write_labels
from kernels.augmentation.patch_geometry import rotation_matrix
from kernels.packing.lane_unpacking import EVERYWHERE
from orchestrator.training.feed.augmentation import (
    PatchSettings,
    change_intensities,
    draw_augmentation,
    finish_image,
    read_patch,
)

NUM_DRAWS = 3000
ISOTROPIC = PatchSettings(
    patch_shape=(12, 14, 16),
    initial_shape=(21, 23, 26),
    is_2d=False,
    in_plane=False,
    rotation_rad=(-np.pi / 6, np.pi / 6),
    mirror_axes=(0, 1, 2),
)
ANISOTROPIC = replace(
    ISOTROPIC, patch_shape=(5, 20, 22), initial_shape=(5, 30, 33), in_plane=True, rotation_rad=(-np.pi, np.pi)
)
FLAT = replace(ANISOTROPIC, patch_shape=(1, 20, 22), initial_shape=(1, 30, 33), is_2d=True, mirror_axes=(1, 2))
SETTINGS = {"3d": ISOTROPIC, "anisotropic": ANISOTROPIC, "2d": FLAT}


class CaseInMemory:
    """What is read of a patch file, from arrays; remembers the last box."""

    def __init__(self, shape=(24, 40, 44), num_channels=2):
        random = np.random.default_rng(1)
        self.shape = (num_channels, *shape)
        self.image = random.standard_normal(self.shape).astype(np.float32)
        self.segmentation = np.kron(random.integers(0, 4, [n // 4 for n in shape]), np.ones((4, 4, 4))).astype(np.int16)
        self.voxels_read = 0

    def read_into(self, image, segmentation, *, start, slabs=EVERYWHERE):
        image.fill(0)
        segmentation.fill(-1)
        self.voxels_read = segmentation.size
        lower = [max(0, a) for a in start]
        upper = [min(n, a + b) for n, a, b in zip(self.shape[1:], start, segmentation.shape, strict=True)]
        if all(a < b for a, b in zip(lower, upper, strict=True)):
            inside = tuple(slice(a - s, b - s) for a, b, s in zip(lower, upper, start, strict=True))
            source = tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))
            image[(slice(None), *inside)] = self.image[(slice(None), *source)]
            segmentation[inside] = self.segmentation[source]
        places = np.indices(segmentation.shape).astype(np.float64)
        for *normal, middle in slabs:
            # What is not asked for is useless.
            is_unwanted = np.abs(np.tensordot(normal, places, 1) - middle) > 1
            image[:, is_unwanted], segmentation[is_unwanted] = np.nan, -99


def memory(num_channels, shape):
    return np.full((num_channels, *shape), np.nan, np.float32), np.full(shape, -9, np.int16)


def patch_of(case, augmentation, settings, start):
    image, segmentation = memory(case.shape[0], settings.patch_shape)
    read_patch(
        case,
        augmentation,
        settings=settings,
        start=start,
        patch=(image, segmentation),
        take_memory=memory,
    )
    change_intensities(image, augmentation, settings=settings)
    finish_image(image, segmentation, augmentation, settings=settings)
    labels = np.empty_like(segmentation)
    write_labels(segmentation, labels, axes=augmentation.mirror_axes)
    return image, labels


def draws(settings, *, num=NUM_DRAWS, num_channels=1):
    return [
        draw_augmentation(settings, num_channels=num_channels, generator=np.random.default_rng([7, index]))
        for index in range(num)
    ]


def matrix_of(drawn, settings):
    scale = drawn.scale or 1.0
    return rotation_matrix(drawn.angles_rad or (0.0, 0.0, 0.0), (1.0 if settings.in_plane else scale, scale, scale))


def stock_draws(settings):
    """Parameters that nnU-Net's pipeline draws, by name; None where a transform leaves the patch alone."""
    np.random.seed(3)  # noqa: NPY002 - nnU-Net draws from the global generator
    torch.manual_seed(3)
    shape = settings.patch_shape[1:] if settings.is_2d else settings.patch_shape
    shift = 3 - len(shape)
    transforms = nnUNetTrainer.get_training_transforms(
        shape,
        settings.rotation_rad,
        None,
        tuple(axis - shift for axis in settings.mirror_axes),
        settings.in_plane and not settings.is_2d,
    ).transforms
    names = [type(getattr(one, "transform", one)).__name__ for one in transforms]
    found = {name: [] for name in names}
    for _ in range(NUM_DRAWS):
        for index, (name, transform) in enumerate(zip(names, transforms, strict=True)):
            image = torch.zeros((1, *shape))
            if name == "SpatialTransform" and settings.in_plane and not settings.is_2d:
                image = image[:, 0]
            applied = not hasattr(transform, "transform") or transform.get_parameters()["apply_transform"]
            inner = getattr(transform, "transform", transform)
            # Both gammas have one name; the first is the inverted one.
            key = "Inverted" if name == "GammaTransform" and "GammaTransform" not in names[:index] else name
            found.setdefault(key, []).append(inner.get_parameters(image=image) if applied else None)
    return found


def numbers(values):
    return [float(value) for value in values if value is not None]


def assert_same_distribution(ours, stock):
    """Both lists hold one value a draw, None where nothing is done."""
    assert len(ours) == len(stock) == NUM_DRAWS
    share = len(numbers(stock)) / NUM_DRAWS
    if 0 < share < 1:
        assert binomtest(len(numbers(ours)), NUM_DRAWS, share).pvalue > 1e-3
    assert ks_2samp(numbers(ours), numbers(stock)).pvalue > 1e-3


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_drawn_is_distributed_as_nnunet_draws_it(name):
    settings = SETTINGS[name]
    ours, stock = draws(settings), stock_draws(settings)
    affines = [one["affine"] for one in stock["SpatialTransform"]]
    size = 2 if settings.in_plane else 3
    plain = [None if one.is_plain_crop else matrix_of(one, settings)[-size:, -size:] for one in ours]
    for row in range(size):
        for column in range(size):
            assert_same_distribution(
                [None if one is None else one[row, column] for one in plain],
                [None if one is None else one[row, column] for one in affines],
            )

    def pick(key, read):
        return [None if one is None else read(one) for one in stock[key]]

    assert_same_distribution(
        [one.noise and one.noise.sigma for one in ours], pick("GaussianNoiseTransform", lambda one: one["sigmas"])
    )
    for axis in range(3 - settings.is_2d):
        assert_same_distribution(
            [one.blur_sigmas[0] and one.blur_sigmas[0][axis + settings.is_2d] for one in ours],
            pick("GaussianBlurTransform", lambda one, axis=axis: one["sigmas"][0][axis] if one["sigmas"] else None),
        )
    first = {"MultiplicativeBrightnessTransform": "brightness", "ContrastTransform": "contrast"}
    for key, field in first.items():
        assert_same_distribution([getattr(one, field)[0] for one in ours], pick(key, lambda one: one["multipliers"][0]))
    for key, field in {"Inverted": "inverted_gamma", "GammaTransform": "gamma"}.items():
        assert_same_distribution([getattr(one, field)[0] for one in ours], pick(key, lambda one: one["gamma"][0]))
    assert_same_distribution(
        [one.low_resolution[0] for one in ours],
        pick("SimulateLowResolutionTransform", lambda one: one["scales"][0][-1] if len(one["scales"]) else None),
    )
    for axis in settings.mirror_axes:
        assert binomtest(sum(axis in one.mirror_axes for one in ours), NUM_DRAWS, 0.5).pvalue > 1e-3


@pytest.mark.parametrize("name", SETTINGS)
def test_a_patch_is_what_nnunets_transforms_make_of_the_same_draws(name):
    settings = SETTINGS[name]
    case = CaseInMemory()
    num_moved = 0
    for index, drawn in enumerate(draws(settings, num=60, num_channels=2)):
        start = tuple(np.random.default_rng(index).integers(-4, 12, 3).tolist())
        image, segmentation = memory(2, settings.initial_shape)
        case.read_into(image, segmentation, start=start)
        expected_image, expected_labels = augment_with_stock(image, segmentation, drawn, settings=settings)
        found_image, found_labels = patch_of(case, drawn, settings, start)
        np.testing.assert_allclose(found_image, expected_image, atol=2e-4)
        assert (found_labels != expected_labels).mean() < 3e-3
        num_moved += not drawn.is_plain_crop
    assert num_moved > 10


def test_most_patches_are_plain_crops_and_read_no_voxel_more():
    case = CaseInMemory(num_channels=1)
    drawn = draws(ISOTROPIC)
    assert np.mean([one.is_plain_crop for one in drawn]) == pytest.approx(0.8**2, abs=0.03)
    plain = next(one for one in drawn if one.is_plain_crop)
    patch_of(case, plain, ISOTROPIC, (0, 0, 0))
    assert case.voxels_read == 12 * 14 * 16


def test_a_patch_that_is_magnified_reads_less_than_itself():
    case = CaseInMemory()
    drawn = next(
        one for one in draws(ISOTROPIC, num_channels=2) if one.scale and one.scale < 0.75 and not one.angles_rad
    )
    patch_of(case, drawn, ISOTROPIC, (0, 0, 0))
    assert case.voxels_read < 0.75 * 12 * 14 * 16


def test_masked_channels_are_0_outside_of_the_case():
    case = CaseInMemory()
    settings = replace(ISOTROPIC, masked_channels=(1,))
    drawn = replace(next(one for one in draws(settings, num_channels=2) if one.is_plain_crop), brightness=(1.1, 1.1))
    drawn = replace(drawn, noise=None, contrast=(1.2, 1.2), mirror_axes=())
    image, _ = patch_of(case, drawn, settings, (-10, -10, -10))
    assert not image[1, :6].any()
    assert image[0, :6].any()
