"""Claims about resampled images: nnU-Net's own numbers, to the last bit, in less memory."""

import tracemalloc

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from skimage.transform import resize

from bench.instruments.stock_models import small_plans
from kernels.resampling.cubic_zoom import zoom_cubic
from orchestrator.training.nnunet import resampled_image
from orchestrator.training.nnunet.resampled_image import resample_image, resample_labels

MANAGER = ConfigurationManager(small_plans()["configurations"]["3d_fullres"])
STEPS = {
    "to fewer voxels": ((1.0, 0.7, 0.7), (1.5, 1.4, 1.3)),
    "to more voxels": ((2.0, 1.5, 1.4), (1.1, 0.7, 0.9)),
    "along one axis": ((2.0, 1.5, 1.4), (2.0, 1.5, 0.9)),
    "to the same grid": ((2.0, 1.5, 1.4), (2.0, 1.5, 1.4)),
    "slices kept apart": ((6.0, 0.7, 0.7), (5.0, 1.1, 0.9)),
    "more slices, kept apart": ((9.0, 0.7, 0.7), (3.0, 0.9, 0.9)),
    "columns kept apart": ((0.7, 0.7, 6.0), (0.9, 1.1, 5.0)),
}


@pytest.mark.parametrize("shape", [(11, 23, 17), (1, 9, 30), (40, 1, 6), (2, 2, 2)])
@pytest.mark.parametrize("step", STEPS)
def test_an_image_is_resampled_as_nnunet_does(step, shape):
    spacing, target = STEPS[step]
    random = np.random.default_rng(0)
    data = np.stack([random.standard_normal(shape), 1e4 * random.random(shape) ** 9]).astype(np.float32)
    new_shape = np.maximum(compute_new_shape(shape, spacing, target), 1)
    expected = MANAGER.resampling_fn_data(data.copy(), new_shape, spacing, target)
    found = resample_image(data.copy(), new_shape, spacing, target, MANAGER)
    assert resampled_image._zooms_as_expected()
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


LINES = {
    "one voxel": ((1, 1, 1), (2, 3, 4)),
    "three voxels": ((3, 1, 2), (5, 2, 2)),
    "blocks of slices": ((90, 4, 5), (70, 6, 4)),
    "slices that are not needed": ((90, 5, 4), (7, 3, 5)),
    "as many slices as a block has": ((25, 3, 3), (30, 3, 3)),
    "strips of lines": ((3, 150, 70), (4, 60, 150)),
    # The pole to the power of 565 is no number any more but zero.
    "long along z": ((640, 3, 4), (600, 4, 4)),
    "long along y": ((3, 640, 4), (3, 600, 5)),
    "long along x": ((3, 4, 640), (2, 4, 900)),
}
CONTENTS = {
    "noise": lambda random, shape: random.standard_normal(shape),
    "the same everywhere": lambda _random, shape: np.full(shape, 1.7),
    "zeros": lambda _random, shape: np.zeros(shape),
    "one voxel in zeros": lambda random, shape: 3e4 * (np.arange(np.prod(shape)) == random.integers(np.prod(shape))),
    "zeros, then noise": lambda random, shape: random.standard_normal(shape) * (np.arange(shape[2]) > shape[2] // 2),
    "large and small": lambda random, shape: 10.0 ** random.uniform(-30, 30, shape),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("lines", LINES)
def test_lines_of_any_length_are_filtered_as_scipy_does(lines, content):
    shape, new_shape = LINES[lines]
    image = CONTENTS[content](np.random.default_rng(0), shape).reshape(shape).astype(np.float32)
    found = np.full(new_shape, np.nan, np.float32)
    zoom_cubic(image, found)
    expected = resize(image.astype(float), new_shape, 3, mode="edge", anti_aliasing=False)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_the_order_of_an_images_memory_does_not_matter():
    image = np.random.default_rng(0).standard_normal((9, 14, 11)).astype(np.float32)
    found = np.empty((12, 10, 13), np.float32)
    expected = np.empty((12, 10, 13), np.float32)
    zoom_cubic(image, expected)
    zoom_cubic(np.asfortranarray(image), found)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(11, 23, 17), (1, 9, 30), (40, 1, 6), (2, 2, 2)])
@pytest.mark.parametrize("step", STEPS)
def test_labels_are_resampled_as_nnunet_does(step, shape):
    spacing, target = STEPS[step]
    random = np.random.default_rng(0)
    noise = random.integers(-1, 300, shape)
    bodies = random.integers(-1, 5, shape).repeat(3, 0).repeat(3, 1).repeat(3, 2)[tuple(map(slice, shape))]
    # Where two labels meet in the middle of a voxel, both have a half of it.
    halves = np.indices(shape).sum(0) % 2 * 7
    labels = np.stack([noise, bodies, halves, np.full(shape, 3)]).astype(np.int16)
    for new_shape in (np.maximum(compute_new_shape(shape, spacing, target), 1), 2 * np.array(shape)):
        expected = MANAGER.resampling_fn_seg(labels.astype(np.float32), new_shape, spacing, target)
        found = resample_labels(labels, new_shape, spacing, target, MANAGER)
        assert resampled_image._votes_as_expected()
        np.testing.assert_array_equal(found, expected)


def test_labels_that_are_no_whole_numbers_are_left_to_nnunet():
    labels = np.random.default_rng(0).choice([0.0, 0.5, 2.0], (1, 8, 9, 10)).astype(np.float32)
    args = (np.array([9, 12, 14]), (1.0, 1.0, 1.0), (0.9, 0.75, 0.7))
    expected = MANAGER.resampling_fn_seg(labels.copy(), *args)
    np.testing.assert_array_equal(resample_labels(labels, *args, MANAGER), expected)


def test_an_image_with_what_is_no_number_is_left_to_nnunet():
    data = np.zeros((1, 8, 9, 10), np.float32)
    data[0, 4, 4, 4] = np.nan
    args = (np.array([9, 12, 14]), (1.0, 1.0, 1.0), (0.9, 0.75, 0.7))
    expected = MANAGER.resampling_fn_data(data.copy(), *args)
    np.testing.assert_array_equal(resample_image(data, *args, MANAGER), expected)


def test_it_takes_less_than_a_sixth_of_nnunets_memory():
    data = np.random.default_rng(0).standard_normal((1, 60, 160, 160)).astype(np.float32)
    args = (np.array([45, 90, 90]), (1.0, 0.7, 0.7), (1.33, 1.25, 1.25))
    resample_image(data[:, :9, :9, :9].copy(), np.array([7, 5, 5]), *args[1:], MANAGER)
    most = []
    for function in (lambda: MANAGER.resampling_fn_data(data, *args), lambda: resample_image(data, *args, MANAGER)):
        tracemalloc.start()
        function()
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert most[1] < most[0] / 6
