"""The command that writes a study file for data sets in nnU-Net's raw layout, and checks one against its data."""

import json
from pathlib import Path

import pytest
from raw_datasets import write_dataset

from orchestrator import api
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import find_preset
from orchestrator.cli import study
from orchestrator.errors import ConfigError
from orchestrator.sources.nnunet_raw.survey import Describer

SIX = tuple(f"case_{number}" for number in range(6))


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    write_dataset(tmp_path / "raw", names=SIX, shape=(4, 24, 20))
    return tmp_path / "raw"


def written(data: Path, *words: str) -> Path:
    output = data.parent / "study"
    assert study.main([*words, "--data", str(data), "--output", str(output)]) == 0
    return output / "study.yaml"


def test_the_file_of_a_data_set_has_at_most_ten_lines_and_says_folds_and_tolerances(data, capsys):
    path = written(data, "Dataset137", "--model", "3d", "--model", "resenc-m")
    text = path.read_text()
    assert len(text.splitlines()) <= 10
    assert "folds: nnunet, tolerance_mm: {small: 1.0, large: 1.0}" in text
    assert f"orchestrator run --study {path} --data {data} --dry-run" in capsys.readouterr().out
    trainings = load_study(path, describe=Describer(str(data))).trainings(preset=find_preset("paper"))
    assert len(trainings) == 10
    assert {training.model.planner for training in trainings} == {"ExperimentPlanner", "nnUNetPlannerResEncM"}


def test_held_out_cases_few_cases_many_structures_and_odd_names_are_written_so_that_they_can_be_read(data):
    labels = {"background": 0, **{f"part {number}": number for number in range(1, 9)}}
    names, tested = ("a", "b", "c"), ("t",)
    write_dataset(data, folder="Dataset002_My MR", names=names, test_names=tested, labels=labels, shape=(4, 24, 20))
    path = written(data, "137", "Dataset002_My MR", "--model", "nnUNetTrainerDiceLoss")
    found = load_study(path, describe=Describer(str(data)))
    trainings = [one for one in found.trainings(preset=find_preset("paper")) if one.group.startswith("my-mr")]
    assert [training.id for training in trainings] == [f"my-mr-DiceLoss-fold{fold}" for fold in range(3)]
    assert [case.name for case in trainings[0].evaluation_sets[1].cases] == ["t"]
    assert len(found.label_set("my-mr").structures) == 8


@pytest.mark.parametrize("own", ["2023", "On", "Null", "1.5"])
def test_a_name_that_yaml_takes_for_something_else_is_written_in_quotes(data, own):
    write_dataset(data, folder=f"Dataset021_{own}", names=SIX, shape=(4, 24, 20))
    found = load_study(written(data, "Dataset021"), describe=Describer(str(data)))
    name = own.lower().replace(".", "-")
    assert [dataset.name for dataset in found.datasets] == [name] == [group.name for group in found.groups]


def test_structures_of_any_name_have_tolerances_of_their_own_and_can_be_in_a_label_set(data):
    labels = {"background": 0, "whole tumor": 1, "Ödem": 2}
    write_dataset(data, folder="Dataset009_Brain", names=SIX, shape=(4, 24, 20), labels=labels)
    path = written(data, "Dataset009")
    assert "tolerance_mm: {whole tumor: 1.0, Ödem: 1.0}" in path.read_text()
    path.write_text(path.read_text().replace("tumor: 1.0", "tumor: 2"))
    found = load_study(path, describe=Describer(str(data)))
    assert [one.tolerance_mm for one in found.label_set("brain").structures] == [2.0, 1.0]
    own = data.parent / "own.yaml"
    own.write_text(
        "title: own\nlabel_sets: {brain: {whole tumor: {label: 1}, edema: {label: 2}}}\n"
        "datasets: {brain: {nnunet: Dataset009, label_sets: [brain], values: {edema: 2}, folds: nnunet}}\n"
        "trainings: {brain: {train: [brain/other-folds], val: [brain/fold]}}\n"
    )
    assert study.main([str(own), "--check", "--data", str(data)]) == 0
    own.write_text(own.read_text().replace("whole tumor", '"whole\\ttumor"'))
    with pytest.raises(ConfigError, match="expected a name that can be read in one line"):
        load_study(own)


def test_pictures_are_for_a_network_of_two_dimensions(tmp_path, capsys):
    data = tmp_path / "raw"
    write_dataset(data, channels=("grey",), ending=".png", shape=(24, 20), names=SIX)
    path = written(data, "Dataset137")
    assert "2d: {configuration: 2d" in path.read_text()
    path.write_text(path.read_text().replace("configuration: 2d, ", ""))
    assert study.main([str(path), "--check", "--data", str(data)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "trainings.things: model 2d is 3d_fullres, and things has pictures (.png); expected 2d for these" in error
    with pytest.raises(ConfigError, match="things has pictures"):
        api.make_request(api.load_study(path, data=data), data=data, output=tmp_path / "run")


@pytest.mark.parametrize(
    ("ending", "spacing_xyz"), [(".nii.gz", (0.75, 0.875)), (".nii.gz", (0.75, 0.875, 5.0)), (".tiff", (1.0, 1.0, 1.0))]
)
def test_images_of_one_slice_are_for_a_network_of_two_dimensions(tmp_path, capsys, ending, spacing_xyz):
    data = tmp_path / "raw"
    write_dataset(data, ending=ending, shape=(1, 24, 20), names=SIX, spacing_xyz=spacing_xyz)
    path = written(data, "Dataset137")
    assert "2d: {configuration: 2d" in path.read_text()
    assert study.main([str(path), "--check", "--data", str(data)]) == 0
    path.write_text(path.read_text().replace("configuration: 2d, ", ""))
    assert study.main([str(path), "--check", "--data", str(data)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "found images of one slice each for model 2d, which is of three dimensions; expected configuration 2d" in out
    write_dataset(data, ending=ending, shape=(5, 24, 20), names=SIX, spacing_xyz=(1.0, 1.0, 1.0))
    assert study.main([str(path), "--check", "--data", str(data)]) == 0


def test_pictures_and_volumes_together_get_no_model_that_one_of_them_cannot_have(data, capsys):
    write_dataset(data, folder="Dataset002_Photos", channels=("grey",), ending=".png", shape=(24, 20), names=SIX)
    output = data.parent / "study"
    assert study.main(["Dataset137", "Dataset002", "--data", str(data), "--output", str(output)]) == 2
    assert "photos has pictures (.png)" in " ".join(capsys.readouterr().err.split())
    assert not output.exists()
    written(data, "Dataset137", "Dataset002", "--model", "2d")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["Dataset138"], "no such folder beside Dataset137_Things"),
        (["Task137_Things"], "nnUNetv2_convert_old_nnUNet_dataset"),
        (["Dataset137", "--model", "resenk"], "--model resenk: unknown; expected one of 3d, 2d"),
        (["study.yaml"], "a study file; expected --check"),
        (["Dataset137", "--output", "my.yaml"], "--output my.yaml: expected a folder, in which study.yaml is written"),
        (
            ["Dataset137", "--output", "s", "--model", "nnUNetTrainerDiceLos"],
            "did you mean 'nnUNetTrainerDiceLoss'",
        ),
        (["a.yaml", "b.yaml", "--check"], "expected one study file"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(data, capsys, monkeypatch, words, expected):
    monkeypatch.chdir(data.parent)
    assert study.main([*words, "--data", str(data)]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert list(data.parent.iterdir()) == [data]


def test_without_a_folder_it_asks_for_one_and_takes_that_of_nnunet(data, capsys, monkeypatch):
    assert study.main(["Dataset137"]) == 2
    assert "expected --data, or nnUNet_raw to be set" in capsys.readouterr().err
    monkeypatch.setenv("nnUNet_raw", str(data))
    assert study.main(["Dataset137", "--output", str(data.parent / "s")]) == 0


def test_a_data_folder_that_is_not_there_is_said_to_be_none(data, capsys):
    assert study.main(["Dataset137", "--data", str(data / "typo")]) == 2
    line = (
        f"error: {data}/typo: found no such folder; expected the folder with the data sets. Correct --data, or nnUNet"
    )
    assert capsys.readouterr().err.startswith(line)


def test_another_study_file_is_not_overwritten(data, capsys):
    path = written(data, "Dataset137")
    path.write_text(path.read_text() + "# mine\n")
    assert study.main(["Dataset137", "--data", str(data), "--output", str(path.parent)]) == 2
    assert "there already" in capsys.readouterr().err


def test_a_check_finds_what_is_missing_and_patients_on_both_sides(data, capsys):
    path = written(data, "Dataset137")
    assert study.main([str(path), "--check", "--data", str(data)]) == 0
    (data / "Dataset137_Things" / "imagesTr" / "case_2_0001.nii.gz").unlink()
    path.write_text(path.read_text() + "patients: [[things/case_0, things/case_1]]\n")
    assert study.main([str(path), "--check", "--data", str(data)]) == 1
    out = capsys.readouterr().out
    assert "case_2_0001.nii.gz: found no such file" in out
    assert "note: case_0 and case_1 are scans of one patient" in out


def test_a_check_finds_labels_and_channels_that_are_not_those_of_the_data(data, capsys):
    path = data.parent / "own.yaml"
    path.write_text(
        "title: own\nlabel_sets: {things: {small: {label: 1}, lrage: {label: 2}}}\n"
        "datasets: {things: {nnunet: Dataset137, label_sets: [things], folds: nnunet}}\n"
        "trainings: {things: {train: [things/other-folds], val: [things/fold]}}\n"
    )
    assert study.main([str(path), "--check", "--data", str(data)]) == 2
    assert "unknown structure of dataset.json 'lrage'; did you mean 'large'" in capsys.readouterr().err
    path.write_text(path.read_text().replace("lrage", "large").replace("folds:", "channels: [CT], folds:"))
    described = data / "Dataset137_Things" / "dataset.json"
    assert len(json.loads(described.read_text())["channel_names"]) == 2
    assert study.main([str(path), "--check", "--data", str(data)]) == 1
    assert "found 2 channels; expected 1 as the study has: CT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"labels": {"background": 0, "small": 1, "large": 3}},
            "dataset.json.things: labels are [1, 3]; expected 1, 2",
        ),
        ({"labels": {"background": 0, "small": 1, "ignore": 2, "large": 3}}, "labels are [1, 3]"),
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 1]},
            "regions write [1, 1]; expected a label of its own for each",
        ),
    ],
)
def test_a_study_that_its_own_check_would_refuse_is_not_written(data, capsys, changes, said):
    write_dataset(data, folder="Dataset009_Things", names=SIX, shape=(4, 24, 20), **changes)
    output = data.parent / "study"
    assert study.main(["Dataset009", "--data", str(data), "--output", str(output)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"not written: {output}/study.yaml: datasets.things: Dataset009_Things/" in error
    assert said in error
    assert not output.exists()


LAID_OUT = """title: Lungs
label_sets: {lung: {left_lung: {label: 1}, right_lung: {label: 2}}, infection: {infection: {label: 1}}}
datasets:
  a: {source: structseg, label_sets: [lung]}
trainings: {t: {train: [a/tr]}}
"""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("strucseg", "datasets.a.source: unknown download 'strucseg'; did you mean 'structseg'?"),
        ("mosmed", "datasets.a.label_sets: unknown label set of mosmed 'lung'; expected one of infection"),
    ],
)
def test_an_unknown_download_is_refused_when_a_run_is_asked_for_and_when_a_study_is_checked(
    tmp_path, monkeypatch, capsys, source, said
):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    path = tmp_path / "study.yaml"
    path.write_text(LAID_OUT)
    path.with_name("folds.yaml").write_text("a: {tr: [x, y]}\n")
    assert study.main([str(path), "--check"]) == 0
    path.write_text(LAID_OUT.replace("structseg", source))
    with pytest.raises(ConfigError) as caught:
        api.make_request(load_study(path), output=tmp_path / "run")
    assert str(caught.value).startswith(f"{path}: {said}")
    assert study.main([str(path), "--check"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
