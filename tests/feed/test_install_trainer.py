"""Claims about the file by which nnU-Net finds our trainer."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny_training import let_nnunet_find

from bench.stock_trainer.folders import KINDS, write_stock_folder
from orchestrator.cli.main import main
from orchestrator.training.dropin import trainer_file
from orchestrator.training.dropin.trainer import nnUNetTrainerOrchestrator
from orchestrator.training.dropin.trainer_file import CONTENT, TRAINER


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that looks like nnU-Net's package."""
    folder = tmp_path / "nnunetv2" / "training" / "nnUNetTrainer"
    folder.mkdir(parents=True)
    (folder / "nnUNetTrainer.py").touch()
    monkeypatch.setattr(trainer_file, "nnunet_package", lambda: tmp_path / "nnunetv2")
    return folder


def test_the_file_is_written_once_and_removed(package, capsys):
    path = package / f"{TRAINER}.py"
    assert main(["install-trainer"]) == 0
    assert path.read_text() == CONTENT
    assert capsys.readouterr().out == (
        f"{path}: written\nTrain with: nnUNetv2_train DATASET CONFIGURATION FOLD -tr {TRAINER}\n"
    )
    written = path.stat()
    assert main(["install-trainer"]) == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert "there already" in capsys.readouterr().out
    assert main(["install-trainer", "--remove"]) == 0
    assert main(["install-trainer", "--remove"]) == 0
    assert capsys.readouterr().out == f"{path}: removed\n{path}: not there, nothing to remove\n"
    assert [one.name for one in package.iterdir()] == ["nnUNetTrainer.py"]


def test_an_older_file_of_ours_is_replaced_and_one_of_somebody_else_is_not(package, capsys):
    path = package / f"{TRAINER}.py"
    path.write_text("# written by `orchestrator install-trainer`")
    assert main(["install-trainer"]) == 0
    assert path.read_text() == CONTENT
    path.write_text("mine = 1")
    for options in ([], ["--remove"]):
        assert main(["install-trainer", *options]) == 2
        assert f"{path}: not written by orchestrator install-trainer" in capsys.readouterr().err
    assert path.read_text() == "mine = 1"


def test_no_nnunet_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer_file, "nnunet_package", lambda: tmp_path)
    assert main(["install-trainer"]) == 2
    assert "expected the trainers of nnU-Net 2" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_told_what_else_to_do(package, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    assert main(["install-trainer"]) == 2
    assert "nnUNet_extTrainer" in capsys.readouterr().err


def test_nnunet_finds_the_trainer_in_a_folder_of_the_users_own_as_well(tmp_path, monkeypatch, capsys):
    assert main(["install-trainer", "--show"]) == 0
    (tmp_path / f"{TRAINER}.py").write_text(capsys.readouterr().out)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    # Else it would import all trainers of its package first.
    monkeypatch.setattr("nnunetv2.utilities.find_objects.nnunetv2.__path__", [str(tmp_path / "nothing")], raising=False)
    assert recursive_find_trainer_class_by_name(TRAINER) is nnUNetTrainerOrchestrator


def test_the_file_imports_nothing_before_it_is_asked_and_says_what_is_missing(tmp_path):
    (tmp_path / "found.py").write_text(CONTENT)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
sys.modules["orchestrator"] = None
import found
assert not hasattr(found, "nnUNetTrainer")
try:
    found.{TRAINER}
except ImportError as error:
    assert "install it, or remove" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


REFUSING = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refusing())
"""
TRAINING = """
import json, torch
from pathlib import Path
from orchestrator.cli.main import main
from orchestrator.training.dropin.trainer import nnUNetTrainerOrchestrator

assert main(["convert-preprocessed", "1"]) == 0

class Short(nnUNetTrainerOrchestrator):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 1

plans, described = (json.loads(Path(sys.argv[1], name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
plans["continue_training"] = False
Short(plans, "3d_fullres", 0, described, torch.device("cpu")).run_training()
"""


def installed_with(name, known=frozenset()):
    """The package, and every package that it requires, directly or through others."""
    if name in known:
        return known
    known |= {name}
    for requirement in map(Requirement, requires(name) or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            known = installed_with(canonicalize_name(requirement.name), known)
    return known


def test_it_needs_no_more_than_its_page_installs_beside_nnunet(tmp_path, monkeypatch):
    folder, root = write_stock_folder(tmp_path / "data", KINDS["CT"]), Path(__file__).parents[2]
    needed = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    page = (root / "docs" / "nnunet_trainer.md").read_text()
    (further,) = re.findall(r"^pip install (numba .*)$", page, re.MULTILINE)
    names = {re.match(r"[\w-]+", one)[0] for one in needed}
    brought = installed_with("nnunetv2") | installed_with("numba")
    refused = {name for name in names if canonicalize_name(name) not in brought} - set(further.split())
    assert {"ray", "boto3", "duckdb"} <= refused
    let_nnunet_find(folder, tmp_path / "results", monkeypatch)
    monkeypatch.setenv("ORCHESTRATOR_CURVE_EVERY", "1")
    monkeypatch.setenv("ORCHESTRATOR_CURVE_SHARE", "1")
    code = f"REFUSED = {sorted(refused)}\n{REFUSING}{TRAINING}"
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder.base)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Pseudo NSD" in done.stdout
