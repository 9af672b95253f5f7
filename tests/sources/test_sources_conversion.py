"""Every download in the layout of its owner becomes cases in one form."""

import gzip
import tarfile
import zipfile

import layouts
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from layouts import convert

from orchestrator.sources.case_files import write_volume

CASES = [
    ("covid-19-ct-seg", "coronacases_001", "lung", "lung"),
    ("covid-19-ct-seg", "radiopaedia_10_85902_1", "lung-and-infection", "lung-and-infection"),
    ("structseg-lung", "train_7", "lung", "lung"),
    ("structseg-gtv", "train_7", "infection", "infection"),
    ("nsclc-lung", "LUNG1-001", "lung", "lung"),
    ("nsclc-pe", "LUNG1-001", "infection", "infection"),
    ("msd-lung-tumour", "lung_001", "infection", "infection"),
    ("msd-lung-tumour", "lung_001", "lung", "lung"),
    ("mosmed", "study_0255", "infection", "infection"),
]


@pytest.mark.parametrize(("dataset", "case_name", "label_set", "kind"), CASES)
def test_labels_arrive_in_lps_with_the_left_lung_at_larger_x(data, dataset, case_name, label_set, kind):
    converted = convert(data, dataset, case_name, label_set)
    labels = converted.labels[label_set]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), layouts.mask_voxels(kind))
    assert labels.GetPixelID() == sitk.sitkUInt8
    for image in (converted.image, labels):
        assert image.GetSize() == (20, 16, 12)
        np.testing.assert_allclose(image.GetSpacing(), (1.5, 2.0, 5.0), atol=1e-6)
        np.testing.assert_allclose(image.GetOrigin(), (-10, -20, 30), atol=1e-4)
        np.testing.assert_allclose(image.GetDirection(), (1, 0, 0, 0, 1, 0, 0, 0, 1), atol=1e-9)


@pytest.mark.parametrize(("dataset", "case_name", "label_set"), [case[:3] for case in CASES[2:]])
def test_hounsfield_units_are_kept_as_int16(data, dataset, case_name, label_set):
    converted = convert(data, dataset, case_name, label_set)
    assert converted.image.GetPixelID() == sitk.sitkInt16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(converted.image), layouts.ct_voxels())
    assert converted.notes == ()


def test_both_sources_of_covid_ct_seg_come_to_one_window_in_hu(data):
    corona = convert(data, "covid-19-ct-seg", "coronacases_001", "lung", "infection", "lung-and-infection")
    radiopaedia = convert(data, "covid-19-ct-seg", "radiopaedia_10_85902_1", "infection")
    voxels = sitk.GetArrayFromImage(corona.image)
    # Metal of 3000 HU is above the window.
    assert (voxels[0, 8, 10], voxels[0, 0, 0]) == (250, -1000)
    # One step of [0, 255] is 1500 / 255 = 5.9 HU: scaled back, a value is off by half of it at most.
    difference = np.abs(voxels.astype(int) - sitk.GetArrayFromImage(radiopaedia.image))
    assert difference.max() == 3
    assert len(corona.notes) == len(radiopaedia.notes) == 1
    assert "HU windowed to [-1250, 250]" in corona.notes[0]
    assert "scaled back to the window of [-1250, 250] HU" in radiopaedia.notes[0]
    assert len(set(corona.source_sha256)) == 4


def test_unpacked_folders_give_the_same_case_as_archives(data):
    packed = convert(data, "covid-19-ct-seg", "coronacases_001", "lung")
    folder = data / "covid-19-ct-seg"
    for archive in list(folder.glob("*.zip")):
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder / archive.stem)
        archive.unlink()
    unpacked = convert(data, "covid-19-ct-seg", "coronacases_001", "lung")
    assert unpacked.source_sha256 == packed.source_sha256
    np.testing.assert_array_equal(sitk.GetArrayFromImage(unpacked.image), sitk.GetArrayFromImage(packed.image))

    with tarfile.open(data / "msd" / "Task06_Lung.tar") as tar:
        tar.extractall(data / "msd", filter="data")
    packed = convert(data, "msd-lung-tumour", "lung_001", "infection")
    (data / "msd" / "Task06_Lung.tar").unlink()
    assert convert(data, "msd-lung-tumour", "lung_001", "infection").source_sha256 == packed.source_sha256


def test_exchanged_lungs_are_swapped_with_a_note(data):
    path = data / "structseg" / "Thoracic_OAR" / "7" / "label.nii.gz"
    values = layouts.mask_voxels("lung")
    layouts.write_nifti(layouts.image_of(np.array([0, 2, 1], np.uint8)[values]), path)
    converted = convert(data, "structseg-lung", "train_7", "lung")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(converted.labels["lung"]), values)
    assert len(converted.notes) == 1
    assert str(path) in converted.notes[0]
    assert "swapped" in converted.notes[0]


def test_rounding_in_the_header_of_a_mask_is_tolerated_with_a_note(data):
    path = data / "mosmed" / "COVID19_1110" / "masks" / "study_0255_mask.nii.gz"
    layouts.write_nifti(layouts.image_of(layouts.mask_voxels("infection"), origin=(-10.04, -20.0, 30.0)), path)
    converted = convert(data, "mosmed", "study_0255", "infection")
    assert converted.labels["infection"].GetOrigin() == converted.image.GetOrigin()
    assert "header differs by 0.04" in converted.notes[0]


def test_whole_numbers_stored_as_floats_are_labels(data):
    path = data / "mosmed" / "COVID19_1110" / "masks" / "study_0255_mask.nii.gz"
    layouts.write_nifti(layouts.image_of(layouts.mask_voxels("infection").astype(np.float64)), path)
    converted = convert(data, "mosmed", "study_0255", "infection")
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(converted.labels["infection"]), layouts.mask_voxels("infection")
    )


def test_of_two_ct_series_the_one_of_the_masks_is_taken_with_a_note(data):
    study = data / "nsclc" / "NSCLC-Radiomics" / "LUNG1-001" / "09-18-2008-StudyID"
    layouts.write_dicom(layouts.image_of(layouts.ct_voxels()[:3] - 50), study / "0-scout", modality="CT", series=3)
    converted = convert(data, "nsclc-lung", "LUNG1-001", "lung")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(converted.image), layouts.ct_voxels())
    assert "2 CT series; took one without a name, 12 slices" in converted.notes[0]


def test_slices_without_a_suffix_are_found_and_links_in_a_circle_end(data):
    nsclc = data / "nsclc" / "NSCLC-Radiomics"
    slices = nsclc / "LUNG1-001" / "09-18-2008-StudyID" / "0.000000-82046"
    for path in slices.iterdir():
        path.rename(path.with_suffix(""))
    (nsclc / "LUNG1-001" / "again").symlink_to(nsclc)
    (nsclc / "up").symlink_to(data / "nsclc")
    (nsclc / "nowhere").symlink_to(data / "nowhere")
    converted = convert(data, "nsclc-lung", "LUNG1-001", "lung")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(converted.image), layouts.ct_voxels())


def test_written_volumes_are_read_back_unchanged_and_equal_volumes_are_equal_files(data, tmp_path):
    converted = convert(data, "nsclc-lung", "LUNG1-001", "lung")
    for number in (1, 2):
        write_volume(converted.image, tmp_path / f"image{number}.nii.gz")
    write_volume(converted.labels["lung"], tmp_path / "lung.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "image1.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), layouts.ct_voxels())
    np.testing.assert_allclose(image.GetOrigin(), (-10, -20, 30), atol=1e-4)
    assert sitk.ReadImage(str(tmp_path / "lung.nii.gz")).GetPixelID() == sitk.sitkUInt8
    assert (tmp_path / "image1.nii.gz").read_bytes() == (tmp_path / "image2.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "lung.nii.gz").read_bytes())[:4] == (348).to_bytes(4, "little")


def test_a_mask_that_a_tool_scaled_keeps_its_labels(data):
    """As nibabel stores real numbers in a header of integers: 1 comes back as 1.0000153."""
    path = data / "structseg" / "Thoracic_OAR" / "7" / "label.nii.gz"
    original = nibabel.load(path)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint16)
    voxels = np.where(np.asarray(original.dataobj) < 3, original.dataobj, 0).astype(np.float64)
    nibabel.save(nibabel.Nifti1Image(voxels, original.affine, header), path)
    assert nibabel.load(path).dataobj.slope < 1e-4
    converted = convert(data, "structseg-lung", "train_7", "lung")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(converted.labels["lung"]), layouts.mask_voxels("lung"))
