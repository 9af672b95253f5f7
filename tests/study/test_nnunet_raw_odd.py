"""Odd files in nnU-Net's raw layout: sizes and numbers that no patient has, and cases that are left out."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from raw_datasets import dataset_of, write, write_dataset

from orchestrator.benchmark.definition import Case
from orchestrator.cli import doctor
from orchestrator.errors import DataError
from orchestrator.sources.case import ConvertedImage
from orchestrator.sources.downloads import convert_image


def converted(data: Path) -> ConvertedImage:
    case = Case(dataset="things", name="case_001")
    return convert_image(case, dataset=dataset_of(), label_sets=("things",), downloads=data)


def test_voxels_that_no_ct_of_a_patient_has_are_a_warning(tmp_path):
    write_dataset(tmp_path, shape=(4, 24, 20), spacing_xyz=(0.00075, 0.000875, 0.005))
    (warning,) = converted(tmp_path).warnings
    assert "case_001_0000.nii.gz: a CT with voxels of 0.00075 x 0.000875 x 0.005 mm" in warning


@pytest.mark.parametrize("value", [1e13, -1e30])
def test_numbers_beyond_intensities_are_refused_with_the_largest(tmp_path, value):
    path = write_dataset(tmp_path, shape=(4, 24, 20)) / "imagesTr" / "case_001_0001.nii.gz"
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float64)
    voxels[0, 0, 0] = value
    write(path, voxels, spacing_xyz=(0.75, 0.875, 5.0))
    with pytest.raises(DataError, match=r"case_001_0001\.nii\.gz: found values up to 1e\+(13|30); expected numbers of"):
        converted(tmp_path)


def test_the_doctor_names_the_file_for_which_a_case_lacks_rather_than_the_folds(tmp_path, capsys):
    root = write_dataset(tmp_path, shape=(4, 24, 20), names=tuple("abcde"), channels=("CT",))
    (root / "imagesTr" / "c_0000.nii.gz").rename(root / "imagesTr" / "c_0000.NII.GZ")
    study = tmp_path / "study.yaml"
    study.write_text(
        "title: T\ndatasets: {things: {nnunet: Dataset137_Things, folds: nnunet}}\nmodels: {3d: {}}\n"
        "trainings: {things: {train: [things/other-folds], val: [things/fold]}}\n"
    )
    assert doctor.main(["--study", str(study), "--data", str(tmp_path), "--quick"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "labelsTr/c.nii.gz: found a label map without an image; expected imagesTr/c_0000.nii.gz" in line
