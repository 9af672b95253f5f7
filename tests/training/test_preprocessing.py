"""Claims about preprocessing, against nnU-Net's own preprocessor."""

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from scipy import ndimage

from bench.instruments.stock_models import small_plans, write_image
from kernels.resampling.zeros_around import zeros_around
from orchestrator.benchmark.definition import LabelSet, Structure
from orchestrator.benchmark.presets import PRESETS
from orchestrator.errors import DataError
from orchestrator.patches.reader import PatchFile
from orchestrator.patches.writer import write_patches
from orchestrator.training.nnunet.environment import read_with_nnunet
from orchestrator.training.nnunet.planning import Plan, fingerprint_case, make_plan
from orchestrator.training.nnunet.prepared_image import prepare_image, read_images
from orchestrator.training.nnunet.preprocessing import preprocess_case

INFECTION = LabelSet(name="infection", structures=(Structure(name="infection", label=1, tolerance_mm=3.0),))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    random = np.random.default_rng(0)
    image = random.integers(-1000, 400, (24, 40, 44)).astype(np.int16)
    image[:, :4] = 0
    labels = np.zeros(image.shape, np.uint8)
    labels[6:12, 10:20, 8:20] = 1
    for name, array in (("image", image), ("labels", labels)):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((5.0, 5.0, 6.0))
        volume.SetOrigin((-120.0, 30.0, 7.0))
        sitk.WriteImage(volume, str(folder / f"{name}.nii.gz"))
    return folder / "image.nii.gz", folder / "labels.nii.gz"


@pytest.fixture(scope="module", params=["3d_fullres", "2d"])
def plan(request, case):
    return make_plan(
        [fingerprint_case([case[0]], case[1])],
        label_set=INFECTION,
        configuration=request.param,
        preset=PRESETS["smoke"],
        donor=None,
        name="T1-infection-fold0",
    )


def test_a_case_is_preprocessed_as_nnunet_does(case, plan):
    image, labels = case
    expected, expected_seg, expected_properties = DefaultPreprocessor(verbose=False).run_case(
        [str(image)], str(labels), plan.plans_manager, plan.configuration_manager, plan.dataset_json
    )
    found = preprocess_case([image], labels, plan)
    assert found.data.dtype == np.float32
    assert found.seg.dtype == expected_seg.dtype == np.int8
    np.testing.assert_array_equal(found.data, expected)
    np.testing.assert_array_equal(found.seg, expected_seg)
    places, expected_places = (p.pop("class_locations") for p in (found.properties, expected_properties))
    assert list(places) == list(expected_places) == [1]
    np.testing.assert_array_equal(places[1], expected_places[1])
    assert found.properties == expected_properties


PLANS = {
    "finer": {"spacing": (1.3, 1.1, 0.9)},
    "the same grid": {"spacing": (2.5, 1.1, 1.0)},
    "slices kept apart": {"spacing": (6.0, 0.9, 1.2)},
    "2d": {"spacing": (0.9, 1.2), "patch": (16, 16), "configuration": "2d"},
    "other order of axes": {"spacing": (1.3, 1.1, 0.9), "transpose": (2, 0, 1)},
    "normalised within the body": {"spacing": (1.3, 1.1, 0.9), "channels": ("T1", "T2"), "masks": True},
    "two channels": {"spacing": (2.0, 2.0, 2.0), "channels": ("CT", "PET")},
    "another reader": {"spacing": (1.3, 1.1, 0.9), "reader": "NibabelIO"},
    "torch": {
        "spacing": (1.3, 1.1, 0.9),
        "resampling_fn_seg": "resample_torch_fornnunet",
        "resampling_fn_seg_kwargs": {"is_seg": True, "force_separate_z": False, "memefficient_seg_resampling": False},
    },
}
LABELS = {
    "whole": {"background": 0, "left": 1, "right": 2, "rare": 200},
    "regions": {"background": 0, "both": [1, 2], "right": [2], "rare": [200]},
    "ignored": {"background": 0, "left": 1, "right": 2, "ignore": 3},
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("plans", PLANS)
def test_cases_of_all_kinds_are_preprocessed_as_nnunet_does(plans, labels, tmp_path):
    made = small_plans(**PLANS[plans])
    channels = PLANS[plans].get("channels", ("CT",))
    images = write_image(tmp_path / "case", shape=(9, 24, 22), border=3, num_channels=len(channels))
    # Zeros with a way out, zeros without, and labels on both.
    random = np.random.default_rng(0)
    for path in images:
        image = sitk.ReadImage(str(path))
        voxels = sitk.GetArrayFromImage(image)
        voxels[3:6, 8:12, 8:12] = voxels[:, 20, 5] = 0
        changed = sitk.GetImageFromArray(voxels)
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(path))
    values = random.choice([0, 0, 1, 2, 200 if "rare" in LABELS[labels] else 3], (3, 8, 8)).astype(np.uint8)
    label_map = sitk.GetImageFromArray(values.repeat(3, 0).repeat(3, 1).repeat(3, 2)[:, :, :22])
    label_map.CopyInformation(image)
    sitk.WriteImage(label_map, str(tmp_path / "labels.nii.gz"))
    described = {"channel_names": dict(enumerate(channels)), "labels": LABELS[labels], "file_ending": ".nii.gz"}
    if labels == "regions":
        described["regions_class_order"] = [1, 2, 3]
    plan = Plan(plans=made, dataset_json=described, configuration=PLANS[plans].get("configuration", "3d_fullres"))
    stock, managers = DefaultPreprocessor(verbose=False), (plan.plans_manager, plan.configuration_manager)
    files, label_file = list(map(str, images)), tmp_path / "labels.nii.gz"
    expected, expected_seg, expected_properties = stock.run_case(files, str(label_file), *managers, described)
    found = preprocess_case(images, label_file, plan)
    np.testing.assert_array_equal(found.data, expected)
    np.testing.assert_array_equal(found.seg, expected_seg)
    assert (found.data.dtype, found.seg.dtype) == (expected.dtype, expected_seg.dtype)
    places, expected_places = (p.pop("class_locations") for p in (found.properties, expected_properties))
    assert list(places) == list(expected_places)
    for label, expected_place in expected_places.items():
        np.testing.assert_array_equal(places[label], np.reshape(expected_place, (-1, 4)))
    is_alike = plans == "another reader"  # whose properties hold arrays
    assert repr(found.properties) == repr(expected_properties) or is_alike
    expected, _, expected_properties = stock.run_case(files, None, *managers, described)
    prepared = prepare_image(*read_images(images, plan), plan)
    np.testing.assert_array_equal(prepared.data, expected)
    assert repr(prepared.properties) == repr(expected_properties) or is_alike


@pytest.mark.parametrize("share", [0.0, 0.05, 0.35, 0.7, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 9), (5, 4, 1), (9, 20, 21)])
def test_zeros_around_a_body_are_those_that_filling_holes_leaves(shape, share):
    image = (np.random.default_rng(0).random((2, *shape)) >= share).astype(np.float32)
    expected = ~ndimage.binary_fill_holes((image != 0).any(axis=0))
    np.testing.assert_array_equal(zeros_around(image), expected)


def test_a_winding_way_out_is_found():
    wall = np.ones((1, 3, 31, 31), np.float32)
    wall[0, 1, 1::2, 1:-1] = 0
    for row in range(2, 29, 2):
        wall[0, 1, row, 1 if row % 4 else -2] = 0
    enclosed = zeros_around(wall)
    wall[0, 0, 29, 15] = 0
    np.testing.assert_array_equal(enclosed, np.zeros_like(enclosed))
    np.testing.assert_array_equal(zeros_around(wall), wall[0] == 0)


def test_zeros_around_the_body_are_cut_off(case, plan):
    found = preprocess_case([case[0]], case[1], plan)
    # Four of the 40 rows are zero; the plan's spacing is that of the only case.
    assert found.data.shape == found.seg.shape == (1, 24, 36, 44)
    assert found.properties["bbox_used_for_cropping"] == [[0, 24], [4, 40], [0, 44]]
    assert found.properties["class_locations"][1].shape == (6 * 10 * 12, 4)


def test_a_label_without_voxels_has_an_empty_list_of_places(case, plan, tmp_path):
    empty = sitk.ReadImage(str(case[1])) * 0
    sitk.WriteImage(empty, str(tmp_path / "empty.nii.gz"))
    found = preprocess_case([case[0]], tmp_path / "empty.nii.gz", plan)
    assert found.properties["class_locations"][1].shape == (0, 4)


def test_a_preprocessed_case_survives_the_patch_store(case, plan, tmp_path):
    made = preprocess_case([case[0]], case[1], plan)
    write_patches(tmp_path / "case.arrow", data=made.data, seg=made.seg, properties=made.properties)
    read = PatchFile.open(tmp_path / "case.arrow")
    read.verify()
    assert np.abs(read.image[...].astype(float) - made.data).max() <= read.image.max_error == 2**-10
    np.testing.assert_array_equal(read.segmentation[...], made.seg)
    assert list(read.properties) == list(made.properties)
    for key in made.properties.keys() - {"class_locations"}:
        assert read.properties[key] == made.properties[key]
    np.testing.assert_array_equal(read.properties["class_locations"][1], made.properties["class_locations"][1])


def test_bad_files_are_named(case, plan, tmp_path):
    small = sitk.ReadImage(str(case[1]))[:, :, :5]
    sitk.WriteImage(small, str(tmp_path / "small.nii.gz"))
    with pytest.raises(DataError, match=r"small\.nii\.gz: shape \(5, 40, 44\); expected \(24, 40, 44\)"):
        preprocess_case([case[0]], tmp_path / "small.nii.gz", plan)
    (tmp_path / "torn.nii.gz").write_bytes(case[0].read_bytes()[:300])
    with pytest.raises(DataError, match=r"torn\.nii\.gz: cannot be read"):
        preprocess_case([tmp_path / "torn.nii.gz"], case[1], plan)


def test_preprocessing_prints_nothing(case, plan, capsys):
    preprocess_case([case[0]], case[1], plan)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to allocate memory for image."), OSError(12, "Cannot allocate memory")]
)
def test_memory_that_is_short_says_nothing_about_a_file(case, error):
    def fail():
        raise error

    with pytest.raises(type(error), match="allocate memory"):
        read_with_nnunet(fail, paths=[case[0]])
