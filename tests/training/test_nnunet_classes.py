"""Claims about planners and trainers by name."""

import os
import subprocess
import sys

import pytest

from orchestrator.benchmark.definition import Model
from orchestrator.errors import ConfigError
from orchestrator.training.nnunet import classes as nnunet_classes
from orchestrator.training.nnunet.classes import (
    NOT_THEIRS,
    check_models,
    find_planner,
    find_trainer,
    planned_memory_gib,
)

OWN = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from beside import LEARNING_RATE

class OwnTrainer(nnUNetTrainer):
    rate = LEARNING_RATE

Again = OwnTrainer

class NoTrainer:
    pass

class nnUNetTrainerAdam(nnUNetTrainer):
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of the user's own, beside whose trainers lies what no program can import."""
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("LEARNING_RATE = 7\n")
    (tmp_path / "broken.py").write_text("class Half(")
    (tmp_path / "missing.py").write_text("import package_that_nobody_has\nclass Unusable: pass\n")
    package = tmp_path / "inner"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "deep.py").write_text("from mine import OwnTrainer\nclass DeepTrainer(OwnTrainer): pass\n")
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(["", str(tmp_path / "gone"), str(tmp_path)]))
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("planner", "nnUNetPlannerResencL", r"did you mean 'nnUNetPlannerResEncL'\?"),
        ("planner", "nnUNetTrainer", "unknown planner 'nnUNetTrainer'"),
        ("trainer", "nnUNetTrainerAdm", r"did you mean 'nnUNetTrainerAdam'\?"),
        ("trainer", "MyTrainer", "named by nnUNet_extTrainer.*unknown trainer 'MyTrainer'"),
    ],
)
def test_an_unknown_class_is_refused_with_near_names_before_anything_is_imported(kind, name, message):
    with pytest.raises(ConfigError, match=message):
        check_models([Model(name="3d"), Model(name="other", **{kind: name})])
    with pytest.raises(ConfigError, match=f"unknown {kind}"):
        {"planner": find_planner, "trainer": find_trainer}[kind](name)


def test_names_are_checked_without_torch_or_nnunet():
    program = (
        "import sys; from orchestrator.benchmark.definition import Model\n"
        "from orchestrator.training.nnunet.classes import check_models\n"
        "check_models([Model(name='m', planner='nnUNetPlannerResEncXL', trainer='nnUNetTrainerDA5')])\n"
        "assert not {'torch', 'nnunetv2', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("planner", "gib"),
    [
        ("ExperimentPlanner", 8),
        ("nnUNetPlannerResEncM", 8),
        ("nnUNetPlannerResEncL", 24),
        ("nnUNetPlannerResEncL_torchres", 24),
        ("nnUNetPlannerResEncXL", 40),
    ],
)
def test_the_memory_that_a_planner_fills_is_its_own(planner, gib, tmp_path):
    assert planned_memory_gib([Model(name="m", planner=planner)]) == gib
    assert planned_memory_gib([Model(name="m", planner=planner), Model(name="3d")]) == gib
    assert find_planner(planner).__init__.__defaults__[0] == gib


def test_every_bundled_trainer_is_known_by_the_name_of_its_class():
    known = nnunet_classes._bundled_trainers()
    assert {"nnUNetTrainerNoDeepSupervision", "nnUNetTrainerDA5_10epochs", "nnUNet_Primus_M_Trainer"} <= set(known)
    assert find_trainer("nnUNetTrainerAdam1en3").__module__.endswith("optimizer.nnUNetTrainerAdam")


def test_trainers_of_the_users_own_are_found_as_nnunet_finds_them(own):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    check_models([Model(name="m", trainer=name) for name in ("OwnTrainer", "Again", "DeepTrainer")])
    path = list(sys.path)
    found = find_trainer("OwnTrainer")
    assert issubclass(found, nnUNetTrainer)
    assert found.rate == find_trainer("DeepTrainer").rate == find_trainer("Again").rate == 7
    # As nnU-Net does it: the next folder may have modules of the same names.
    assert sys.path == path
    assert not {"mine", "beside", "inner.deep"} & set(sys.modules)
    # Its own goes first.
    assert find_trainer("nnUNetTrainerAdam").__module__.startswith("nnunetv2.")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoTrainer", "mine has no such class; expected one of nnUNetTrainer"),
        ("Unusable", "missing cannot be imported .*package_that_nobody_has"),
        ("Half", "unknown trainer 'Half'"),
    ],
)
def test_what_is_no_trainer_or_cannot_be_imported_is_named(own, name, message):
    with pytest.raises(ConfigError, match=message):
        find_trainer(name)


def test_a_trainer_with_its_own_loop_is_refused_before_anything_is_imported(own):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from orchestrator.training.nnunet.trainers import named_trainers

    (own / "looping.py").write_text(
        "from mine import OwnTrainer\nclass Looping(OwnTrainer):\n def on_epoch_end(self): pass\n"
        "class Derived(Looping):\n rate = 8\n"
    )
    for name, method in (("Derived", "on_epoch_end"), ("nnUNetTrainerBenchmark_5epochs", "run_training")):
        with pytest.raises(ConfigError, match=f"trainer {name}: has its own .*{method}.*would never be called"):
            check_models([Model(name="m", trainer=name)])
        with pytest.raises(ConfigError, match=f"trainer {name}: has its own .*{method}"):
            named_trainers.preset_trainer(name)
    ours = (named_trainers.PresetTrainer, named_trainers.ExactTrainer)
    refused = {name for kind in ours for name, value in vars(kind).items() if callable(value) and name[0] != "_"}
    refused = refused - named_trainers._TOGETHER | named_trainers._NEVER_CALLED
    assert {name for name in refused if hasattr(nnUNetTrainer, name)} == NOT_THEIRS
