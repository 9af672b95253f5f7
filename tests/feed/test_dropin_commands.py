"""The trainer as users of nnU-Net's own commands meet it: trained, gone on with, validated, predicted with."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny_training import assert_same_weights

from bench.stock_trainer.folders import CASES, KINDS, SPLIT, write_stock_folder
from orchestrator.training.dropin.trainer_file import TRAINER
from orchestrator.training.nnunet.classes import nnunet_package

SHORT = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerShort(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 3, 1
"""
NAME = f"{TRAINER}Short"


class Commands:
    """nnU-Net's commands, in processes of their own, on one data set."""

    def __init__(self, folder: Path, kind: str, *, installed: dict[str, str]) -> None:
        self.stock = write_stock_folder(folder, KINDS[kind])
        plan = self.stock.plan
        self.plan = (plan.plans["dataset_name"], plan.configuration)
        names = {name: str(folder / name) for name in ("raw", "preprocessed", "results")}
        self.environment = installed | {f"nnUNet_{name}": place for name, place in names.items()}
        self.environment |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
        self.images, self.labels = folder / "predicted", folder / "labels"
        self.images.mkdir()
        for path in (folder / "images").glob(f"{CASES[3]}_*.nii.gz"):
            os.link(path, self.images / path.name)

    def __call__(self, command: str, *words: str) -> subprocess.CompletedProcess:
        program = Path(sys.executable).with_name(command)
        # Warnings of nnU-Net and torch are their own.
        environment = self.environment | {"PYTHONWARNINGS": "ignore"}
        return subprocess.run(
            [sys.executable, str(program), *words, "-device", "cpu"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=800,
        )

    def train(self, *words: str) -> str:
        """Train fold 0; what was printed."""
        # nnU-Net's command takes the id of a data set, or its name.
        done = self("nnUNetv2_train", *self.plan, "0", "-tr", NAME, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def predicted(self) -> sitk.Image:
        """Predict the image of a validation case."""
        name, configuration = self.plan
        words = ["-d", name, "-c", configuration, "-f", "0", "-tr", NAME, "-npp", "1", "-nps", "1", "--disable_tta"]
        done = self("nnUNetv2_predict", *words, "-i", str(self.images), "-o", str(self.labels))
        assert done.returncode == 0, done.stdout + done.stderr
        return sitk.ReadImage(str(self.labels / f"{CASES[3]}.nii.gz"))

    @property
    def fold(self) -> Path:
        """Folder of the results."""
        name, configuration = self.plan
        return Path(self.environment["nnUNet_results"]) / name / f"{NAME}__nnUNetPlans__{configuration}" / "fold_0"


@pytest.fixture
def installed(tmp_path) -> dict[str, str]:
    """Variables with which nnU-Net is a copy of its own, in which our trainer is installed, beside a short one."""
    site, trainers = tmp_path / "site", tmp_path / "trainers"
    shutil.copytree(nnunet_package(), site / "nnunetv2")
    trainers.mkdir()
    (trainers / "short.py").write_text(SHORT, encoding="utf-8")
    paths = os.pathsep.join([str(site), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "nnUNet_extTrainer": str(trainers)}
    command = [sys.executable, "-m", "orchestrator", "install-trainer"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{site}/nnunetv2/training/nnUNetTrainer/{TRAINER}.py: written")
    return environment


def test_what_is_refused_is_one_line_of_the_command(tmp_path, installed):
    commands = Commands(tmp_path / "data", "CT", installed=installed)
    plans = commands.stock.base / "nnUNetPlans.json"
    text = json.loads(plans.read_text())
    text["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans.write_text(json.dumps(text))
    name, configuration = commands.plan
    refused = {
        ("3d_cascade_fullres", TRAINER): "3d_cascade_fullres is the second stage of a cascade",
        (configuration, f"{TRAINER}_5epoch"): "did you mean 'nnUNetTrainer_5epochs'",
    }
    for (asked, trainer), line in refused.items():
        _refused(commands("nnUNetv2_train", name, asked, "0", "-tr", trainer), line)
    commands.environment["ORCHESTRATOR_SEED"] = "abc"
    _refused(
        commands("nnUNetv2_train", name, configuration, "0", "-tr", TRAINER),
        "ORCHESTRATOR_SEED is 'abc'; expected a whole number of at least 0 and at most 4294967295",
    )


def _refused(done: subprocess.CompletedProcess, line: str) -> None:
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert line in done.stderr


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["two channels", "two channels, 2d"])
def test_what_its_page_promises_holds_for_nnunets_commands(kind, tmp_path, installed):
    commands = Commands(tmp_path / "data", kind, installed=installed)
    assert "Epoch 1" in commands.train()
    assert {"checkpoint_best.pth", "checkpoint_final.pth"} <= {path.name for path in commands.fold.iterdir()}
    log = next(commands.fold.glob("training_log*.txt")).read_text(encoding="utf-8")
    assert len(re.findall(r"Pseudo NSD \[", log)) == 2
    # nnU-Net validates at the end.
    summary = commands.fold / "validation" / "summary.json"
    assert {path.name for path in summary.parent.glob("*.nii.gz")} == {f"{case}.nii.gz" for case in SPLIT["val"]}
    assert summary.exists()
    if commands.stock.plan.configuration != "2d":
        _validate_and_go_on(commands, summary)
    found = commands.predicted()
    image = sitk.ReadImage(str(commands.images / f"{CASES[3]}_0000.nii.gz"))
    assert (found.GetSize(), found.GetSpacing()) == (image.GetSize(), image.GetSpacing())
    assert set(np.unique(sitk.GetArrayFromImage(found))) <= {0, 1, 2}


def _validate_and_go_on(commands: Commands, summary: Path) -> None:
    """Validate again, and go on with what has come to its end: nothing changes."""
    summary.unlink()
    commands.train("--val")
    assert summary.exists()
    path = commands.fold / "checkpoint_final.pth"
    before = torch.load(path, weights_only=False, map_location="cpu")["network_weights"]
    commands.train("--c")
    assert_same_weights(torch.load(path, weights_only=False, map_location="cpu")["network_weights"], before)
