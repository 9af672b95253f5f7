"""Claims about resampled images: nnU-Net's own numbers, to the last bit, in less memory."""

import tracemalloc

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from bench.stock_models import small_plans
from orchestrator.training.nnunet import resampled_image
from orchestrator.training.nnunet.resampled_image import resample_image

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


def test_an_image_with_what_is_no_number_is_left_to_nnunet():
    data = np.zeros((1, 8, 9, 10), np.float32)
    data[0, 4, 4, 4] = np.nan
    args = (np.array([9, 12, 14]), (1.0, 1.0, 1.0), (0.9, 0.75, 0.7))
    expected = MANAGER.resampling_fn_data(data.copy(), *args)
    np.testing.assert_array_equal(resample_image(data, *args, MANAGER), expected)


def test_it_takes_less_than_half_of_nnunets_memory():
    data = np.random.default_rng(0).standard_normal((1, 60, 160, 160)).astype(np.float32)
    args = (np.array([45, 90, 90]), (1.0, 0.7, 0.7), (1.33, 1.25, 1.25))
    resample_image(data[:, :9, :9, :9].copy(), np.array([7, 5, 5]), *args[1:], MANAGER)
    most = []
    for function in (lambda: MANAGER.resampling_fn_data(data, *args), lambda: resample_image(data, *args, MANAGER)):
        tracemalloc.start()
        function()
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert most[1] < most[0] / 2
