"""Claims about the intensity transforms; the references are batchgeneratorsv2's own transforms."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import blur_dimension
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

from kernels.augmentation.intensity_transforms import (
    add_noise,
    blur,
    change_contrast,
    change_gamma,
    lower_resolution,
    mask_outside,
    mirror,
    scale_brightness,
    shrink_labels,
    write_labels,
)

SHAPE = (9, 14, 19)
FIRST = torch.tensor([0])


@pytest.fixture
def channel():
    return (np.random.default_rng(4).standard_normal(SHAPE) * 1.5 - 0.4).astype(np.float32)


def tensor(channel):
    return torch.from_numpy(channel.copy())[None]


@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_contrast_is_that_of_nnunet(channel, factor):
    transform = ContrastTransform((1, 1), preserve_range=True, synchronize_channels=False)
    expected = transform._apply_to_image(tensor(channel), apply_to_channel=FIRST, multipliers=torch.tensor([factor]))
    change_contrast(channel, factor=factor)
    np.testing.assert_allclose(channel, expected[0], atol=2e-6)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_gamma_is_that_of_nnunet(channel, gamma, invert):
    transform = GammaTransform((1, 1), 1, synchronize_channels=False, p_per_channel=1, p_retain_stats=1)
    expected = transform._apply_to_image(
        tensor(channel),
        apply_to_channel=FIRST,
        gamma=torch.tensor([gamma]),
        invert_image=torch.tensor([invert]),
        retain_stats=torch.tensor([True]),
    )
    change_gamma(channel, gamma=gamma, invert=invert)
    np.testing.assert_allclose(channel, expected[0], atol=1e-5)


def test_gamma_leaves_an_image_of_one_value_alone():
    flat = np.full(SHAPE, -3.5, np.float32)
    change_gamma(flat, gamma=1.4, invert=True)
    np.testing.assert_allclose(flat, -3.5, rtol=1e-6)


@pytest.mark.parametrize("sigmas", [(0.5, 0.76, 1.0), (1.0, 0.55, 0.92)])
def test_blur_is_that_of_nnunet(channel, sigmas):
    expected = tensor(channel)
    for axis, sigma in enumerate(sigmas):
        expected = blur_dimension(expected, sigma, axis, force_use_fft=False)
    blur(channel, sigmas=sigmas)
    np.testing.assert_allclose(channel, expected[0], atol=2e-6)


def test_a_slice_is_blurred_within_itself_only(channel):
    expected = tensor(channel[0])
    for axis, sigma in enumerate((0.6, 0.9)):
        expected = blur_dimension(expected, sigma, axis, force_use_fft=False)
    one = channel[:1].copy()
    blur(one, sigmas=(0.0, 0.6, 0.9))
    np.testing.assert_allclose(one[0], expected[0], atol=2e-6)


@pytest.mark.parametrize("scales", [(0.5, 0.5, 0.5), (0.83, 0.83, 0.83), (1.0, 0.61, 0.61)])
def test_low_resolution_is_that_of_nnunet(channel, scales):
    transform = SimulateLowResolutionTransform((1, 1), False, True, None)
    expected = transform._apply_to_image(tensor(channel), apply_to_channel=FIRST, scales=torch.tensor([scales]))
    lower_resolution(channel, scales=scales)
    np.testing.assert_allclose(channel, expected[0], atol=5e-6)


def test_noise_has_its_standard_deviation_and_follows_from_its_generator():
    noisy = [np.full((1, 40, 40, 40), 2, np.float32) for _ in range(2)]
    for image in noisy:
        add_noise(image, np.random.default_rng(3), sigma=0.1)
    np.testing.assert_array_equal(*noisy)
    # 64,000 draws: the standard deviation is known to 0.3 %.
    assert noisy[0].std() == pytest.approx(0.1, rel=0.02)
    assert noisy[0].mean() == pytest.approx(2, abs=0.003)


def test_brightness_is_a_factor(channel):
    expected = channel * np.float32(1.2)
    scale_brightness(channel, factor=1.2)
    np.testing.assert_array_equal(channel, expected)


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_image_and_labels_are_turned_around_alike(channel, axes):
    labels = np.random.default_rng(5).integers(-1, 4, SHAPE).astype(np.int16)
    image, target = np.stack([channel, channel + 1]), np.empty(SHAPE, np.int16)
    mirror(image, axes=axes)
    write_labels(labels, target, axes=axes)
    np.testing.assert_array_equal(image[1], np.flip(channel + 1, axes))
    # What lies outside of the case counts as background.
    np.testing.assert_array_equal(target, np.flip(np.maximum(labels, 0), axes))


def test_outside_of_what_was_cropped_a_masked_channel_is_0(channel):
    labels = np.zeros(SHAPE, np.int16)
    labels[:3] = -1
    mask_outside(channel, labels)
    assert not channel[:3].any()
    assert channel[3:].all()


@pytest.mark.parametrize("scale", [[1.0, 0.5, 0.5], [0.5, 0.25, 0.25], [1 / 3, 0.5, 1.0]])
def test_labels_of_deep_supervision_are_those_of_nnunet(scale):
    labels = np.random.default_rng(6).integers(0, 5, (9, 16, 20)).astype(np.int16)
    expected = DownsampleSegForDSTransform([scale])._apply_to_segmentation(torch.from_numpy(labels)[None])[0][0]
    target = np.empty(expected.shape, np.int16)
    shrink_labels(labels, target)
    np.testing.assert_array_equal(target, expected)
