"""A CT that is not in Hounsfield units is told from one that is, whatever surrounds the body."""

import chest
import numpy as np
import pytest

from orchestrator.errors import DataError
from orchestrator.sources.intensity import check_hounsfield, taken_as_hounsfield
from orchestrator.sources.layouts.covid_ct_seg import brought_to_window

CT = chest.ct()
BODY = chest.ellipsoid((20, 32, 32), (1e6, 26, 31))


def padded(value: int) -> np.ndarray:
    """Give a round field of view that is narrower than the slice."""
    return np.where(chest.ellipsoid((20, 32, 32), (1e6, 31, 31)), CT, value).astype(np.int16)


def with_metal() -> np.ndarray:
    voxels = CT.copy()
    voxels[10:14, 40:44, 10:14] = 3071
    return voxels


def white_lungs() -> np.ndarray:
    """Both consolidated: what air there is lies outside of the body."""
    return np.where(chest.lungs() > 0, 20, CT).astype(np.int16)


def small_child() -> np.ndarray:
    """A body in a field of view four times as wide and high."""
    voxels = np.full((40, 256, 256), -1000, np.int16)
    voxels[:, 96:160, 96:160] = CT
    return voxels + np.arange(256, dtype=np.int16) % 5


HOUNSFIELD = {
    "as it is": CT,
    "padding -2000": padded(-2000),
    "padding -3024": padded(-3024),
    "padding -1024 beside noise": padded(-1024),
    "no air around the body": CT[:, 10:54, 6:58],
    "one lung": CT[:, 14:46, 8:32],
    "metal": with_metal(),
    "white lungs": white_lungs(),
    "a child": small_child(),
    "fractions": CT.astype(np.float32) + 0.25,
}

OTHER = {
    "+1024": (CT + 1024, "The rescale intercept"),
    "+1000": (CT + 1000, "The rescale intercept"),
    "+1024 with padding": (padded(-2000) + 1024, "rescale slope and intercept"),
    "0 to 255": (np.clip((CT + 1250) * (255 / 1500), 0, 255).astype(np.uint8), "a windowed copy of 8 bits"),
    "-128 to 127": (np.clip((CT + 1250) * (255 / 1500) - 128, -128, 127).astype(np.int8), "a windowed copy of 8 bits"),
    "0 to 1": (((CT + 1024) / 2000).astype(np.float32), "It was normalised"),
    "z-scores": (((CT + 400) / 450).astype(np.float32), "It was normalised"),
    "negative values as unsigned": (CT.astype(np.uint16), "Values below 0 have become large ones"),
    "intercept twice": (CT - 1024, "each applied once"),
    "negated": (-CT, "rescale slope and intercept"),
    "abdominal window": (np.clip(CT, -160, 240), "rescale slope and intercept"),
    "attenuation": (((CT + 1000) * 0.2).astype(np.float32), "rescale slope and intercept"),
}


@pytest.mark.parametrize("voxels", HOUNSFIELD.values(), ids=HOUNSFIELD)
def test_a_chest_in_hu_is_taken_without_a_word(voxels):
    taken = taken_as_hounsfield(voxels, name="ct.nii.gz")
    assert taken.array is voxels
    assert (taken.notes, taken.warnings) == ((), ())


@pytest.mark.parametrize(("voxels", "advice"), OTHER.values(), ids=OTHER)
def test_another_unit_is_refused_with_its_shares_and_likely_cause(voxels, advice):
    with pytest.raises(DataError) as raised:
        check_hounsfield(voxels, name="ct.nii.gz", shows="a chest")
    line = str(raised.value)
    assert line.startswith(f"ct.nii.gz: found intensities from {voxels.min():g} to {voxels.max():g} with ")
    assert "expected Hounsfield units of a chest" in line
    assert advice in line.rpartition("; expected ")[2]


def test_a_window_that_cuts_bone_off_is_a_warning_with_its_share():
    # The spine is 4 x 6 of 64 x 64 pixels: 0.6 %. Cut off at 40 HU, about half of the body is at the end as well.
    assert taken_as_hounsfield(np.clip(CT, -1000, 400), name="ct").warnings == ()
    (warning,) = taken_as_hounsfield(np.clip(CT, -1000, 40), name="ct").warnings
    share = np.mean(CT >= 40)
    assert warning == f"ct: {share:.1%} of its voxels are 40 HU, the largest value: a window has cut them off"


def test_the_two_scales_of_covid_ct_seg_are_its_own_and_no_others():
    windowed = np.clip((CT.astype(float) + 1250) * (255 / 1500), 0, 255).astype(np.uint8)
    assert np.abs(brought_to_window(windowed, name="r").array - np.clip(CT, -1250, 250)).max() <= 6
    assert brought_to_window(CT, name="c").array.max() == 250
    with pytest.raises(DataError, match="expected Hounsfield units"):
        brought_to_window(CT - 1024, name="c")
    # Another window of 255 steps: soft tissue is where bone should be.
    with pytest.raises(DataError, match="expected Hounsfield units"):
        brought_to_window(np.clip((CT.astype(float) + 160) * (255 / 400), 0, 255).astype(np.uint8), name="r")
