"""Claims about the normalised surface Dice and the areas it is made of."""

import math
import sys

import numpy as np
import pytest
from surface_reference import SPACINGS_MM, beyond_counts, generated_cases, possible_areas

from kernels import surface_dice, surface_overlap, surface_overlaps
from kernels.metrics.surface_elements import surfel_areas


def cube(shape, *, at, size):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, start + length) for start, length in zip(at, size, strict=True))] = True
    return mask


def area_of(mask, spacing_mm=(1.0, 1.0, 1.0)):
    overlap = surface_overlap(mask, mask, spacing_mm=spacing_mm, tolerance_mm=0.0)
    return surfel_areas(spacing_mm) @ overlap.num_reference


def test_surface_of_one_voxel_is_an_octahedron_of_area_sqrt_3():
    assert area_of(cube((3, 3, 3), at=(1, 1, 1), size=(1, 1, 1))) == pytest.approx(math.sqrt(3), rel=1e-15)


def test_surface_of_a_box_has_cut_corners_bevelled_edges_and_flat_faces():
    z, y, x = 2.0, 0.5, 3.0
    num_z, num_y, num_x = 3, 4, 5
    corners = math.sqrt((y * x) ** 2 + (z * x) ** 2 + (z * y) ** 2)
    edges = 4 * (
        (num_z - 1) * z * math.hypot(y, x) / 2
        + (num_y - 1) * y * math.hypot(z, x) / 2
        + (num_x - 1) * x * math.hypot(z, y) / 2
    )
    faces = 2 * (
        (num_y - 1) * (num_x - 1) * y * x + (num_z - 1) * (num_x - 1) * z * x + (num_z - 1) * (num_y - 1) * z * y
    )
    box = cube((6, 6, 6), at=(1, 1, 1), size=(num_z, num_y, num_x))
    assert area_of(box, (z, y, x)) == pytest.approx(corners + edges + faces, rel=1e-14)


def test_border_of_the_volume_is_a_surface():
    inside = cube((6, 6, 6), at=(1, 1, 1), size=(4, 4, 4))
    assert area_of(np.ones((4, 4, 4), bool)) == area_of(inside)


@pytest.mark.parametrize("spacing_mm", [(1.3, 0.7, 2.9), (1.0, 1.0, 1.0)])
def test_area_of_every_code_is_that_of_triangles_between_edge_midpoints(spacing_mm):
    areas = surfel_areas(spacing_mm)
    for code in range(256):
        assert min(abs(areas[code] - area) for area in possible_areas(code, spacing_mm)) < 1e-13, code


def test_area_of_three_corners_is_half_a_face_and_a_leaning_trapezium():
    # Corners (1,1,1), (1,1,0), (1,0,1) are bits 0, 1, 2; their face is normal to z.
    z, y, x = 2.0, 3.0, 5.0
    leaning = math.sqrt((y * x) ** 2 + (z * x) ** 2 + (z * y) ** 2)
    assert surfel_areas((z, y, x))[0b111] == pytest.approx(y * x / 2 + 3 / 8 * leaning, rel=1e-15)


def test_areas_follow_the_axes_when_they_are_exchanged():
    turned = np.zeros(256, int)
    for code in range(256):
        cell = np.array([code >> bit & 1 for bit in range(8)]).reshape(2, 2, 2)
        turned[code] = sum(int(value) << bit for bit, value in enumerate(cell.transpose(2, 0, 1).ravel()))
    assert surfel_areas((1.3, 0.7, 2.9)) == pytest.approx(surfel_areas((2.9, 1.3, 0.7))[turned], rel=1e-15)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nsd_of_faces_apart_by_the_spacing_is_1_at_that_tolerance_and_less_just_below_it(axis):
    spacing_mm = (5.0, 0.30000001192, 0.75)
    reference = cube((9, 9, 9), at=(2, 2, 2), size=(4, 4, 4))
    prediction = np.roll(reference, 1, axis)
    at = spacing_mm[axis]
    assert surface_dice(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=at) == 1.0
    assert surface_dice(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=np.nextafter(at, 0.0)) < 1.0


def test_nsd_at_tolerance_0_of_voxels_side_by_side_counts_the_shared_corners_only():
    # Each voxel has 8 elements of equal area; those of the shared face, 4, are at the same points.
    a = cube((3, 3, 4), at=(1, 1, 1), size=(1, 1, 1))
    b = cube((3, 3, 4), at=(1, 1, 2), size=(1, 1, 1))
    assert surface_dice(a, b, spacing_mm=(1, 1, 1), tolerance_mm=0) == pytest.approx(0.5, rel=1e-15)


def test_nsd_is_nan_of_two_empty_masks_and_0_if_one_is_empty():
    empty, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    options = {"spacing_mm": (1.0, 1.0, 1.0), "tolerance_mm": 100.0}
    assert math.isnan(surface_dice(empty, empty, **options))
    assert surface_dice(full, empty, **options) == 0.0
    assert surface_dice(empty, full, **options) == 0.0
    assert surface_dice(full, full, **options) == 1.0


def expected_counts(reference, prediction, spacing_mm, tolerance_mm):
    options = {"spacing_mm": spacing_mm, "tolerance_mm": tolerance_mm}
    return [*beyond_counts(reference, prediction, **options), *beyond_counts(prediction, reference, **options)]


def found_counts(reference, prediction, spacing_mm, tolerance_mm):
    overlap = surface_overlap(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
    counts = [overlap.num_reference, overlap.num_reference_beyond, overlap.num_predicted, overlap.num_predicted_beyond]
    return overlap.surface_dice, counts


def test_counts_of_generated_cases_equal_those_of_all_pairs_of_elements():
    for reference, prediction, spacing_mm, tolerance_mm in generated_cases(400):
        expected = expected_counts(reference, prediction, spacing_mm, tolerance_mm)
        nsd, counts = found_counts(reference, prediction, spacing_mm, tolerance_mm)
        np.testing.assert_array_equal(counts, expected, err_msg=f"{reference.shape} {spacing_mm} {tolerance_mm}")
        areas = surfel_areas(spacing_mm)
        total = sum(areas @ expected[i] for i in (0, 2))
        within = sum(areas @ (expected[i] - expected[i + 1]) for i in (0, 2))
        assert math.isnan(nsd) if total == 0 else abs(nsd - within / total) <= 1e-12


def test_search_and_distances_count_the_same_elements(monkeypatch):
    cases = list(generated_cases(60))
    searched = [found_counts(*case)[1] for case in cases]
    # The package's attribute of this name is the function.
    monkeypatch.setattr(sys.modules["kernels.metrics.surface_dice"], "_MAX_ROWS", 0)
    np.testing.assert_array_equal([found_counts(*case)[1] for case in cases], searched)


def test_tolerance_larger_than_the_search_reaches_is_exact():
    reference = cube((3, 3, 300), at=(1, 1, 1), size=(1, 1, 1))
    prediction = cube((3, 3, 300), at=(1, 1, 201), size=(1, 1, 1))
    # Elements at x = 1, 2 and 201, 202: 199 mm from the facing ends, 200 mm from the others.
    nsd = [surface_dice(reference, prediction, spacing_mm=(1, 1, 1), tolerance_mm=t) for t in (198.9, 199, 200, 1e30)]
    assert nsd == pytest.approx([0.0, 0.5, 1.0, 1.0], rel=1e-15)


def test_any_memory_layout_and_integer_type_gives_the_same_bits():
    reference, prediction, spacing_mm, tolerance_mm = next(c for c in generated_cases(50) if 20 < c[0].sum() < 200)
    first = surface_dice(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
    doubled = np.repeat(reference, 2, axis=2)[:, :, ::2]
    for a in (np.asfortranarray(reference), doubled, reference.astype(np.int64), reference.astype(">u2")):
        assert surface_dice(a, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm) == first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prediction": np.zeros((2, 2, 3), bool)}, r"\(2, 2, 2\).*\(2, 2, 3\)"),
        ({"reference": np.zeros((2, 2), bool)}, r"\(2, 2\), prediction \(2, 2, 2\)"),
        ({"reference": np.zeros(2, bool)}, r"\(2,\); expected three axes"),
        ({"reference": [[[1]]]}, "list"),
        ({"reference": np.zeros((2, 2, 2))}, "float64"),
        ({"reference": np.full((2, 2, 2), 3)}, r"\[3\].*mask of 0 and 1"),
        ({"prediction": np.full((2, 2, 2), -1)}, r"prediction.*\[-1\]"),
        ({"spacing_mm": (1.0, 1.0)}, r"\(1\.0, 1\.0\)"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "three positive finite"),
        ({"spacing_mm": (1.0, math.nan, 1.0)}, "nan"),
        ({"spacing_mm": (1.0, math.inf, 1.0)}, "inf"),
        ({"spacing_mm": 1.0}, "three positive finite"),
        ({"tolerance_mm": -0.5}, "-0.5"),
        ({"tolerance_mm": math.nan}, "nan"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(changed, message):
    good = {
        "reference": np.zeros((2, 2, 2), bool),
        "prediction": np.zeros((2, 2, 2), bool),
        "spacing_mm": SPACINGS_MM[0],
        "tolerance_mm": 1.0,
    }
    arguments = good | changed
    reference, prediction = arguments.pop("reference"), arguments.pop("prediction")
    with pytest.raises(ValueError, match=message):
        surface_dice(reference, prediction, **arguments)


@pytest.mark.parametrize("is_flat", [False, True])
def test_overlaps_of_label_maps_are_those_of_their_labels_one_by_one(is_flat):
    random = np.random.default_rng(3)
    shape = (40, 50) if is_flat else (9, 20, 70)
    blocks = [random.integers(-1, 4, [-(-size // 3) for size in shape]) for _ in range(2)]
    reference, prediction = (np.kron(one, np.ones((3,) * len(shape), int)) for one in blocks)
    spacing_mm = (0.8, 0.7) if is_flat else (2.0, 0.8, 0.7)
    tolerances_mm = {3: 1.0, 1: 2.5, 9: 1.0}
    found = surface_overlaps(reference, prediction, spacing_mm=spacing_mm, tolerances_mm=tolerances_mm)
    assert list(found) == [3, 1, 9]
    for label, tolerance_mm in tolerances_mm.items():
        one = surface_overlap(reference == label, prediction == label, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
        for field in ("num_reference", "num_reference_beyond", "num_predicted", "num_predicted_beyond"):
            np.testing.assert_array_equal(getattr(found[label], field), getattr(one, field))
    assert math.isnan(found[9].surface_dice)


def test_the_surface_dice_of_pooled_surfaces_is_weighted_by_their_areas():
    # Of three equal surfaces, two agree and one is missed.
    mask, nothing = cube((6, 6, 6), at=(1, 1, 1), size=(4, 4, 1)), np.zeros((6, 6, 6), bool)
    spacing_mm, tolerance_mm = (1.0, 1.0, 1.0), 0.5
    agreed, missed = (
        surface_overlap(mask, other, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm) for other in (mask, nothing)
    )
    assert (agreed.surface_dice, missed.surface_dice) == (1.0, 0.0)
    assert (agreed + missed).surface_dice == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="expected the same"):
        agreed + surface_overlap(mask, mask, spacing_mm=spacing_mm, tolerance_mm=1.0)
