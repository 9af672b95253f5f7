"""Claims about `predict`: any nnU-Net's labels, what is done is kept, and a bad case is a row."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from test_window_sweep import stock_labels

import orchestrator
from bench.instruments.stock_models import REGIONS, labels_of, small_plans, write_image, write_model
from orchestrator.cli.predict import main
from orchestrator.errors import ConfigError, DataError
from orchestrator.inference.cases import find_cases

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path, small_plans(), labels=labels_of(4), folds=("0", "1"))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        write_image(folder / f"case_{number}", shape=(9, 20, 18 + number), seed=number)
    return folder


def test_a_folder_is_predicted_as_nnunet_predicts_it_and_measured(model, images, tmp_path, capsys):
    output = tmp_path / "out"
    assert main([str(images), "--model", str(model), "--output", str(output)]) == 0
    told = capsys.readouterr()
    assert told.out == f"3 cases predicted: {output}\n"
    assert "3 of 3 cases to predict; at most " in told.err
    assert "GiB of memory" in told.err
    for number in range(3):
        expected = stock_labels(model, [images / f"case_{number}_0000.nii.gz"], tmp_path)
        found = sitk.ReadImage(str(output / f"case_{number}.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
        assert found.GetOrigin() == expected.GetOrigin()
        assert found.GetDirection() == expected.GetDirection()
        record = json.loads((output / f"case_{number}.json").read_text())
        # A voxel is 1.0 x 1.1 x 2.5 mm.
        voxels = np.count_nonzero(sitk.GetArrayFromImage(expected) == 2)
        assert record["volumes_ml"]["structure 2"] == pytest.approx(voxels * 2.75 / 1000, abs=1e-5)
    header, *rows = (output / "predictions.csv").read_text().splitlines()
    assert header == "case,status,structure 1 (ml),structure 2 (ml),structure 3 (ml),message"
    assert [row.split(",")[:2] for row in rows] == [[f"case_{number}", "predicted"] for number in range(3)]


def test_the_volume_of_a_region_is_that_of_its_labels(images, tmp_path):
    model = write_model(tmp_path, small_plans(), labels=REGIONS, order=(1, 2, 3))
    rows = orchestrator.predict(model, images / "case_0_0000.nii.gz", output=tmp_path / "out", device="cpu")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "case_0.nii.gz")))
    expected = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    assert rows[0].volumes_ml == {
        name: pytest.approx(np.isin(labels, values).sum() * 2.75 / 1000, abs=1e-5) for name, values in expected.items()
    }


def test_what_is_predicted_is_kept_and_only_the_rest_is_done(model, images, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = [str(images), "--model", str(model), "--output", str(output)]
    assert main(arguments) == 0
    before = (output / "case_0.nii.gz").stat().st_mtime_ns
    (output / "case_1.nii.gz").unlink()
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"3 cases predicted, 2 of them before: {output}\n"
    assert (output / "case_0.nii.gz").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="has predictions with another model_sha256, folds"):
        orchestrator.predict(model, images, output=output, folds=["1"])
    with pytest.raises(ConfigError, match="another tile_step_size"):
        orchestrator.predict(model, images, output=output, tile_step_size=0.7)


def test_a_bad_case_is_a_row_and_the_others_go_on(model, images, tmp_path, capsys):
    (images / "case_1_0000.nii.gz").write_bytes((images / "case_1_0000.nii.gz").read_bytes()[:500])
    output = tmp_path / "out"
    assert main([str(images), "--model", str(model), "--output", str(output)]) == 1
    told = capsys.readouterr()
    assert told.out == f"2 cases predicted: {output}\n"
    assert "failed: case_1: " in told.err
    assert "expected a whole gzip stream" in told.err
    assert "case_1,failed," in (output / "predictions.csv").read_text()
    assert not (output / "case_1.nii.gz").exists()


def test_a_case_that_would_take_too_much_memory_is_left_out(model, images, tmp_path):
    rows = orchestrator.predict(model, images, output=tmp_path / "out", device="cpu", max_memory_gib=0.01)
    assert [row.status for row in rows] == ["failed"] * 3
    assert "would take" in rows[0].message


@pytest.mark.long
def test_twenty_scans_killed_three_times_give_the_same_files_and_none_is_predicted_twice(model, images, tmp_path):
    for number in range(3, 20):
        write_image(images / f"case_{number}", shape=(9, 20 + number, 18), seed=number)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "orchestrator", "predict", str(images), "--model", str(model), "--no-mirror"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    seen: dict[str, int] = {}
    for kill_at in (3, 9, 15):
        process = subprocess.Popen([*command, "--output", str(killed)], cwd=ROOT, env=environment)
        while process.poll() is None and len(list(killed.glob("case_*.nii.gz"))) < kill_at:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert kill_at <= len(list(killed.glob("case_*.nii.gz"))) < 20
        seen |= {path.name: seen.get(path.name, path.stat().st_ino) for path in killed.glob("case_*.nii.gz")}
        assert seen == {path.name: path.stat().st_ino for path in killed.glob("case_*.nii.gz")}
    for folder in (killed, whole):
        subprocess.run([*command, "--output", str(folder)], cwd=ROOT, check=True, env=environment)
    assert seen.items() <= {path.name: path.stat().st_ino for path in killed.glob("case_*.nii.gz")}.items()
    left, right = (
        {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".tmp-")}
        for folder in (killed, whole)
    )
    assert left == right
    assert sum(name.endswith(".nii.gz") for name in left) == 20


def test_channels_of_a_case_belong_together(images, tmp_path):
    model = write_model(tmp_path, small_plans(channels=("CT", "MR")), labels=labels_of(3))
    with pytest.raises(ConfigError, match=r"case case_0: case_0_0000\.nii\.gz; expected 2 channels"):
        orchestrator.predict(model, images, output=tmp_path / "out")
    write_image(tmp_path / "both", shape=(9, 20, 18), num_channels=2)
    (row,) = orchestrator.predict(model, tmp_path / "both_0000.nii.gz", output=tmp_path / "out", device="cpu")
    assert (row.case, row.status) == ("both", "predicted")
    for channel in ("0000", "0001"):
        (tmp_path / f"both_{channel}.nii.gz").rename(tmp_path / f"loud_{channel}.NII.GZ")
    (case,) = find_cases(tmp_path / "loud_0000.NII.GZ", endings=(".nii.gz",), num_channels=2)
    assert [path.name for path in case.files] == ["loud_0000.NII.GZ", "loud_0001.NII.GZ"]


def test_numbers_of_scans_are_not_taken_for_channels(model, images, tmp_path):
    folder = tmp_path / "numbered"
    folder.mkdir()
    for name in ("study_0255", "study_0304"):
        (folder / f"{name}.nii.gz").write_bytes((images / "case_0_0000.nii.gz").read_bytes())
    rows = orchestrator.predict(model, folder, output=tmp_path / "out", device="cpu")
    assert [(row.case, row.status) for row in rows] == [("study_0255", "predicted"), ("study_0304", "predicted")]
    (folder / "study_0000.nii.gz").write_bytes((images / "case_0_0000.nii.gz").read_bytes())
    with pytest.raises(ConfigError, match=r"case study: .*expected 1 channels"):
        orchestrator.predict(model, folder, output=tmp_path / "other")


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_other_files_that_itk_reads_are_cases_by_themselves(model, images, tmp_path, ending):
    folder = tmp_path / "others"
    folder.mkdir()
    sitk.WriteImage(sitk.ReadImage(str(images / "case_0_0000.nii.gz")), str(folder / f"scan{ending}"))
    (folder / "notes.txt").write_text("no image")
    (row,) = orchestrator.predict(model, folder, output=tmp_path / "out", device="cpu")
    assert (row.case, row.status) == ("scan", "predicted")
    (expected,) = orchestrator.predict(model, images / "case_0_0000.nii.gz", output=tmp_path / "expected", device="cpu")
    assert row.volumes_ml == expected.volumes_ml


def test_a_cascade_is_refused_by_name(model, images, tmp_path):
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ConfigError, match="3d_fullres refines the predictions of 3d_lowres, a cascade"):
        orchestrator.predict(model, images, output=tmp_path / "out")


def test_a_trainer_that_is_not_installed_is_said(model, images, tmp_path, capsys):
    model = write_model(tmp_path / "other", small_plans(), labels=labels_of(3), trainer_name="nnUNetTrainerOfOthers")
    assert main([str(images), "--model", str(model), "--output", str(tmp_path / "out")]) == 0
    assert "trained by nnUNetTrainerOfOthers, which is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "missing"}, "missing: no such file or folder; expected a model"),
        ({"images": "missing"}, "missing: no such file or folder; expected images"),
        ({"folds": ["7"]}, "no fold 7 with checkpoint_final.pth; there is 0, 1"),
        ({"training": "T1"}, "no run; expected one with the training T1"),
        ({"tile_step_size": 0.0}, "a step of 0.0; expected a share of the window"),
    ],
)
def test_what_does_not_fit_is_one_line(model, images, tmp_path, arguments, words):
    arguments = dict(arguments)
    which, what = arguments.pop("model", str(model)), arguments.pop("images", str(images))
    with pytest.raises(ConfigError) as raised:
        orchestrator.predict(which, what, output=tmp_path / "out", **arguments)
    assert words in str(raised.value)


class _Program:
    def __reduce__(self):
        return os.system, ("touch /tmp/executed",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"network_weights": {}, "init_args": {}, "trainer_name": _Program()},
            "wants to run posix.system when it is read",
        ),
        ({"network_weights": {}, "trainer_name": "nnUNetTrainer"}, "without init_args"),
        ({"network_weights": {"a": 1}, "init_args": {"configuration": "2d"}, "trainer_name": ""}, "not laid out as"),
        ([1, 2], "holds a list"),
    ],
)
def test_weights_that_are_more_than_weights_are_refused(model, images, tmp_path, content, words):
    import torch

    torch.save(content, model / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(DataError) as raised:
        orchestrator.predict(model, images, output=tmp_path / "out")
    assert words in str(raised.value)


def test_cases_are_predicted_as_tasks_of_a_cluster(model, images, tmp_path):
    cluster = ROOT / "clusters" / "local.yaml"
    rows = orchestrator.predict(model, images, output=tmp_path / "out", device="cpu", cluster=cluster)
    expected = orchestrator.predict(model, images, output=tmp_path / "expected", device="cpu")
    assert rows == expected
