"""The phantom command writes what the benchmark needs and answers bad input with one line."""

from pathlib import Path

import pytest

from orchestrator.benchmark.definition import Dataset
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.study import Study
from orchestrator.cli import phantoms as phantom

MOSMED = Dataset(
    name="mosmed",
    title="MosMed",
    num_slices=41,
    source="mosmed",
    folder="mosmed",
    channels=("CT",),
    label_sets=("infection",),
    case_names=("study_0255", "study_0256"),
)


def only_mosmed(study: Study, *, matrix: str | None, preset_name: str) -> list[tuple[Dataset, str]]:
    assert (matrix, preset_name) == (None, "paper")
    return [(MOSMED, name) for name in MOSMED.case_names]


def test_the_core_needs_585_volumes() -> None:
    requests = phantom.requested_cases(load_study(), matrix="core", preset_name="paper")
    scans = {(dataset.source, name) for dataset, name in requests}
    assert len(scans) == 20 + 50 + 402 + 63 + 50
    assert len(requests) == 585 + 50 + 78  # StructSeg and NSCLC patients that are labelled twice


def test_it_writes_the_volumes_with_two_processes_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(phantom, "requested_cases", only_mosmed)
    arguments = ["--output", str(tmp_path / "new"), "--spacing", "12", "--workers", "2"]
    assert phantom.main(arguments) == 0
    assert f"2 volumes in {tmp_path / 'new'}" in capsys.readouterr().out
    files = sorted((tmp_path / "new" / "mosmed" / "studies" / "CT-1").iterdir())
    assert [file.name for file in files] == ["study_0255.nii.gz", "study_0256.nii.gz"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--spacing", "0.01"], "phantom spacing 0.01 mm: expected 0.3 to 20"),
        (["--preset", "smok"], "--preset smok: unknown"),
        (["--workers", "0"], "--workers 0: expected at least 1"),
        (["--output", "s3://bucket/phantoms"], "expected a folder of this machine"),
        (["--output", __file__], "expected a folder of this machine"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(phantom, "requested_cases", only_mosmed)
    assert phantom.main(["--output", str(tmp_path), *arguments]) == 2
    assert line in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(phantom, "requested_cases", only_mosmed)
    (tmp_path / "file").write_text("in the way")
    assert phantom.main(["--output", str(tmp_path / "file" / "folder"), "--spacing", "12", "--workers", "1"]) == 1
    assert "file" in capsys.readouterr().err
