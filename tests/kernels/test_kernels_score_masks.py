"""Claims about Dice and about scoring all labels at once."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kernels import METRICS, LabelScore, count_labels, dice, score_masks, surface_dice, surface_distances


def test_dice_of_two_and_three_voxels_with_one_in_common_is_two_fifths():
    reference = np.array([[[1, 1, 0, 0, 0]]])
    prediction = np.array([[[0, 1, 1, 1, 0]]])
    assert dice(reference, prediction) == 2 / 5


def test_dice_is_nan_of_two_empty_masks_and_0_if_one_is_empty():
    empty, full = np.zeros((1, 2, 3), np.uint8), np.ones((1, 2, 3), np.uint8)
    assert math.isnan(dice(empty, empty))
    assert dice(full, empty) == dice(empty, full) == 0.0
    assert dice(full, full) == 1.0


def test_dice_refuses_a_label_map():
    with pytest.raises(ValueError, match=r"labels \[0, 2\]"):
        dice(np.array([[[0, 2]]]), np.array([[[0, 1]]]))


def label_maps(dtype):
    random = np.random.default_rng(7)
    labels = np.array([0, 1, 2, 3, 7]).astype(dtype)
    reference = random.choice(labels, (6, 7, 70))
    prediction = np.where(random.random(reference.shape) < 0.7, reference, random.choice(labels, reference.shape))
    return reference, prediction


def test_voxels_are_counted_of_different_whole_labels_alone():
    labels = np.array([[[0, 1, 1, 2, 2, 2]]], np.uint8)
    assert count_labels(labels, [2, 1, 300]) == [3, 2, 0]
    for odd in ([1.5], [0], [1, 1], ["1"]):
        with pytest.raises(ValueError, match=r"expected different integers other than 0"):
            count_labels(labels, odd)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint64])
def test_every_label_scores_as_its_mask_alone(dtype):
    reference, prediction = label_maps(dtype)
    scores = score_masks(reference, prediction, spacing_mm=(2.5, 0.8, 0.8), tolerances_mm={1: 1.0, 2: 1.0, 3: 3.0})
    assert [(score.label, score.tolerance_mm) for score in scores] == [(1, 1.0), (2, 1.0), (3, 3.0)]
    for score in scores:
        a, b = reference == score.label, prediction == score.label
        assert score.dsc == dice(a, b)
        nsd = surface_dice(a, b, spacing_mm=(2.5, 0.8, 0.8), tolerance_mm=score.tolerance_mm)
        assert score.nsd == nsd
        assert (score.num_reference_voxels, score.num_predicted_voxels) == (a.sum(), b.sum())


def test_many_labels_score_as_each_of_them_alone():
    random = np.random.default_rng(3)
    reference = random.integers(0, 41, (5, 12, 30)).astype(np.uint8)
    prediction = np.where(random.random(reference.shape) < 0.8, reference, random.integers(0, 41, reference.shape))
    tolerances = {int(label): 1.0 + label / 10 for label in random.permutation(np.arange(1, 45))}
    shifted = {label: label + 100 for label in tolerances}
    together = score_masks(
        reference,
        prediction + np.where(prediction > 0, 100, 0),
        spacing_mm=(2.5, 0.8, 0.8),
        tolerances_mm=tolerances,
        metrics=METRICS,
        prediction_labels=shifted,
    )
    options = {"spacing_mm": (2.5, 0.8, 0.8), "metrics": METRICS}
    for score, (label, tolerance_mm) in zip(together, tolerances.items(), strict=True):
        (alone,) = score_masks(reference, prediction, tolerances_mm={label: tolerance_mm}, **options)
        assert repr(score) == repr(alone)


def test_only_the_metrics_that_were_asked_for_are_numbers():
    reference, prediction = label_maps(np.uint8)
    options = {"spacing_mm": (2.5, 0.8, 0.8), "tolerances_mm": {2: 1.0, 9: 1.0}}
    score, in_neither = score_masks(reference, prediction, **options, metrics=("hd95", "assd"))
    distances = surface_distances(reference == 2, prediction == 2, spacing_mm=(2.5, 0.8, 0.8))
    assert score.hd95_mm == distances.hausdorff_distance(percentile=95)
    assert score.assd_mm == distances.average_surface_distance().symmetric_mm
    assert math.isnan(score.dsc)
    assert math.isnan(score.nsd)
    assert math.isnan(in_neither.hd95_mm)
    assert math.isnan(in_neither.assd_mm)
    (one_sided,) = score_masks(reference, reference * (reference != 3), spacing_mm=(1, 1, 1), tolerances_mm={3: 1.0})
    assert math.isnan(one_sided.hd95_mm)
    with pytest.raises(ValueError, match="'dice'"):
        score_masks(reference, prediction, **options, metrics=("dice",))
    with pytest.raises(ValueError, match="metrics is 'dsc'; expected a collection of names"):
        score_masks(reference, prediction, **options, metrics="dsc")


def test_a_label_may_have_another_value_in_the_prediction():
    reference, prediction = label_maps(np.uint8)
    options = {"spacing_mm": (2.5, 0.8, 0.8), "tolerances_mm": {1: 1.0, 3: 3.0}}
    # 1 and 3 change places.
    exchanged = np.where(prediction == 1, 3, np.where(prediction == 3, 1, prediction))
    expected = score_masks(reference, prediction, **options)
    assert score_masks(reference, exchanged, **options, prediction_labels={1: 3, 3: 1}) == expected
    with pytest.raises(ValueError, match=r"\[3, 3\]"):
        score_masks(reference, prediction, **options, prediction_labels={1: 3})


def test_threads_score_as_one_after_the_other():
    cases = [label_maps(dtype) for dtype in (np.uint8, np.int16, np.uint64, np.int8)] * 8

    def score(case):
        metrics = ("dsc", "nsd", "hd95", "assd")
        return score_masks(
            *case, spacing_mm=(2.5, 0.8, 0.8), tolerances_mm=dict.fromkeys((1, 2, 3), 1.0), metrics=metrics
        )

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(score, cases)) == [score(case) for case in cases]


def test_labels_beyond_a_byte_and_below_zero_are_scored():
    reference = np.array([[[-5, 1000, 1000, 0]]])
    prediction = np.array([[[-5, 1000, 0, 744]]])  # 744 is 1000 modulo 256
    scores = score_masks(reference, prediction, spacing_mm=(1, 1, 1), tolerances_mm={1000: 0.0, -5: 0.0})
    assert [score.dsc for score in scores] == [2 / 3, 1.0]


def test_a_label_in_neither_map_has_nan_scores_and_no_voxels():
    (score,) = score_masks(
        np.ones((2, 2, 2), int), np.ones((2, 2, 2), int), spacing_mm=(1, 1, 1), tolerances_mm={4: 1.0}
    )
    assert isinstance(score, LabelScore)
    assert math.isnan(score.dsc)
    assert math.isnan(score.nsd)
    assert (score.num_reference_voxels, score.num_predicted_voxels) == (0, 0)


@pytest.mark.parametrize(
    ("tolerances_mm", "message"),
    [
        ({}, "no labels; expected at least one"),
        ({0: 1.0}, r"\[0\]; expected integers other than 0"),
        ({1: -1.0}, "-1.0"),
        ({1.5: 1.0}, r"\[1\.5\]"),
        (1.0, r"tolerances_mm is 1\.0; expected a tolerance for each label, such as \{1: 1\.0\}"),
        ({math.nan: 1.0}, r"\[nan\]; expected integers"),
        ({math.inf: 1.0}, r"\[inf\]; expected integers"),
        ({None: 1.0}, r"\[None\]; expected integers"),
        ({1: None}, "tolerance_mm is None; expected a finite number"),
        ({1: [1.0]}, r"tolerance_mm is \[1.0\]"),
    ],
)
def test_bad_labels_and_tolerances_are_refused(tolerances_mm, message):
    one = np.ones((2, 2, 2), int)
    with pytest.raises(ValueError, match=message):
        score_masks(one, one, spacing_mm=(1, 1, 1), tolerances_mm=tolerances_mm)


@pytest.mark.parametrize(
    "spacing_mm",
    [{1, 2, 3}, "111", (1e-200, 1e-200, 1e-200), (1, 1, 5e-324), (1e200, 1, 1), (1, 1, math.nan), (1, 1), None],
)
def test_a_spacing_without_order_or_whose_squares_are_no_numbers_is_refused(spacing_mm):
    one = np.ones((2, 2, 2), int)
    with pytest.raises(ValueError, match="expected three positive finite numbers"):
        score_masks(one, one, spacing_mm=spacing_mm, tolerances_mm={1: 1.0})


def test_what_a_masked_array_hides_is_not_scored_in_silence():
    one = np.ones((2, 2, 2), int)
    with pytest.raises(ValueError, match=r"prediction is a masked array; .* fill it first"):
        score_masks(one, np.ma.array(one, mask=one > 0), spacing_mm=(1, 1, 1), tolerances_mm={1: 1.0})


def layouts_of(array):
    """The same map in other layouts of memory."""
    yield "Fortran", np.asfortranarray(array)
    yield "x slowest, y fastest", np.ascontiguousarray(array.transpose(2, 0, 1)).transpose(1, 2, 0)
    yield "y slowest", np.ascontiguousarray(array.transpose(1, 0, 2)).transpose(1, 0, 2)
    yield "reversed", np.ascontiguousarray(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    yield "reversed Fortran", np.asfortranarray(array[::-1, :, ::-1])[::-1, :, ::-1]
    yield "every second x", np.repeat(array, 2, axis=2)[:, :, ::2]
    yield "amid a larger one", np.pad(array, 3)[3:-3, 3:-3, 3:-3]
    packed = np.zeros(array.shape, np.dtype([("a", "u1"), ("label", array.dtype)]))
    packed["label"] = array
    yield "a field of records, unaligned", packed["label"]


@pytest.mark.parametrize("dtype", ["u1", "i2", ">u2", "i4", ">i8", "u8"])
def test_scores_have_the_same_bits_for_any_type_and_layout_with_few_labels_and_with_many(dtype):
    random = np.random.default_rng(11)
    reference = random.integers(0, 9, (3, 6, 34)).repeat(3, 0).repeat(2, 1).repeat(4, 2).astype(np.uint8)
    prediction = np.where(random.random(reference.shape) < 0.98, reference, 3).astype(np.uint8)
    for labels in ((2, 7), range(1, 9)):
        options = {"spacing_mm": (2.5, 0.8, 0.7), "tolerances_mm": dict.fromkeys(labels, 1.0), "metrics": METRICS}
        expected = repr(score_masks(reference, prediction, **options))
        for name, other in layouts_of(reference.astype(dtype)):
            assert repr(score_masks(other, prediction, **options)) == expected, name


def test_a_thousand_instances_with_large_numbers_are_scored_in_one_call():
    random = np.random.default_rng(5)
    numbers = random.choice(2**40, 1000, replace=False) + 1
    reference = numbers.reshape(10, 10, 10).repeat(2, 0).repeat(3, 1).repeat(7, 2)
    prediction = np.roll(reference, 1, axis=2)
    scores = score_masks(
        reference,
        prediction,
        spacing_mm=(1, 1, 1),
        tolerances_mm=dict.fromkeys(numbers.tolist(), 0.0),
        metrics=("dsc",),
    )
    assert [score.label for score in scores] == numbers.tolist()
    # Six of the seven columns of a block agree.
    assert {score.dsc for score in scores} == {6 / 7}
    assert {(score.num_reference_voxels, score.num_predicted_voxels) for score in scores} == {(42, 42)}


def test_a_bool_map_whose_bytes_are_not_1_is_true_where_they_are_not_0():
    bytes_of_it = np.array([[[0, 1, 255, 2, 0, 7]]], np.uint8)
    for array in (bytes_of_it.view(bool), np.asfortranarray(bytes_of_it.repeat(3, 0)).view(bool)[:1]):
        assert dice(array, bytes_of_it > 0) == 1.0


def test_more_runs_than_there_was_room_for_are_all_found():
    random = np.random.default_rng(2)
    reference = random.integers(0, 6, (20, 90, 110))
    scores = score_masks(
        reference, reference, spacing_mm=(1, 1, 1), tolerances_mm=dict.fromkeys(range(1, 6), 1.0), metrics=("dsc",)
    )
    assert [score.num_reference_voxels for score in scores] == np.bincount(reference.ravel())[1:].tolist()
