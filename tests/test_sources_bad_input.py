"""Whatever is wrong with a download gives one line with the file, what was found and what was expected."""

import gzip
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
import SimpleITK as sitk

from orchestrator.benchmark.definition import Case
from orchestrator.errors import ConfigError, DataError
from orchestrator.sources.downloads import CaseRequest, convert_case, inspect_downloads

GTV = "structseg/Lung_GTV/7"
OAR = "structseg/Thoracic_OAR/7"
STUDY = "nsclc/NSCLC-Radiomics/LUNG1-001/09-18-2008-StudyID"
SLICES = f"{STUDY}/0.000000-82046"
MOSMED_MASK = "mosmed/COVID19_1110/masks/study_0255_mask.nii.gz"


def remove(path: str) -> Callable[[Path], None]:
    def spoil(data: Path) -> None:
        target = data / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return spoil


def cut(path: str, *, share: float) -> Callable[[Path], None]:
    def spoil(data: Path) -> None:
        content = (data / path).read_bytes()
        (data / path).write_bytes(content[: int(len(content) * share)])

    return spoil


def replace(path: str, content: bytes) -> Callable[[Path], None]:
    return lambda data: (data / path).write_bytes(content) and None


def nifti(path: str, voxels: np.ndarray, **header: tuple) -> Callable[[Path], None]:
    return lambda data: layouts.write_nifti(layouts.image_of(voxels, **header), data / path)


def flip_direction(data: Path) -> None:
    mask = layouts.image_of(layouts.mask_voxels("infection"))
    mask.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    layouts.write_nifti(mask, data / GTV / "label.nii.gz")


def tilt_direction(data: Path) -> None:
    mask = layouts.image_of(layouts.mask_voxels("infection"))
    mask.SetDirection((1, 0, 0, 0, 0.99995, -0.01, 0, 0.01, 0.99995))
    layouts.write_nifti(mask, data / GTV / "label.nii.gz")


def flat_image(data: Path) -> None:
    layouts.write_nifti(sitk.GetImageFromArray(np.ones((16, 20), np.int16)), data / GTV / "data.nii.gz")


def cut_before_compression(data: Path) -> None:
    path = data / GTV / "data.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:3852]))


def four_dimensional_image(data: Path) -> None:
    image = layouts.image_of(layouts.ct_voxels())
    layouts.write_nifti(sitk.JoinSeries([image, image]), data / GTV / "data.nii.gz")


def rezip(archive: str, members: dict[str, bytes]) -> Callable[[Path], None]:
    def spoil(data: Path) -> None:
        files = {}
        for name, content in members.items():
            path = data / Path(name).name
            path.write_bytes(content)
            files[name] = path
        layouts.zip_files(data / archive, files)

    return spoil


def retar(data: Path, *, keep: Callable[[str], bool]) -> None:
    source, target = data / "msd" / "Task06_Lung.tar", data / "new.tar"
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old.getmembers():
            if keep(member.name):
                new.addfile(member, old.extractfile(member))
    target.replace(source)


def without_description(data: Path) -> None:
    retar(data, keep=lambda name: not name.endswith("dataset.json"))


def only_macos_masks(data: Path) -> None:
    retar(data, keep=lambda name: "labelsTr/" not in name or "/._" in name)


def other_description(data: Path) -> None:
    with tarfile.open(data / "msd" / "Task06_Lung.tar") as tar:
        tar.extractall(data / "msd", filter="data")
    (data / "msd" / "Task06_Lung" / "dataset.json").write_text('{"labels": {"0": "background"}}')


def flip_a_byte_in_the_zip(data: Path) -> None:
    archive = data / "covid-19-ct-seg" / "Infection_Mask.zip"
    content = bytearray(archive.read_bytes())
    content[200] ^= 255
    archive.write_bytes(content)


def other_size_of_one_slice(data: Path) -> None:
    small = layouts.image_of(layouts.ct_voxels()[:2, :8])
    layouts.write_dicom(small, data / "small", modality="CT", series=1)
    shutil.copy(data / "small" / "1-01.dcm", data / SLICES / "1-11.dcm")


def other_slice_at_a_position(data: Path) -> None:
    other = layouts.image_of(layouts.ct_voxels() + 1)
    layouts.write_dicom(other, data / "other-ct", modality="CT", series=1)
    shutil.copy(data / "other-ct" / "1-05.dcm", data / SLICES / "1-05b.dcm")


def moved_slice(data: Path) -> None:
    change_slice(data, "0020|0032", lambda position: f"20\\{position.partition(chr(92))[2]}")


def turned_slice(data: Path) -> None:
    change_slice(data, "0020|0037", lambda _: "0\\1\\0\\-1\\0\\0")


def change_slice(data: Path, tag: str, change: Callable[[str], str]) -> None:
    path = data / SLICES / "1-05.dcm"
    image = sitk.ReadImage(str(path))
    image.SetMetaData(tag, change(image.GetMetaData(tag).strip()))
    if tag == "0020|0037":
        image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    else:
        image.SetOrigin((20.0, *image.GetOrigin()[1:]))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)


def copy_of_a_mask(data: Path) -> None:
    mask = data / MOSMED_MASK
    (mask.parent / "old").mkdir()
    shutil.copy(mask, mask.parent / "old")


LUNG = layouts.mask_voxels("lung")
INFECTION = layouts.mask_voxels("infection")
CT = layouts.ct_voxels()
OVERLAPPING = np.where(np.arange(16)[None, :, None] < 8, 1, 2) * (LUNG > 0)
NAN = CT.astype(np.float32)
NAN[3, 4, 5] = np.nan
HALF = INFECTION * np.float32(0.5)
ONES = np.full(layouts.SHAPE, 7, np.int16)
CORONA = ("covid-19-ct-seg", "coronacases_001")
NSCLC = ("nsclc-lung", "LUNG1-001", "lung")
TUMOUR = ("msd-lung-tumour", "lung_001", "infection")
GROSS = ("structseg-gtv", "train_7", "infection")
MOSMED = ("mosmed", "study_0255", "infection")

# id, how it is spoilt, request, whether headers alone show it, file in the line, found, expected
TABLE = [
    ("no download folder", remove("structseg"), GROSS, True, "structseg", "no such folder", "the download structseg"),
    ("no archive", remove("covid-19-ct-seg/Lung_Mask.zip"), (*CORONA, "lung"), True, "covid-19-ct-seg/Lung_Mask",
     "neither a folder nor an archive of that name among COVID-19-CT-Seg_20cases.zip", "Lung_Mask.zip"),
    ("truncated zip", cut("covid-19-ct-seg/Lung_Mask.zip", share=0.6), (*CORONA, "lung"), True, "Lung_Mask.zip",
     "a damaged archive of", "a whole zip archive"),
    ("corrupt zip", flip_a_byte_in_the_zip, (*CORONA, "infection"), True, "coronacases_001.nii.gz",
     "a truncated or damaged file", "a whole gzip stream"),
    ("zip that is a web page", replace("covid-19-ct-seg/Lung_Mask.zip", b"<html>login</html>"), (*CORONA, "lung"), True,
     "Lung_Mask.zip", "a damaged archive of 18 bytes", "a whole zip archive"),
    ("no member in the zip", rezip("covid-19-ct-seg/Lung_Mask.zip", {"coronacases_002.nii.gz": b"x"}),
     (*CORONA, "lung"), True, "Lung_Mask.zip", "no file for case coronacases_001 among coronacases_002",
     "coronacases_001.nii.gz"),
    ("no NIfTI in the zip", rezip("covid-19-ct-seg/Lung_Mask.zip", {"coronacases_001.nii.gz": b"text" * 99}),
     (*CORONA, "lung"), True, "Lung_Mask.zip/coronacases_001.nii.gz", "not a gzip file", "a NIfTI volume"),
    ("empty zip", rezip("covid-19-ct-seg/COVID-19-CT-Seg_20cases.zip", {}), (*CORONA, "lung"), True,
     "COVID-19-CT-Seg_20cases.zip", "no file for case coronacases_001 among nothing", "coronacases_001.nii.gz"),
    ("neither HU nor window", nifti("covid-19-ct-seg/COVID-19-CT-Seg_20cases/coronacases_001.nii.gz", CT + 1024),
     (*CORONA, "lung"), False, "COVID-19-CT-Seg_20cases/coronacases_001.nii.gz", "intensities from 24 to 40",
     "Hounsfield units (air below -200) or the window 0 to 255"),
    ("truncated tar", cut("msd/Task06_Lung.tar", share=0.1), TUMOUR, True, "Task06_Lung.tar", "a damaged archive",
     "a whole tar archive"),
    ("no dataset.json", without_description, TUMOUR, True, "Task06_Lung.tar", "no dataset.json",
     "dataset.json beside imagesTr"),
    ("dataset.json of another task", other_description, TUMOUR, True, "dataset.json",
     "labels {'0': 'background'}", '"1": "cancer"'),
    ("only files of macOS", only_macos_masks, TUMOUR, True, "Task06_Lung.tar/labelsTr",
     "no file for case lung_001 among nothing", "lung_001.nii.gz"),
    ("case not of the data set", remove("other"), ("msd-lung-tumour", "lung_999", "infection"), True,
     "Task06_Lung.tar/imagesTr", "no file for case lung_999 among lung_001.nii.gz", "lung_999.nii.gz"),
    ("case folder missing", remove(GTV), GROSS, True, "structseg/Lung_GTV", "no file for case train_7 among nothing",
     "Lung_GTV/7/data.nii.gz"),
    ("part of the challenge missing", remove("structseg/Lung_GTV"), GROSS, True, "structseg",
     "no file for case train_7 among Thoracic_OAR", "Lung_GTV/7/data.nii.gz"),
    ("mask missing", remove(f"{GTV}/label.nii.gz"), GROSS, True, GTV, "no file for case train_7 among data.nii.gz",
     "Lung_GTV/7/label.nii.gz"),
    ("truncated image", cut(f"{GTV}/data.nii.gz", share=0.7), GROSS, True, f"{GTV}/data.nii.gz",
     "a truncated or damaged file", "a whole gzip stream"),
    ("NIfTI cut before it was compressed", cut_before_compression, GROSS, True, f"{GTV}/data.nii.gz",
     "3852 bytes of NIfTI", "8032 bytes by its header"),
    ("empty file", replace(f"{GTV}/label.nii.gz", b""), GROSS, True, f"{GTV}/label.nii.gz", "an empty file",
     "a NIfTI volume"),
    ("not gzip", replace(f"{GTV}/label.nii.gz", b"<html>"), GROSS, True, f"{GTV}/label.nii.gz",
     "not a gzip file", "a NIfTI volume"),
    ("gzip of a text", replace(f"{GTV}/label.nii.gz", gzip.compress(b"hello" * 500)), GROSS, True,
     f"{GTV}/label.nii.gz", "cannot be read as NIfTI", "a NIfTI volume"),
    ("mask of another size", nifti(f"{GTV}/label.nii.gz", INFECTION[:, :, :-1]), GROSS, True, f"{GTV}/label.nii.gz",
     "a mask of size 19 x 16 x 12 voxels", "size 20 x 16 x 12 voxels as of its image"),
    ("mask of another spacing", nifti(f"{GTV}/label.nii.gz", INFECTION, spacing=(1.5, 2.0, 5.5)), GROSS, True,
     f"{GTV}/label.nii.gz", "a mask of spacing 1.5 x 2 x 5.5 mm", "spacing 1.5 x 2 x 5 mm"),
    ("mask of another origin", nifti(f"{GTV}/label.nii.gz", INFECTION, origin=(-10.0, -20.0, 35.0)), GROSS, True,
     f"{GTV}/label.nii.gz", "a mask of origin -10 x -20 x 35 mm", "origin -10 x -20 x 30 mm"),
    ("flipped mask", flip_direction, GROSS, True, f"{GTV}/label.nii.gz", "a mask of origin -38.5 x -50 x 30 mm",
     "origin -10 x -20 x 30 mm"),
    ("tilted mask", tilt_direction, GROSS, True, f"{GTV}/label.nii.gz", "a mask of direction 1, 0, 0, 0, 0.9999, -0.01",
     "direction 1, 0, 0, 0, 1, 0"),
    ("unknown label", nifti(f"{GTV}/label.nii.gz", INFECTION * 9), GROSS, False, f"{GTV}/label.nii.gz",
     "unknown label values 9", "only 0 and 1"),
    ("negative label", nifti(f"{GTV}/label.nii.gz", INFECTION.astype(np.int16) * -1), GROSS, False,
     f"{GTV}/label.nii.gz", "unknown label values -1", "only 0 and 1"),
    ("fractional mask", nifti(f"{GTV}/label.nii.gz", HALF), GROSS, False, f"{GTV}/label.nii.gz",
     "a mask with 18 fractional values such as 0.5", "whole numbers: 0 and 1"),
    ("lungs without sides", nifti(f"{OAR}/label.nii.gz", (LUNG > 0).astype(np.uint8)),
     ("structseg-lung", "train_7", "lung"), False, f"{OAR}/label.nii.gz", "no voxel of label 2 (right lung)",
     "both lungs"),
    ("lungs not separable", nifti(f"{OAR}/label.nii.gz", OVERLAPPING.astype(np.uint8)),
     ("structseg-lung", "train_7", "lung"), False, f"{OAR}/label.nii.gz", "lungs whose centroids lie 0.0 of 16 voxels",
     "at least 1.6 voxels apart"),
    ("empty image", nifti(f"{GTV}/data.nii.gz", ONES), GROSS, False, f"{GTV}/data.nii.gz",
     "an empty image: every voxel is 7", "a CT volume with different intensities"),
    ("NaN", nifti(f"{GTV}/data.nii.gz", NAN), GROSS, False, f"{GTV}/data.nii.gz", "1 voxels that are NaN",
     "finite values"),
    ("2D image", flat_image, GROSS, True, f"{GTV}/data.nii.gz", "a 2D image of size 20 x 16", "a 3D volume"),
    ("4D image", four_dimensional_image, GROSS, True, f"{GTV}/data.nii.gz", "a 4D image of size 20 x 16 x 12 x 2",
     "a 3D volume"),
    ("no patient folder", remove("nsclc/NSCLC-Radiomics/LUNG1-001"), NSCLC, True, "nsclc",
     "no file for case LUNG1-001 among NSCLC-Radiomics, Thoracic_Cavities", "a patient folder LUNG1-001 with a CT"),
    ("no CT series", remove(SLICES), NSCLC, True, "NSCLC-Radiomics/LUNG1-001", "no CT series among 2 folders",
     "one series of modality CT"),
    ("slice missing", remove(f"{SLICES}/1-05.dcm"), NSCLC, True, "NSCLC-Radiomics/LUNG1-001",
     "slices 60.00 mm and 70.00 mm, 10.00 mm apart, next to each other among 11 slices", "one slice every 5.00 mm"),
    ("last slice missing", remove(f"{SLICES}/1-01.dcm"), NSCLC, True, "LUNG1-001_thor_cav_primary_reviewer.nii.gz",
     "a mask of size 20 x 16 x 12 voxels", "size 20 x 16 x 11 voxels"),
    ("two slices at one position", other_slice_at_a_position, NSCLC, True, "NSCLC-Radiomics/LUNG1-001",
     "two slices at", "one slice a position"),
    ("slice cut short", cut(f"{SLICES}/1-05.dcm", share=0.8), NSCLC, True, f"{SLICES}/1-05.dcm",
     "a slice cut short", "640 bytes as its header says"),
    ("slice of another size", other_size_of_one_slice, NSCLC, True, "NSCLC-Radiomics/LUNG1-001",
     "slices of different sizes in one series", "slices of one size"),
    ("slice beside the others", moved_slice, NSCLC, True, "NSCLC-Radiomics/LUNG1-001",
     "a slice at", "slices on one line"),
    ("turned slice", turned_slice, NSCLC, True, "NSCLC-Radiomics/LUNG1-001",
     "slices that are turned to each other", "parallel slices"),
    ("two masks of a case", copy_of_a_mask, MOSMED, True, "masks/", "2 files for it", "one"),
    ("no mask of any reviewer", remove("nsclc/Thoracic_Cavities"), NSCLC, True, "nsclc",
     "no file for case LUNG1-001 among nothing", "a mask LUNG1-001_thor_cav_*_reviewer.nii.gz"),
    ("no masks folder", remove("mosmed/COVID19_1110/masks"), MOSMED, True, "mosmed/masks",
     "no file for case study_0255 among nothing", "study_0255_mask.nii.gz"),
    ("mosmed mask missing", remove(MOSMED_MASK), MOSMED, True, "COVID19_1110/masks",
     "no file for case study_0255 among nothing", "study_0255_mask.nii.gz"),
]  # fmt: skip


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("shipped")
    layouts.write_downloads(data)
    (data / "other").touch()
    return data


@pytest.fixture
def data(shipped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped, tmp_path / "data"))


def test_at_least_25_kinds_of_bad_input_are_tried():
    assert len({row[0] for row in TABLE}) == len(TABLE) >= 25


@pytest.mark.parametrize(
    ("spoil", "request_parts", "in_headers", "file", "found", "expected"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_bad_input_gives_one_line(data, spoil, request_parts, in_headers, file, found, expected):  # noqa: PLR0917
    spoil(data)
    dataset, case_name, label_set = request_parts
    request = CaseRequest(dataset=layouts.DATASETS[dataset], case_name=case_name, label_sets=(label_set,))
    problems = inspect_downloads([request], downloads=data, thorough=True).problems
    # A case that is not there at all lacks its image and its mask.
    whole_case = expected in {"Lung_GTV/7/data.nii.gz", "lung_999.nii.gz"}
    assert len(problems) == (2 if whole_case else 1), [problem.line for problem in problems]
    line = problems[0].line
    assert f"{file}" in problems[0].path
    assert f": found {found}" in line if found[:2] in {"a ", "no", "an"} else found in line
    assert expected in line.split("; expected ")[1]
    assert "\n" not in line
    quick = inspect_downloads([request], downloads=data, thorough=False).problems
    assert bool(quick) == in_headers
    if quick:
        assert quick[0].path == problems[0].path
    case = Case(dataset=dataset, name=case_name)
    with pytest.raises(DataError) as raised:
        convert_case(case, dataset=request.dataset, label_sets=(label_set,), downloads=data)
    assert str(raised.value) == line


def requests_of_everything() -> list[CaseRequest]:
    return [
        CaseRequest(dataset=dataset, case_name=name, label_sets=dataset.label_sets)
        for dataset in layouts.DATASETS.values()
        for name in dataset.case_names
    ]


@pytest.mark.parametrize("thorough", [False, True])
def test_whole_downloads_have_no_problem(data, thorough):
    seen = inspect_downloads(requests_of_everything(), downloads=data, thorough=thorough)
    assert (seen.problems, seen.warnings) == ((), ())


def test_all_problems_are_listed_at_once_and_each_once(data):
    remove("covid-19-ct-seg/Lung_Mask.zip")(data)
    remove("mosmed")(data)
    cut(f"{OAR}/data.nii.gz", share=0.5)(data)
    nifti(f"{OAR}/label.nii.gz", LUNG * 9)(data)
    problems = inspect_downloads(requests_of_everything(), downloads=data, thorough=True, num_threads=2).problems
    # Both cases of COVID-19-CT-Seg lack the one archive: one line.
    assert [Path(problem.path).relative_to(data).as_posix() for problem in problems] == [
        "covid-19-ct-seg/Lung_Mask",
        f"{OAR}/data.nii.gz",
        f"{OAR}/label.nii.gz",
        "mosmed",
    ]


def test_a_file_of_several_gzip_streams_is_whole(data):
    # bgzip and pigz write such files; their last stream states its own size only.
    path = data / GTV / "data.nii.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:4000]) + gzip.compress(content[4000:]))
    request = CaseRequest(dataset=layouts.DATASETS["structseg-gtv"], case_name="train_7", label_sets=("infection",))
    for thorough in (False, True):
        assert inspect_downloads([request], downloads=data, thorough=thorough).problems == ()


def test_a_label_set_that_a_download_does_not_have_is_a_mistake_of_the_caller(data):
    with pytest.raises(ConfigError, match="mosmed: no label set 'lung'; expected one of infection"):
        convert_case(
            Case(dataset="mosmed", name="study_0255"),
            dataset=layouts.DATASETS["mosmed"],
            label_sets=("lung",),
            downloads=data,
        )
