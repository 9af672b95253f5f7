"""Whatever a reader throws at a file becomes a line with the file, and what says nothing about the file stays apart."""

import errno
import io
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import layouts
import pytest

from orchestrator.errors import ConfigError, DataError, StorageError
from orchestrator.sources import archives, layout
from orchestrator.sources.archives import files_below
from orchestrator.sources.case import CaseRequest
from orchestrator.sources.inspect import inspect_downloads

MASK = "structseg/Lung_GTV/7/label.nii.gz"
OF_THE_FILE = [
    NotImplementedError("That compression method is not supported"),
    struct.error("unpack requires a buffer of 4 bytes"),
    RecursionError("maximum recursion depth exceeded"),
    RuntimeError("several lines\nITK ERROR: the reason"),
    KeyError("pixdim"),
    OverflowError("int too big"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    AssertionError(),
]
OF_THE_MACHINE = [
    MemoryError(),
    RuntimeError("Failed to allocate memory for image."),
    OSError(errno.EIO, "Input/output error"),
    StorageError("/tmp: cannot be written (No space left on device); set TMPDIR"),
]


def throwing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let both readers throw this at one mask."""
    for name in ("read_nifti", "read_nifti_geometry"):
        read = getattr(layout, name)

        def at_the_mask(source, read=read, **options):
            if str(source).endswith(MASK):
                raise error
            return read(source, **options)

        monkeypatch.setattr(layout, name, at_the_mask)


def requests() -> list[CaseRequest]:
    return [
        CaseRequest(dataset=layouts.DATASETS[name], case_name=case_name, label_sets=("infection",))
        for name, case_name in (("structseg-gtv", "train_7"), ("mosmed", "study_0255"), ("mosmed", "study_9999"))
    ]


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize("error", [*OF_THE_FILE, *OF_THE_MACHINE], ids=repr)
def test_one_line_tells_of_the_file_and_all_other_findings_stay(shipped, monkeypatch, error, thorough):
    throwing(monkeypatch, error)
    seen = inspect_downloads(requests(), downloads=shipped, thorough=thorough, num_threads=2)
    paths = [Path(problem.path).relative_to(shipped).as_posix() for problem in seen.problems]
    assert paths == [MASK, "mosmed/COVID19_1110/studies", "mosmed/COVID19_1110/masks"]
    line = seen.problems[0].line
    assert "\n" not in line
    assert type(error).__name__ in line
    assert (str(error).splitlines() or [""])[-1] in line
    assert ("This says nothing about the file" in line) == (error in OF_THE_MACHINE)


@pytest.mark.parametrize("error", OF_THE_FILE, ids=repr)
def test_a_conversion_fails_for_good_with_the_same_line(shipped, monkeypatch, error):
    throwing(monkeypatch, error)
    (expected,) = inspect_downloads(requests()[:1], downloads=shipped, thorough=True).problems
    with pytest.raises(DataError) as raised:
        layouts.convert(shipped, "structseg-gtv", "train_7", "infection")
    assert str(raised.value) == expected.line


@pytest.mark.parametrize("error", OF_THE_MACHINE, ids=repr)
def test_what_may_be_tried_again_passes_a_conversion_as_it_is(shipped, monkeypatch, error):
    throwing(monkeypatch, error)
    with pytest.raises(type(error)) as raised:
        layouts.convert(shipped, "structseg-gtv", "train_7", "infection")
    assert raised.value is error


@pytest.mark.parametrize(
    ("name", "case_name", "file"),
    [
        ("structseg-gtv", "train_7", MASK),
        ("covid-19-ct-seg", "coronacases_001", "covid-19-ct-seg/Infection_Mask.zip"),
        ("msd-lung-tumour", "lung_001", "msd/Task06_Lung.tar"),
        ("nsclc-pe", "LUNG1-001", "nsclc/NSCLC-Radiomics/LUNG1-001/09-18-2008-StudyID/0.000000-82046/1-05.dcm"),
    ],
)
def test_a_disk_that_fails_is_no_fault_of_the_file(shipped, monkeypatch, name, case_name, file):
    error = OSError(errno.EIO, "Input/output error")
    really_open = io.open

    def failing(path, *arguments, **options):
        if str(path).endswith(file):
            raise error
        return really_open(path, *arguments, **options)

    for name_of_open in ("io.open", "builtins.open", "tarfile.bltn_open"):
        monkeypatch.setattr(name_of_open, failing)
    archives._member_names.cache_clear()
    with pytest.raises(OSError, match="Input/output error"):
        layouts.convert(shipped, name, case_name, "infection")
    request = CaseRequest(dataset=layouts.DATASETS[name], case_name=case_name, label_sets=("infection",))
    for thorough in (False, True):
        seen = inspect_downloads([request], downloads=shipped, thorough=thorough)
        assert seen.problems
        for problem in seen.problems:
            assert "Input/output error" in problem.found
            assert "This says nothing about the file" in problem.advice


def test_a_mistake_of_the_caller_is_no_problem_of_the_data(shipped):
    request = CaseRequest(dataset=layouts.DATASETS["mosmed"], case_name="study_0255", label_sets=("lung",))
    with pytest.raises(ConfigError, match="no label set 'lung'"):
        inspect_downloads([request], downloads=shipped, thorough=False)


def test_archives_of_every_way_that_python_expands_are_read(shipped, tmp_path):
    data = Path(shutil.copytree(shipped, tmp_path / "data"))
    archive = data / "covid-19-ct-seg" / "Infection_Mask.zip"
    request = CaseRequest(
        dataset=layouts.DATASETS["covid-19-ct-seg"], case_name="coronacases_001", label_sets=("infection",)
    )
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(archive) as old:
            members = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(archive, "w", compression=method) as new:
            for name, content in members.items():
                new.writestr(name, content)
        for thorough in (True, False):
            assert inspect_downloads([request], downloads=data, thorough=thorough).problems == ()


@pytest.mark.parametrize(
    ("kind", "to"), [(tarfile.SYMTYPE, "../stored_once.nii.gz"), (tarfile.LNKTYPE, "Task06_Lung/stored_once.nii.gz")]
)
def test_links_within_a_tar_archive_are_followed(shipped, tmp_path, kind, to):
    data = Path(shutil.copytree(shipped, tmp_path / "data"))
    request = CaseRequest(dataset=layouts.DATASETS["msd-lung-tumour"], case_name="lung_001", label_sets=("infection",))
    archive = data / "msd" / "Task06_Lung.tar"
    with tarfile.open(archive) as old:
        members = [(member, old.extractfile(member)) for member in old.getmembers() if member.isfile()]
        with tarfile.open(archive.with_suffix(".new"), "w") as new:
            for member, content in members:
                name = member.name
                if name.endswith("labelsTr/lung_001.nii.gz"):
                    member.name = "Task06_Lung/stored_once.nii.gz"
                    link = tarfile.TarInfo(name)
                    link.type, link.linkname = kind, to
                new.addfile(member, content)
                if member.name != name:
                    new.addfile(link)
    archive.with_suffix(".new").replace(archive)
    for thorough in (True, False):
        assert inspect_downloads([request], downloads=data, thorough=thorough).problems == ()


def test_links_that_lead_back_end_and_others_are_followed(tmp_path):
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("data/a", "data/sub/b", "elsewhere/c"):
        (tmp_path / name).touch()
    (tmp_path / "data" / "sub" / "back").symlink_to("..")
    (tmp_path / "data" / "sub" / "self").symlink_to(".")
    (tmp_path / "data" / "more").symlink_to("../elsewhere")
    found = [path.relative_to(tmp_path / "data").as_posix() for path in files_below(tmp_path / "data")]
    assert sorted(found) == ["a", "more/c", "sub/b"]
