"""Claims about Hausdorff and average surface distances."""

import math

import numpy as np
import pytest
from surface_reference import code_map, distances_of_all_pairs, generated_cases, is_border, transformed_distances

from kernels import ElementDistances, SurfaceDistances, surface_distances
from kernels.metrics.surface_elements import surfel_areas


def voxel(shape, at):
    mask = np.zeros(shape, bool)
    mask[at] = True
    return mask


def elements(distances_mm, *, areas_mm2, counts):
    return ElementDistances(
        distances_mm=np.array(distances_mm),
        codes=np.zeros(len(counts), np.uint8),
        areas_mm2=np.array(areas_mm2),
        counts=np.array(counts),
    )


def test_distances_of_voxels_three_apart_along_z():
    a, b = voxel((6, 3, 3), (1, 1, 1)), voxel((6, 3, 3), (4, 1, 1))
    found = surface_distances(a, b, spacing_mm=(2.0, 1.0, 1.0))
    # Elements at z = 1, 2 and 4, 5: two steps from the facing ends and three from the others.
    assert found.reference.sorted()[0].tolist() == [4.0] * 4 + [6.0] * 4
    assert found.prediction.sorted()[0].tolist() == [4.0] * 4 + [6.0] * 4
    assert found.hausdorff_distance() == 6.0
    assert found.hausdorff_distance(percentile=25) == 4.0
    assert found.hausdorff_distance(percentile=95) == 6.0
    average = found.average_surface_distance()
    assert average.reference_to_prediction_mm == pytest.approx(5.0, rel=1e-15)
    assert average.symmetric_mm == pytest.approx(5.0, rel=1e-15)


def test_percentile_weighs_distances_by_area():
    found = SurfaceDistances(
        reference=elements([9.0, 1.0, 2.0], areas_mm2=[1.0, 1.0, 4.0], counts=[1, 1, 2]),
        prediction=elements([0.5], areas_mm2=[10.0], counts=[1]),
    )
    assert [found.hausdorff_distance(percentile=p) for p in (5, 50, 89, 95, 100)] == [1.0, 2.0, 2.0, 9.0, 9.0]
    average = found.average_surface_distance()
    assert average.reference_to_prediction_mm == pytest.approx((1 + 16 + 9) / 10)
    assert average.prediction_to_reference_mm == 0.5
    assert average.symmetric_mm == pytest.approx((1 + 16 + 9 + 5) / 20)


def test_average_of_many_elements_is_exact_to_the_13th_digit():
    distances = np.random.default_rng(4).random(300_000)
    found = elements(distances, areas_mm2=np.full(300_000, 0.1), counts=np.ones(300_000, np.int64))
    average = SurfaceDistances(reference=found, prediction=found).average_surface_distance()
    assert average.symmetric_mm == pytest.approx(math.fsum(distances) / 300_000, rel=1e-13)


def test_one_direction_can_be_far_while_the_other_is_near():
    small = voxel((3, 3, 12), (1, 1, 1))
    large = small | voxel((3, 3, 12), (1, 1, 9))
    found = surface_distances(small, large, spacing_mm=(1.0, 1.0, 1.0))
    assert found.reference.distances_mm.max() == 0.0
    assert found.prediction.distances_mm.max() == 8.0


def test_of_an_empty_mask_distances_are_infinite_and_of_two_there_are_none():
    empty, full = np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)
    one = surface_distances(full, empty, spacing_mm=(1.0, 1.0, 1.0))
    assert np.isinf(one.reference.distances_mm).all()
    assert one.reference.counts.sum() == 26
    assert len(one.prediction.distances_mm) == 0
    assert one.hausdorff_distance(percentile=95) == math.inf
    assert one.average_surface_distance().reference_to_prediction_mm == math.inf
    assert math.isnan(one.average_surface_distance().prediction_to_reference_mm)
    none = surface_distances(empty, empty, spacing_mm=(1.0, 1.0, 1.0))
    assert len(none.reference.distances_mm) == len(none.prediction.areas_mm2) == 0
    assert none.hausdorff_distance() == math.inf
    assert math.isnan(none.average_surface_distance().symmetric_mm)


def test_distances_and_areas_of_generated_cases_equal_those_of_all_pairs():
    for reference, prediction, spacing_mm, _ in generated_cases(250):
        found = surface_distances(reference, prediction, spacing_mm=spacing_mm)
        codes, other = code_map(reference), code_map(prediction)
        border = is_border(codes)
        distances = distances_of_all_pairs(np.argwhere(border), np.argwhere(is_border(other)), spacing_mm)
        areas = surfel_areas(spacing_mm)[codes[border]]
        order = np.lexsort((areas, distances))
        np.testing.assert_array_equal(found.reference.sorted(), (distances[order], areas[order]))


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.8, 0.8), (0.5, 2.0, 0.30000001192)])
def test_distances_of_masks_that_lie_apart_equal_those_of_all_pairs(spacing_mm):
    random = np.random.default_rng(3)
    for _ in range(8):
        reference, prediction = np.zeros((2, 40, 60, 150), bool)
        for mask in (reference, prediction):
            for start in random.integers((0, 0, 0), (35, 50, 140), (3, 3)):
                mask[tuple(slice(first, first + size) for first, size in zip(start, (4, 9, 9), strict=True))] = True
        found = surface_distances(reference, prediction, spacing_mm=spacing_mm)
        points, targets = (np.argwhere(is_border(code_map(mask))) for mask in (reference, prediction))
        expected = np.sort(distances_of_all_pairs(points, targets, spacing_mm))
        np.testing.assert_array_equal(found.reference.sorted()[0], expected)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.9)])
def test_distances_of_a_ball_in_the_middle_of_a_shell_equal_those_of_all_pairs(spacing_mm):
    # Wherever one looks from the ball, the shell is about as far away: nothing can be left out.
    z, y, x = (axis * step for axis, step in zip(np.mgrid[-20:21, -30:31, -64:64], spacing_mm, strict=True))
    radius = np.sqrt(z**2 + y**2 + x**2)
    ball, shell = radius < 2.5, (radius > 17) & (radius < 19)
    found = surface_distances(ball, shell, spacing_mm=spacing_mm)
    points, targets = (np.argwhere(is_border(code_map(mask))) for mask in (ball, shell))
    expected = np.sort(distances_of_all_pairs(points, targets, spacing_mm))
    np.testing.assert_array_equal(found.reference.sorted()[0], expected)


def test_distances_agree_with_a_distance_transform_up_to_the_last_bit():
    for reference, prediction, spacing_mm, _ in generated_cases(100):
        if reference.any() and prediction.any():
            found = surface_distances(reference, prediction, spacing_mm=spacing_mm)
            expected = transformed_distances(prediction, reference, spacing_mm=spacing_mm)
            np.testing.assert_allclose(found.prediction.sorted()[0], expected, rtol=4.5e-16, atol=0)


def test_percentile_is_that_of_all_elements_sorted_by_distance_and_area():
    random = np.random.default_rng(1)
    for distances in (random.random(5000), random.integers(0, 30, 5000).astype(float), np.repeat(2.0, 40)):
        areas = random.choice([0.1, 0.25, 0.7], distances.size)
        found = elements(distances, areas_mm2=areas, counts=random.integers(1, 4, distances.size))
        ordered, own_areas = found.sorted()
        shares = np.cumsum(own_areas) / np.sum(own_areas)
        both = SurfaceDistances(reference=found, prediction=found)
        for percentile in (0, 1, 50, 94.99, 95, 99.9, 100, *(100 * shares[:: len(shares) // 7])):
            expected = ordered[min(np.searchsorted(shares, percentile / 100), len(shares) - 1)]
            assert both.hausdorff_distance(percentile=percentile) == expected


@pytest.mark.parametrize("percentile", [-1, 100.5, math.nan])
def test_percentile_outside_0_to_100_is_refused(percentile):
    one = np.ones((2, 2, 2), bool)
    with pytest.raises(ValueError, match="expected a number from 0 to 100"):
        surface_distances(one, one, spacing_mm=(1, 1, 1)).hausdorff_distance(percentile=percentile)
