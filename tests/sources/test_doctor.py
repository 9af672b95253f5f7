"""The doctor reads a whole data folder and tells everything that is wrong with it."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import layouts
import numpy as np
import pytest
import SimpleITK as sitk

from orchestrator.api import make_request
from orchestrator.benchmark.definition import Case, Dataset, EvaluationSet, LabelSet, Model, Training
from orchestrator.benchmark.leaks import AlikeCases
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import Preset
from orchestrator.cli import doctor
from orchestrator.errors import ConfigError

MOSMED_MASK = Path("mosmed", "COVID19_1110", "masks", "study_0255_mask.nii.gz")


def training_on_everything() -> Training:
    cases = {name: Case(dataset=name, name=dataset.case_names[0]) for name, dataset in layouts.DATASETS.items()}
    return Training(
        group="T3-infection-msd",
        fold=0,
        num_folds=5,
        facets={"task": 3},
        label_set="infection",
        model=Model(name="3d"),
        plans_from=None,
        train=(cases["msd-lung-tumour"], cases["structseg-gtv"], cases["nsclc-pe"]),
        val=(),
        evaluation_sets=(
            EvaluationSet(
                name="test", label_set="infection", structures=("infection",), cases=(cases["covid-19-ct-seg"],)
            ),
            EvaluationSet(
                name="test-mosmed", label_set="infection", structures=("infection",), cases=(cases["mosmed"],)
            ),
        ),
        num_uncapped_cases=5,
    )


@dataclass(frozen=True)
class SmallStudy:
    datasets: tuple[Dataset, ...] = tuple(layouts.DATASETS.values())

    def patient_leaks(self, _: object) -> tuple[()]:
        return ()

    def preset(self, name: str) -> Preset:
        return load_study().preset(name)

    def label_set(self, name: str) -> LabelSet:
        return load_study().label_set(name)

    def trainings(self, *, matrix: str | None, preset: object, only: tuple[str, ...] = ()) -> tuple[Training, ...]:
        if matrix not in {None, "core", "all"}:
            raise ConfigError(f"--matrix {matrix}: unknown; expected one of core")
        return (training_on_everything(),)

    def donors(self, trainings: tuple[Training, ...], *, preset: object) -> dict[str, Training]:
        return {}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # All of these downloads hold one made-up patient.
    monkeypatch.setattr(doctor, "alike_cases", lambda _: ())
    layouts.write_downloads(tmp_path)
    monkeypatch.setattr(doctor, "load_study", lambda path, **_: SmallStudy())
    monkeypatch.setenv("COLUMNS", "400")
    return tmp_path


def test_a_whole_folder_is_clean(data, capsys):
    assert doctor.main(["--data", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "note:", "data", "covid-19-ct-seg", "mosmed", "msd-lung-tumour", "nsclc-pe", "structseg-gtv", "No",
    ]  # fmt: skip
    assert lines[1].split() == ["data", "set", "folder", "cases", "problems", "warnings", "notes"]
    assert lines[2].split()[2:] == ["1", "0", "0", "1"]
    assert lines[-1] == "No problems."


def test_of_many_images_that_show_the_same_the_first_are_told(data, capsys, monkeypatch):
    (training,) = SmallStudy().trainings(matrix=None, preset=None)
    leaking = AlikeCases(first=training.train[0], second=training.evaluation_sets[0].cases[0], likeness=1.0)
    copies = [
        AlikeCases(
            first=Case(dataset="mosmed", name=f"a{i}"), second=Case(dataset="mosmed", name=f"b{i}"), likeness=1.0
        )
        for i in range(13)
    ]
    monkeypatch.setattr(doctor, "alike_cases", lambda _: (*[leaking] * 12, *copies))
    assert doctor.main(["--data", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "warning: 2 further pairs of images on both sides show the same." in lines
    assert sum("shows the same as" in line for line in lines) == 10
    assert "note: mosmed: 3 further pairs of cases show the same (--json lists all)." in lines
    assert doctor.main(["--data", str(data), "--json"]) == 0
    found = {one["dataset"]: one for one in json.loads(capsys.readouterr().out)}
    assert sum("shows the same as" in note for note in found["mosmed"]["notes"]) == 13
    assert len(found[training.train[0].dataset]["warnings"]) == 12


def test_all_problems_come_at_once_and_the_table_counts_them(data, capsys):
    (data / MOSMED_MASK).unlink()
    layouts.write_nifti(
        layouts.image_of(layouts.mask_voxels("infection") * 9), data / "structseg" / "Lung_GTV" / "7" / "label.nii.gz"
    )
    assert doctor.main(["--data", str(data)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"{data / MOSMED_MASK.parent}: found no file for case study_0255 among nothing" in lines[0]
    assert "structseg/Lung_GTV/7/label.nii.gz: found unknown label values 9; expected only 0 and 1" in lines[1]
    counts = {line.split()[0]: line.split()[3] for line in lines[4:9]}
    assert counts == {
        "covid-19-ct-seg": "0", "mosmed": "1", "msd-lung-tumour": "0", "nsclc-pe": "0", "structseg-gtv": "1",
    }  # fmt: skip
    assert lines[-1] == "2 problems."


def test_quick_reads_headers_only(data, capsys):
    layouts.write_nifti(
        layouts.image_of(layouts.mask_voxels("infection") * 9), data / "structseg" / "Lung_GTV" / "7" / "label.nii.gz"
    )
    assert doctor.main(["--data", str(data), "--quick"]) == 0
    assert capsys.readouterr().out.endswith("No problems. Only headers were read: without --quick every voxel is.\n")
    assert doctor.main(["--data", str(data)]) == 1


def test_json_holds_the_parts_of_each_problem(data, capsys):
    (data / MOSMED_MASK).write_bytes(b"")
    assert doctor.main(["--data", str(data), "--json"]) == 1
    findings = {finding["dataset"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["mosmed"]["num_cases"] == 1
    assert findings["mosmed"]["problems"] == [
        {
            "path": str(data / MOSMED_MASK),
            "found": "an empty file",
            "expected": "a NIfTI volume (.nii.gz)",
            "advice": "Write or download it again.",
        }
    ]


def test_the_table_names_a_folder_with_brackets_whole(data, capsys):
    folder = data.rename(data.with_name("CT [old] [red]"))
    assert doctor.main(["--data", str(folder)]) == 0
    assert f" {folder / 'mosmed'} " in capsys.readouterr().out


def test_the_table_is_as_wide_as_its_names_in_a_narrow_window(data, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    doctor.main(["--data", str(data)])
    assert f" {data / 'covid-19-ct-seg'} " in capsys.readouterr().out


def test_masks_without_anything_to_learn_are_a_problem_before_a_run_fails_on_them(data, capsys):
    nothing = layouts.image_of(np.zeros(layouts.SHAPE, np.uint8))
    tar, structseg = data / "msd" / "Task06_Lung.tar", data / "structseg" / "Lung_GTV" / "7" / "label.nii.gz"
    with tarfile.open(tar) as archive:
        archive.extractall(data / "msd", filter="data")
    tar.unlink()
    layouts.write_nifti(nothing, data / "msd" / "Task06_Lung" / "labelsTr" / "lung_001.nii.gz")
    # One empty mask among others is no more than a note.
    assert doctor.main(["--data", str(data)]) == 0
    assert "labelsTr/lung_001.nii.gz: the mask has no foreground" in capsys.readouterr().out
    layouts.write_nifti(nothing, structseg)
    effusion = data / "nsclc" / "Thoracic_Cavities" / "LUNG1-001" / "LUNG1-001_effusion_first_reviewer.nii.gz"
    layouts.write_nifti(sitk.DICOMOrient(nothing, "RAS"), effusion)
    assert doctor.main(["--data", str(data)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "T3-infection-msd-fold0: found no labelled voxel in the infection masks of any case that is trained on"
        "; expected at least one, without which nothing can be planned. Check how these masks "
        "were exported; the notes name them."
    )
    assert lines[-1] == "1 problem."
    # Headers do not show it.
    assert doctor.main(["--data", str(data), "--quick"]) == 0


def test_warnings_are_counted_and_leave_the_exit_code_alone(data, capsys):
    label = data / "structseg" / "Lung_GTV" / "7" / "label.nii.gz"
    beside = np.zeros(layouts.SHAPE, np.uint8)
    beside[3:6, 0, 5:9] = 1
    layouts.write_nifti(layouts.image_of(beside), label)
    assert doctor.main(["--data", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"warning: {label}: 100% of the lesions lie outside of the body"
    assert lines[-1] == "No problems, 1 warning."
    assert doctor.main(["--data", str(data), "--json"]) == 0
    findings = {finding["dataset"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["structseg-gtv"]["warnings"] == [lines[0].removeprefix("warning: ")]
    assert findings["covid-19-ct-seg"]["notes"][0].endswith("HU windowed to [-1250, 250] like the radiopaedia cases")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "no-such-folder"], "--data no-such-folder: no such folder"),
        (["--data", "s3://bucket/downloads"], "--data s3://bucket/downloads: no such folder"),
        (["--data", ".", "--matrix", "typo"], "--matrix typo: unknown"),
        (["--data", ".", "--preset", "typo"], "--preset typo: unknown"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(data, capsys, arguments, message):
    assert doctor.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_folder_of_nnunet_is_not_that_of_a_study_of_other_downloads(data, capsys, monkeypatch):
    """As a run does, which takes it for the data sets in nnU-Net's layout alone."""
    monkeypatch.setenv("nnUNet_raw", str(data))
    assert make_request(load_study()).data is None
    assert doctor.main(["--quick"]) == 2
    assert "nothing says where the data sets are; expected --data" in capsys.readouterr().err


def test_cases_that_only_planning_needs_are_checked_too(tmp_path):
    # Of task 2 the smoke preset tests four cases; its patch size comes from the four that fold 0 of task 1 trains on.
    arguments = ["--data", str(tmp_path), "--preset", "smoke", "--only", "T2-lung-structseg"]
    study = load_study()
    trainings = doctor.requested_trainings(doctor.build_parser().parse_args(arguments), study=study)
    requests = doctor.requested_cases(trainings, datasets=study.datasets)
    names = {request.case_name for request in requests if request.dataset.name == "covid-19-ct-seg"}
    assert {"coronacases_007", "coronacases_008", "radiopaedia_4_85506_1", "radiopaedia_36_86526_0"} < names
    assert len(names) < 20
