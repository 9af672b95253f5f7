"""A mask that cannot be where it is gives a warning with numbers; ill lungs do not."""

import itertools

import chest
import layouts
import numpy as np
import pytest

from orchestrator.sources.case import CaseRequest
from orchestrator.sources.inspect import inspect_downloads
from orchestrator.sources.labels import LabelRule, PairedStructure
from orchestrator.sources.plausibility import far_from, implausible

IMAGE = chest.volume(chest.ct())
LUNGS = chest.lungs()
PAIR = PairedStructure(name="lung", plural="lungs", left=1, right=2, is_air=True)
LUNG = LabelRule(values={1: 1, 2: 2}, pair=PAIR)
LESION = LabelRule(values={1: 1}, near="lung")
NAMES = ("head and feet", "front and back", "left and right")
FLIPS = [axes for number in (1, 2, 3) for axes in itertools.combinations(range(3), number)]


def of_lungs(values, image=IMAGE):
    return implausible(
        image,
        chest.volume(np.ascontiguousarray(values)),
        rule=LabelRule(values={1: 1, 2: 2}, pair=PAIR),
        name="mask.nii.gz",
    )


def of_lesions(values, image=IMAGE):
    return implausible(image, chest.volume(values.astype(np.uint8)), rule=LESION, name="mask.nii.gz")


def far_from_lungs(lesions, lungs):
    return far_from(chest.volume(lesions), lungs, rule=LESION, pair=PAIR, name="case")


def test_lungs_where_they_belong_are_no_news():
    assert of_lungs(LUNGS) == ()


@pytest.mark.parametrize("axes", FLIPS, ids=str)
def test_lungs_that_were_turned_are_told_with_both_shares_and_how(axes):
    turned = np.flip(LUNGS, axes)
    (warning,) = of_lungs(turned)
    share = np.mean(chest.ct()[turned > 0] < -200)
    names = ", ".join(NAMES[axis] for axis in axes)
    assert warning == (
        f"mask.nii.gz: {share:.0%} of the lungs are air (below -200 HU), and 100% would be with {names} of the mask"
        " exchanged: its voxels were probably turned"
    )


def test_rows_that_were_taken_for_columns_are_told():
    (warning,) = of_lungs(LUNGS.swapaxes(1, 2))
    assert "and 100% would be with rows and columns of the mask exchanged" in warning


@pytest.mark.parametrize("axes", FLIPS, ids=str)
def test_lungs_half_full_of_fluid_are_still_told_which_way_they_lie(axes):
    voxels = np.where(chest.effusion(), 10, chest.ct()).astype(np.int16)
    assert of_lungs(LUNGS, chest.volume(voxels)) == ()
    (warning,) = of_lungs(np.flip(LUNGS, axes), chest.volume(voxels))
    assert "were probably turned" in warning


def test_lungs_of_another_scan_are_told_by_what_is_not_air():
    elsewhere = np.zeros_like(LUNGS)
    elsewhere[10:30, 44:54, 16:30], elsewhere[10:30, 44:54, 34:48] = 2, 1
    (warning,) = of_lungs(elsewhere)
    share = np.mean(chest.ct()[elsewhere > 0] >= -200)
    assert share > 0.9
    assert warning == f"mask.nii.gz: {share:.0%} of the lungs are not air (not below -200 HU)"


def test_lesions_within_lungs_of_one_map_are_part_of_them():
    both = LUNGS.copy()
    both[chest.ellipsoid((22, 35, 20), (4, 4, 4)) & (LUNGS == 2)] = 3
    assert of_lungs(both) == ()
    assert len(of_lungs(np.flip(both, 0))) == 1


def test_lesions_outside_of_the_body_are_told_with_their_share():
    inside = chest.ellipsoid((22, 30, 20), (4, 4, 4))
    assert of_lesions(inside) == ()
    # Air within the body is not outside, and the wall of the chest is not either.
    assert of_lesions(LUNGS == 1) == ()
    assert of_lesions(chest.ellipsoid((22, 54, 32), (4, 2, 4))) == ()
    mixed = inside.copy()
    mixed[10:13, 1:4, 1:4] = True
    (warning,) = of_lesions(mixed)
    assert warning == f"mask.nii.gz: {27 / mixed.sum():.0%} of the lesions lie outside of the body"


def test_a_body_that_fills_the_slices_has_nothing_outside():
    cropped = (slice(None), slice(10, 54), slice(8, 56))
    lesion = chest.ellipsoid((22, 30, 14), (4, 4, 4))[cropped].copy()
    assert of_lesions(lesion, chest.volume(np.ascontiguousarray(chest.ct()[cropped]))) == ()


def test_no_lesion_is_no_news():
    assert of_lesions(np.zeros(chest.SHAPE)) == ()
    assert far_from_lungs(np.zeros(chest.SHAPE, np.uint8), chest.volume(LUNGS)) == ()


def test_lesions_far_from_the_lungs_of_another_label_set_are_told():
    lungs = chest.volume(LUNGS)
    # Lungs that leave out the lesion: it begins beside them.
    left_out = chest.volume((LUNGS * ~chest.ellipsoid((22, 35, 20), (4, 4, 4))).astype(np.uint8))
    near = chest.ellipsoid((22, 35, 20), (4, 4, 4)).astype(np.uint8)
    assert far_from_lungs(near, lungs) == far_from_lungs(near, left_out) == ()
    far = np.zeros(chest.SHAPE, np.uint8)
    far[20:24, 53:56, 30:34] = 1
    assert far_from_lungs(far, lungs) == ("case: 100% of the lesions lie more than 20 mm from the lungs",)


def test_label_sets_of_a_case_are_laid_beside_each_other_where_both_are_read(tmp_path):
    far = np.zeros(chest.SHAPE, np.uint8)
    far[20:24, 53:56, 30:34] = 1
    root = tmp_path / "msd" / "Task06_Lung"
    for folder, voxels in (("imagesTr", chest.ct()), ("labelsTr", far), ("labelsTr_lung", LUNGS)):
        layouts.write_nifti(chest.volume(voxels), root / folder / "lung_001.nii.gz")
    (root / "dataset.json").write_text('{"labels": {"0": "background", "1": "cancer"}}')
    dataset = layouts.DATASETS["msd-lung-tumour"]

    def warnings(*label_sets):
        request = CaseRequest(dataset=dataset, case_name="lung_001", label_sets=label_sets)
        return inspect_downloads([request], downloads=tmp_path, thorough=True).warnings

    line = "msd-lung-tumour/lung_001: 100% of the lesions lie more than 20 mm from the lungs"
    assert warnings("infection", "lung") == (line,)
    # A label set alone knows nothing of the other.
    assert warnings("infection") == ()
