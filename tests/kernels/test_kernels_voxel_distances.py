"""Claims about distances of the voxels at surfaces; the reference is scipy's erosion and distance transform."""

import math

import numpy as np
import pytest
from scipy import ndimage
from surface_reference import generated_cases

from kernels import score_masks, voxel_surface_distances


def at_surface(mask):
    return mask & ~ndimage.binary_erosion(mask)


def expected_distances(reference, prediction, spacing_mm):
    a, b = at_surface(reference), at_surface(prediction)
    return (
        ndimage.distance_transform_edt(~b, sampling=spacing_mm)[a],
        ndimage.distance_transform_edt(~a, sampling=spacing_mm)[b],
    )


def compare(reference, prediction, spacing_mm):
    ours = voxel_surface_distances(reference, prediction, spacing_mm=spacing_mm)
    ways = expected_distances(reference, prediction, spacing_mm)
    for found, expected in zip((ours.reference, ours.prediction), ways, strict=True):
        # The transform may return the larger of two distances that differ in the last bit.
        np.testing.assert_allclose(found.sorted()[0], np.sort(expected), rtol=4.5e-16, atol=0)
    pooled = np.concatenate(ways)
    for percentile in (0, 50, 95, 99.9, 100):
        larger = max(np.percentile(way, percentile) for way in ways)
        assert ours.hausdorff_distance(percentile=percentile) == pytest.approx(larger, rel=1e-14)
        together = ours.pooled_hausdorff_distance(percentile=percentile)
        assert together == pytest.approx(np.percentile(pooled, percentile), rel=1e-14)
    assert ours.average_distance() == pytest.approx(pooled.mean(), rel=1e-13)
    assert ours.mean_average_distance() == pytest.approx(np.mean([way.mean() for way in ways]), rel=1e-13)


def test_generated_volumes_agree_with_an_erosion_and_a_distance_transform():
    for reference, prediction, spacing_mm, _ in generated_cases(200):
        if reference.any() and prediction.any():
            compare(reference, prediction, spacing_mm)


def test_generated_planes_agree_with_an_erosion_and_a_distance_transform():
    random = np.random.default_rng(5)
    for _ in range(100):
        shape = tuple(random.integers(1, (30, 140)))
        reference, prediction = random.random((2, *shape)) < random.choice([0.1, 0.6, 0.95])
        if reference.any() and prediction.any():
            compare(reference, prediction, (0.7, 0.4))


def test_all_four_numbers_of_a_bar_and_its_end():
    # Five voxels against the last of them, 1 mm apart: distances 4, 3, 2, 1, 0 and, back, 0.
    bar, end = np.ones((1, 1, 5), np.uint8), np.array([[[0, 0, 0, 0, 1]]], np.uint8)
    metrics = ("hd95-voxel", "hd95-voxel-pooled", "assd-voxel", "masd-voxel")
    (score,) = score_masks(bar, end, spacing_mm=(1, 1, 1), tolerances_mm={1: 1.0}, metrics=metrics)
    assert score.hd95_voxel_mm == pytest.approx(3.8)  # place 0.95 * 4 between 3 and 4
    assert score.hd95_voxel_pooled_mm == pytest.approx(3.75)  # place 0.95 * 5 among 0, 0, 1, 2, 3, 4
    assert score.assd_voxel_mm == pytest.approx(10 / 6)
    assert score.masd_voxel_mm == 1.0
    assert math.isnan(score.hd95_mm)


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 3)])
def test_of_one_empty_mask_all_are_infinite_and_of_two_none_is_a_number(shape):
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    for pair, is_right in (((full, empty), math.isinf), ((empty, full), math.isinf), ((empty, empty), math.isnan)):
        found = voxel_surface_distances(*pair, spacing_mm=(1.0,) * len(shape))
        assert is_right(found.hausdorff_distance(percentile=95))
        assert is_right(found.pooled_hausdorff_distance(percentile=95))
        assert is_right(found.average_distance())
        assert is_right(found.mean_average_distance())


def test_percentile_outside_0_to_100_is_refused():
    found = voxel_surface_distances(np.ones((2, 2), bool), np.ones((2, 2), bool), spacing_mm=(1, 1))
    with pytest.raises(ValueError, match="from 0 to 100"):
        found.pooled_hausdorff_distance(percentile=101)
