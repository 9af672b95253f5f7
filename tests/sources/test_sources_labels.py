"""Sides of any paired structure are told by position, whatever their names and labels."""

import numpy as np
import pytest

from orchestrator.errors import DataError
from orchestrator.sources.labels import LabelRule, PairedStructure, map_labels

KIDNEYS = PairedStructure(name="kidney", plural="kidneys", left=7, right=4)
RULE = LabelRule(values={10: 7, 20: 4, 30: 1}, pair=KIDNEYS)


def mask(*, left_at: slice, right_at: slice) -> np.ndarray:
    """x grows to the patient's left."""
    values = np.zeros((2, 3, 20), np.int16)
    values[..., left_at], values[..., right_at], values[0, 0, 10] = 10, 20, 30
    return values


def test_the_side_at_larger_x_is_the_left_one():
    mapped = map_labels(mask(left_at=slice(15, 18), right_at=slice(2, 5)), rule=RULE, name="mask")
    assert mapped.labels[1, 1].tolist() == [0] * 2 + [4] * 3 + [0] * 10 + [7] * 3 + [0] * 2
    assert (mapped.present, mapped.notes) == ({1, 4, 7}, ())


def test_exchanged_sides_are_swapped_with_a_note_and_other_labels_stay():
    mapped = map_labels(mask(left_at=slice(2, 5), right_at=slice(15, 18)), rule=RULE, name="mask")
    assert mapped.labels[1, 1].tolist() == [0] * 2 + [4] * 3 + [0] * 10 + [7] * 3 + [0] * 2
    assert mapped.labels[0, 0, 10] == 1
    assert mapped.notes == ("mask: left and right kidney were exchanged, told by their centroids; swapped",)


def test_a_pair_without_one_side_is_refused_by_its_name():
    with pytest.raises(DataError, match=r"no voxel of label 4 \(right kidney\); expected both kidneys"):
        map_labels(mask(left_at=slice(2, 5), right_at=slice(0)), rule=RULE, name="mask")


def test_structures_of_no_pair_need_no_sides():
    mapped = map_labels(np.array([[[0, 1]]], np.uint8), rule=LabelRule(values={1: 2}), name="mask")
    assert (mapped.labels.tolist(), mapped.notes) == ([[[0, 2]]], ())
