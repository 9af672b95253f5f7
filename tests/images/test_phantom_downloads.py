"""Phantom downloads have the layouts, geometry and names of the public ones."""

import hashlib
import json
import locale
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from orchestrator.benchmark.definition import Dataset
from orchestrator.errors import ConfigError, DataError
from orchestrator.phantoms.downloads import DOWNLOADS, plan_phantom_download, write_phantom_download
from orchestrator.phantoms.layouts import keeping_locale

SPACING_MM = 9.0


def dataset(name: str, download: str, *case_names: str) -> Dataset:
    return Dataset(
        name=name,
        title=name,
        source=download,
        folder=download,
        channels=("CT",),
        label_sets=(),
        case_names=case_names,
        num_slices=9,
    )


DATASETS = (
    dataset("covid-19-ct-seg", "covid-19-ct-seg", "coronacases_001", "radiopaedia_4_85506_1"),
    dataset("structseg-lung", "structseg", "train_1", "train_2"),
    dataset("structseg-gtv", "structseg", "train_1"),
    dataset("nsclc-lung", "nsclc", "LUNG1-001", "LUNG1-002"),
    dataset("nsclc-pe", "nsclc", "LUNG1-001"),
    dataset("msd-lung-tumour", "msd", "lung_001"),
    dataset("mosmed", "mosmed", "study_0255"),
)
REQUESTS = [(source, name) for source in DATASETS for name in source.case_names]


def write(download: str, folder: Path, *, seed: int = 0) -> None:
    write_phantom_download(plan_phantom_download(download, REQUESTS, spacing_mm=SPACING_MM, seed=seed), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downloads")
    for download in DOWNLOADS:
        write(download, folder)
    return folder


def voxels(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_covid_archives_hold_one_member_a_case_with_their_labels(folder: Path, tmp_path: Path) -> None:
    labels = {
        "Lung_Mask.zip": [0, 1, 2],
        "Infection_Mask.zip": [0, 1],
        "Lung_and_Infection_Mask.zip": [0, 1, 2, 3],
    }
    for archive in ("COVID-19-CT-Seg_20cases.zip", *labels):
        with zipfile.ZipFile(folder / "covid-19-ct-seg" / archive) as zipped:
            assert zipped.namelist() == ["coronacases_001.nii.gz", "radiopaedia_4_85506_1.nii.gz"]
            zipped.extractall(tmp_path / archive)
        for member in (tmp_path / archive).iterdir():
            if archive in labels:
                assert np.unique(voxels(member)).tolist() == labels[archive]
    images = tmp_path / "COVID-19-CT-Seg_20cases.zip"
    assert voxels(images / "coronacases_001.nii.gz").min() < -900
    windowed = voxels(images / "radiopaedia_4_85506_1.nii.gz")
    assert (windowed.min(), windowed.max()) == (38, 255)


def test_joint_masks_are_the_lung_masks_with_infection_on_top(folder: Path, tmp_path: Path) -> None:
    arrays = []
    for archive in ("Lung_Mask", "Infection_Mask", "Lung_and_Infection_Mask"):
        with zipfile.ZipFile(folder / "covid-19-ct-seg" / f"{archive}.zip") as zipped:
            zipped.extract("coronacases_001.nii.gz", tmp_path / archive)
        arrays.append(voxels(tmp_path / archive / "coronacases_001.nii.gz"))
    lung, infection, joint = arrays
    assert np.array_equal(joint, np.where(infection == 1, 3, lung))


def test_structseg_lung_and_target_of_one_number_are_one_patient(folder: Path) -> None:
    home = folder / "structseg"
    assert sorted(path.name for path in (home / "Thoracic_OAR").iterdir()) == ["1", "2"]
    assert [path.name for path in (home / "Lung_GTV").iterdir()] == ["1"]
    organs, target = voxels(home / "Thoracic_OAR/1/label.nii.gz"), voxels(home / "Lung_GTV/1/label.nii.gz")
    assert set(np.unique(organs)) >= {0, 1, 2, 3, 5}
    assert organs.max() <= 6
    assert np.unique(target).tolist() == [0, 1]
    assert not np.any((target == 1) & (organs == 1))
    assert np.array_equal(voxels(home / "Thoracic_OAR/1/data.nii.gz"), voxels(home / "Lung_GTV/1/data.nii.gz"))


def read_series(patient: Path) -> SimpleITK.Image:
    (series,) = patient.glob("*/*")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    return reader.Execute()


def test_nsclc_masks_are_stored_in_another_orientation_of_the_same_space(folder: Path) -> None:
    image = read_series(folder / "nsclc" / "LUNG1-001")
    mask = SimpleITK.ReadImage(str(folder / "nsclc/thoracic_cavity/LUNG1-001_thor_cav_primary_reviewer.nii.gz"))
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert not np.allclose(mask.GetDirection(), image.GetDirection())
    turned = SimpleITK.DICOMOrient(mask, "LPS")
    assert turned.GetSize() == image.GetSize()
    assert np.allclose(turned.GetSpacing(), image.GetSpacing(), atol=1e-4)
    assert np.allclose(turned.GetOrigin(), image.GetOrigin(), atol=1e-3)
    assert np.allclose(turned.GetDirection(), image.GetDirection(), atol=1e-6)
    density = SimpleITK.GetArrayFromImage(image)[SimpleITK.GetArrayFromImage(turned) > 0]
    assert np.median(density) < -500


def test_nsclc_effusions_belong_to_the_cavity_and_only_to_cases_of_their_set(folder: Path) -> None:
    home = folder / "nsclc"
    assert [path.name for path in (home / "effusion").iterdir()] == ["LUNG1-001_effusion_first_reviewer.nii.gz"]
    effusion = voxels(home / "effusion/LUNG1-001_effusion_first_reviewer.nii.gz")
    cavity = voxels(home / "thoracic_cavity/LUNG1-001_thor_cav_primary_reviewer.nii.gz")
    assert np.unique(cavity).tolist() == [0, 1, 2]
    assert effusion.any()
    assert np.all(cavity[effusion == 1] > 0)


def test_dicom_slices_say_where_they_are(folder: Path) -> None:
    image = read_series(folder / "nsclc" / "LUNG1-002")
    slices = sorted((folder / "nsclc" / "LUNG1-002").rglob("*.dcm"))
    assert len(slices) == image.GetSize()[2]
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(slices[-1]))
    reader.ReadImageInformation()
    assert reader.GetMetaData("0008|0060") == "CT"
    assert reader.GetMetaData("0010|0020").strip() == "LUNG1-002"
    # The highest number is the lowest slice.
    position = [float(value) for value in reader.GetMetaData("0020|0032").split("\\")]
    assert position == pytest.approx(image.GetOrigin(), abs=1e-3)


def test_the_msd_archive_holds_images_labels_and_the_litter_of_macos(folder: Path) -> None:
    with tarfile.open(folder / "msd" / "Task06_Lung.tar") as packed:
        names = {member.name for member in packed if member.isfile()}
        description = json.load(packed.extractfile("Task06_Lung/dataset.json"))  # type: ignore[arg-type]
    parts = ("imagesTr", "labelsTr", "labelsTr_lung")
    expected = {f"Task06_Lung/{part}/{start}lung_001.nii.gz" for part in parts for start in ("", "._")}
    assert names == expected | {"Task06_Lung/dataset.json"}
    assert description["labels"] == {"0": "background", "1": "cancer"}
    assert description["training"] == [{"image": "./imagesTr/lung_001.nii.gz", "label": "./labelsTr/lung_001.nii.gz"}]


def test_mosmed_studies_have_8_mm_slices_and_masks_of_their_geometry(folder: Path) -> None:
    image = SimpleITK.ReadImage(str(folder / "mosmed/studies/CT-1/study_0255.nii.gz"))
    mask = SimpleITK.ReadImage(str(folder / "mosmed/masks/study_0255_mask.nii.gz"))
    assert image.GetSpacing()[2] == pytest.approx(SPACING_MM)  # 8 mm at least: coarse phantoms are coarser
    assert image.GetSpacing() == mask.GetSpacing()
    assert image.GetOrigin() == mask.GetOrigin()
    assert image.GetSize() == mask.GetSize()
    assert np.unique(SimpleITK.GetArrayFromImage(mask)).tolist() == [0, 1]


@pytest.mark.parametrize("download", ["covid-19-ct-seg", "nsclc", "msd"])
def test_the_same_request_gives_the_same_bytes_anywhere(download: str, folder: Path, tmp_path: Path) -> None:
    write(download, tmp_path)
    assert digests(tmp_path / download) == digests(folder / download)


def test_a_finished_download_is_left_as_it_is_and_another_seed_replaces_it(tmp_path: Path) -> None:
    write("mosmed", tmp_path)
    image = tmp_path / "mosmed/studies/CT-1/study_0255.nii.gz"
    before = image.stat().st_mtime_ns, image.read_bytes()
    write("mosmed", tmp_path)
    assert (image.stat().st_mtime_ns, image.read_bytes()) == before
    write("mosmed", tmp_path, seed=1)
    assert image.read_bytes() != before[1]
    assert json.loads((tmp_path / "mosmed/PHANTOM.json").read_text())["seed"] == 1


def test_an_interrupted_download_goes_on_with_the_scan_that_is_missing(tmp_path: Path) -> None:
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt(name)

    request = plan_phantom_download("structseg", REQUESTS, spacing_mm=SPACING_MM, seed=0)
    with pytest.raises(KeyboardInterrupt, match="train_1"):
        write_phantom_download(request, tmp_path, on_scan=interrupt)
    assert not (tmp_path / "structseg").exists()
    first = next(tmp_path.rglob("Thoracic_OAR/1/data.nii.gz")).stat().st_mtime_ns
    write("structseg", tmp_path)
    assert (tmp_path / "structseg/Thoracic_OAR/1/data.nii.gz").stat().st_mtime_ns == first
    assert [path.name for path in tmp_path.iterdir()] == ["structseg"]


def test_files_that_are_not_phantoms_are_never_touched(tmp_path: Path) -> None:
    real = tmp_path / "mosmed" / "studies.zip"
    real.parent.mkdir()
    real.write_bytes(b"real")
    with pytest.raises(DataError, match=r"mosmed: holds files but no readable PHANTOM\.json"):
        write("mosmed", tmp_path)
    assert real.read_bytes() == b"real"


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of covid-19-ct-seg, structseg, nsclc, msd, mosmed"):
        write("mosmd", tmp_path)
    with pytest.raises(ConfigError, match="the data set has no such case"):
        plan_phantom_download("mosmed", [(DATASETS[-1], "study_9999")], spacing_mm=6.0, seed=0)
    with pytest.raises(ConfigError, match=r"spacing 0\.01 mm"):
        plan_phantom_download("mosmed", REQUESTS, spacing_mm=0.01, seed=0)


def test_what_writes_dicom_leaves_the_locale_as_it_was():
    """GDCM sets that of C, in which Python reads files and answers of processes as ASCII."""
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    with keeping_locale():
        locale.setlocale(locale.LC_ALL, "C")
    assert locale.setlocale(locale.LC_CTYPE) == "C.UTF-8"
