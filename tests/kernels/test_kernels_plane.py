"""Claims about masks in the plane, whose surface is a contour."""

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage
from surface_reference import distances_of_all_pairs

from kernels import METRICS, dice, score_masks, surface_dice, surface_distances, surface_overlap
from kernels.metrics.surface_elements import surfel_areas


def pixels(*at, shape=(128, 128)):
    mask = np.zeros(shape, bool)
    for place in at:
        mask[place] = True
    return mask


def code_map(mask):
    """Neighbour code of every corner of pixels: 8 for (y-1, x-1), 4 with x, 2 with y, 1 for (y, x)."""
    padded = np.pad(mask, 1).astype(int)
    return 8 * padded[:-1, :-1] + 4 * padded[:-1, 1:] + 2 * padded[1:, :-1] + padded[1:, 1:]


def length_of(code, y, x):
    """Length of the lines that cut the corners of the fewer pixels off a cell, each on its own if they lie across."""
    inside = [corner for bit, corner in enumerate([(1, 1), (1, 0), (0, 1), (0, 0)]) if code >> bit & 1]
    if len(inside) in {0, 4}:
        return 0.0
    if len(inside) == 2 and inside[0][0] == inside[1][0]:
        return x
    if len(inside) == 2 and inside[0][1] == inside[1][1]:
        return y
    return math.hypot(y, x) / 2 * (2 if len(inside) == 2 else 1)


def test_lengths_of_all_codes_follow_from_the_cut_corners():
    assert surfel_areas((2.0, 0.7)) == pytest.approx([length_of(code, 2.0, 0.7) for code in range(16)], rel=1e-15)


def test_two_pixels_two_apart():
    reference, prediction = pixels((50, 70)), pixels((50, 72))
    found = surface_distances(reference, prediction, spacing_mm=(2, 1))
    # Four corners are cut off; two of them lie 1 mm from the other pixel's, two lie 2 mm away.
    distances, lengths = found.reference.sorted()
    assert (distances.tolist(), lengths.tolist()) == ([1, 1, 2, 2], [math.sqrt(5) / 2] * 4)
    average = found.average_surface_distance()
    assert (average.reference_to_prediction_mm, average.prediction_to_reference_mm) == pytest.approx((1.5, 1.5))
    assert found.hausdorff_distance() == found.hausdorff_distance(percentile=95) == 2.0
    assert surface_dice(reference, prediction, spacing_mm=(2, 1), tolerance_mm=1) == pytest.approx(0.5, rel=1e-15)
    assert dice(reference, prediction) == 0.0


def test_a_square_and_one_that_is_a_row_longer():
    reference, prediction = np.zeros((2, 6, 6), bool)
    reference[1:3, 1:3] = prediction[1:4, 1:3] = True
    y, x, diagonal = 2.0, 1.0, math.sqrt(5) / 2
    found = surface_distances(reference, prediction, spacing_mm=(y, x))
    # Of the shorter one the middle of the lower edge lies amid the longer one, x from its sides; of the longer one the
    # lower edge lies y below.
    expected = sorted([(0, length) for length in (diagonal,) * 4 + (x, y, y)] + [(x, x)])
    np.testing.assert_allclose(np.transpose(found.reference.sorted()), expected, rtol=1e-15)
    expected = sorted([(0, length) for length in (diagonal,) * 2 + (x, y, y, y, y)] + [(y, diagonal)] * 2 + [(y, x)])
    np.testing.assert_allclose(np.transpose(found.prediction.sorted()), expected, rtol=1e-15)
    within = 4 * diagonal + 2 * x + 2 * y + 2 * diagonal + x + 4 * y
    total = within + 2 * diagonal + x
    nsd = surface_dice(reference, prediction, spacing_mm=(y, x), tolerance_mm=1)
    assert nsd == pytest.approx(within / total, rel=1e-15)
    assert dice(reference, prediction) == 2 * 4 / 10
    assert found.hausdorff_distance() == y


def test_one_empty_mask_and_two():
    one, empty = pixels((50, 60)), pixels()
    for pair in ((one, empty), (empty, one)):
        found = surface_distances(*pair, spacing_mm=(3, 2))
        average = found.average_surface_distance()
        ways = [average.reference_to_prediction_mm, average.prediction_to_reference_mm]
        assert ways[pair[0] is empty] == math.inf
        assert math.isnan(ways[pair[1] is empty])
        assert found.hausdorff_distance() == found.hausdorff_distance(percentile=95) == math.inf
        assert surface_dice(*pair, spacing_mm=(3, 2), tolerance_mm=1) == dice(*pair) == 0.0
    none = surface_distances(empty, empty, spacing_mm=(3, 2))
    assert none.hausdorff_distance() == math.inf
    assert math.isnan(none.average_surface_distance().symmetric_mm)
    assert math.isnan(surface_dice(empty, empty, spacing_mm=(3, 2), tolerance_mm=1))
    assert math.isnan(dice(empty, empty))


def generated():
    random = np.random.default_rng(8)
    for number in range(150):
        shape = tuple(random.integers(1, (40, 150)))
        smooth = (
            ndimage.gaussian_filter(random.random((2, *shape)), (0, 2, 2)) if number % 2 else random.random((2, *shape))
        )
        reference, prediction = smooth > random.choice([0.3, 0.5, 0.6])
        yield reference, prediction, ((1.0, 1.0), (0.7, 0.7), (5.0, 0.3), (0.25, 2.0))[number % 4]


def test_counts_lengths_and_distances_equal_those_of_all_pairs_of_elements():
    for reference, prediction, spacing_mm in generated():
        codes, others = code_map(reference), code_map(prediction)
        is_border, is_target = (codes > 0) & (codes < 15), (others > 0) & (others < 15)
        expected = distances_of_all_pairs(
            np.argwhere(np.stack([is_border])), np.argwhere(np.stack([is_target])), (1.0, *spacing_mm)
        )
        lengths = surfel_areas(spacing_mm)[codes[is_border]]
        order = np.lexsort((lengths, expected))
        found = surface_distances(reference, prediction, spacing_mm=spacing_mm)
        np.testing.assert_array_equal(found.reference.sorted(), (expected[order], lengths[order]))
        for tolerance_mm in (0.0, 0.7, 2.0, 200.0):
            overlap = surface_overlap(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
            beyond = codes[is_border][expected > tolerance_mm]
            np.testing.assert_array_equal(overlap.num_reference, np.bincount(codes[is_border], minlength=16))
            np.testing.assert_array_equal(overlap.num_reference_beyond, np.bincount(beyond, minlength=16))


def test_labels_of_a_plane_in_any_layout_score_as_their_masks():
    random = np.random.default_rng(3)
    reference = random.integers(0, 8, (9, 20)).repeat(4, 0).repeat(5, 1)
    prediction = np.roll(reference, 2, axis=1)
    options = {"spacing_mm": (0.7, 0.5), "metrics": METRICS}
    tolerances = dict.fromkeys(range(1, 8), 0.6)
    expected = score_masks(reference, prediction, tolerances_mm=tolerances, **options)
    for other in (np.asfortranarray(reference), reference[::-1, ::-1].copy()[::-1, ::-1], reference.astype(">i2")):
        assert score_masks(other, prediction, tolerances_mm=tolerances, **options) == expected
    for score, label in itertools.product(expected, (2, 5)):
        if score.label == label:
            a, b = reference == label, prediction == label
            assert score.nsd == surface_dice(a, b, spacing_mm=(0.7, 0.5), tolerance_mm=0.6)
            assert (score.num_reference_voxels, score.num_predicted_voxels) == (a.sum(), b.sum())


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.0,), (1.0, 0.0)])
def test_a_plane_has_two_spacings(spacing_mm):
    with pytest.raises(ValueError, match=r"two positive finite numbers \(y, x\)"):
        surface_distances(pixels(), pixels(), spacing_mm=spacing_mm)
