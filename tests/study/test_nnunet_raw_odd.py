"""Odd files in nnU-Net's raw layout: sizes and numbers that no patient has, and cases that are left out."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from raw_datasets import dataset_of, write, write_dataset

from orchestrator.benchmark.definition import Case
from orchestrator.cli import doctor
from orchestrator.errors import DataError
from orchestrator.sources.case import CaseRequest, ConvertedImage
from orchestrator.sources.convert import convert_image
from orchestrator.sources.inspect import inspect_downloads
from orchestrator.sources.nnunet_raw.survey import Describer, survey


def converted(data: Path) -> ConvertedImage:
    case = Case(dataset="things", name="case_001")
    return convert_image(case, dataset=dataset_of(), label_sets=("things",), downloads=data)


@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize("names", [["labelsTr/b-2"], ["imagesTr/b-2_0001"], ["imagesTr/b-2_0000", "labelsTr/b-2"]])
def test_links_to_what_was_not_fetched_are_problems_of_their_case_alone(tmp_path, names, is_listed):
    files = {"images": ["imagesTr/b-2_0000.nii.gz", "imagesTr/b-2_0001.nii.gz"], "label": "labelsTr/b-2.nii.gz"}
    root = write_dataset(tmp_path, shape=(4, 24, 20), **({"dataset": {"b-2": files}} if is_listed else {}))
    links = [root / f"{name}.nii.gz" for name in names]
    for link in links:
        link.unlink()
        link.symlink_to("../.git/annex/x")
    (root / ".#dataset.json").symlink_to("me@host.1:2")
    seen = survey(str(tmp_path), root.name)
    assert seen.cases.training == (() if is_listed else ("case_0000", "case_001"))
    assert [problem.path for problem in seen.cases.problems] == list(map(str, links))
    assert {problem.found for problem in seen.cases.problems} == {"a link to ../.git/annex/x, which is not there"}
    with pytest.raises(DataError, match=r"found a link to .*, which is not there"):
        Describer(str(tmp_path))(root.name)


@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("name", ["imagesTr/b-2_0000", "labelsTr/b-2"])
def test_a_plain_file_that_is_cut_short_is_seen_by_its_size_in_the_quick_look(tmp_path, ending, name):
    root = write_dataset(tmp_path, shape=(4, 24, 20), ending=ending)
    request = CaseRequest(dataset=dataset_of(), case_name="b-2", label_sets=("things",))
    assert inspect_downloads([request], downloads=tmp_path, thorough=False).problems == ()
    path = root / f"{name}{ending}"
    path.write_bytes(path.read_bytes()[:-2000])
    for thorough in (False, True):
        (problem,) = inspect_downloads([request], downloads=tmp_path, thorough=thorough).problems
        assert problem.path == str(path)
        assert problem.found.endswith(("bytes of voxels", "bytes of the file"))


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


def test_the_spacing_beside_a_stack_is_not_said_to_be_left_unread(tmp_path):
    folder = write_dataset(tmp_path, ending=".tiff", spacing_xyz=(1.0, 1.0, 1.0)).name
    assert survey(str(tmp_path), folder).cases.notes == ()
    (tmp_path / folder / "imagesTr" / "other.json").touch()
    (note,) = survey(str(tmp_path), folder).cases.notes
    assert note.endswith("files of another ending than .tiff are not read: 1 .json")


@pytest.mark.parametrize("name", ["imagesTr/b-2_0000", "imagesTr/b-2_0001", "labelsTr/b-2"])
def test_the_doctor_tells_once_of_a_file_that_was_not_fetched_and_advises_to_fetch_it(tmp_path, name):
    root = write_dataset(tmp_path, shape=(4, 24, 20))
    link = root / f"{name}.nii.gz"
    link.unlink()
    link.symlink_to("../.git/annex/x")
    describer = Describer(str(tmp_path), is_strict=False)
    describer(root.name)
    request = CaseRequest(dataset=dataset_of(), case_name="b-2", label_sets=("things",))
    (seen,) = inspect_downloads([request], downloads=tmp_path, thorough=False).problems
    assert "git annex get" in seen.advice
    finding = doctor.Finding(dataset="things", download=str(root), num_cases=1, problems=(seen,), warnings=(), notes=())
    (told,) = doctor.with_survey(finding, describer=describer).problems
    assert told.path == str(link)
    assert "git annex get" in told.advice
