"""Claims about trainings with other trainer classes than nnU-Net's default."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import (
    CASES,
    Killed,
    Run,
    assert_same_weights,
    tiny_plan,
    tiny_preset,
    tiny_setting,
    write_all_patches,
    write_ball,
)

from orchestrator.errors import ConfigError, TrainingError
from orchestrator.training.nnunet import classes as nnunet_classes
from orchestrator.training.nnunet.prediction import load_predictor
from orchestrator.training.nnunet.trainers.named_trainers import preset_trainer

PRESET = tiny_preset(
    num_epochs=2, num_iterations_per_epoch=2, optimizer="nnunet", initial_learning_rate=None, mirror_axes=None
)
OWN = """
import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.lr_schedule.nnUNetTrainer_warmup import nnUNetTrainer_warmup

class ShortWarmup(nnUNetTrainer_warmup):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.warmup_duration_whole_net = 1

class Remembering(nnUNetTrainer):
    "Its schedule does not follow from the epoch."
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.network.parameters(), 1e-2)
        return optimizer, Halving(optimizer)

class Halving:
    def __init__(self, optimizer):
        self.optimizer, self.steps = optimizer, 0
    def step(self, _):
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-2 / 2**self.steps
    def state_dict(self):
        return {"steps": self.steps}
    def load_state_dict(self, state):
        self.steps = state["steps"]

class OwnLoop(nnUNetTrainer):
    def run_training(self): ...
    def on_epoch_end(self): ...
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return tiny_setting(tmp_path_factory.mktemp("balls"), preset=PRESET)


@pytest.fixture(autouse=True)
def _own(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "mine.py").write_text(OWN)
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))


TRAINERS = {
    "nnUNetTrainerAdam1en3": ("", {}),
    "nnUNetTrainerDiceCELoss_noSmooth": ("", {}),
    "nnUNetTrainerNoDeepSupervision": ("", {}),
    "nnUNetTrainerBN": ("", {}),
    "nnUNetTrainerNoMirroring": ("", {}),
    "nnUNetTrainer_probabilisticOversampling_010": ("", {}),
    "nnUNetTrainerDA5_10epochs": (
        "nnU-Net's own pipeline: nnUNetTrainerDA5_10epochs has its own get_training_transforms",
        {"num_epochs of nnUNetTrainerDA5_10epochs is 10; preset tiny makes it 2"},
    ),
    "nnUNetTrainerNoDA": ("nnU-Net's own pipeline: nnUNetTrainerNoDA has its own get_training_transforms", {}),
    "ShortWarmup": ("", {}),
    "Remembering": ("", {}),
}
"""Trainer to what its log says of the pipeline, and what else."""


@pytest.mark.parametrize("name", TRAINERS)
def test_a_training_by_another_trainer_is_resumed_exactly_and_predicts(name, setting, tmp_path):
    plan, _ = setting
    preset = replace(PRESET, num_epochs=3) if name == "ShortWarmup" else PRESET
    changes = {"trainer_name": name, "preset": preset}
    whole = Run(tmp_path / "whole", setting, **changes).go()
    pipeline, lines = TRAINERS[name]
    assert ("nnU-Net's own pipeline" in whole.text) == bool(pipeline)
    assert all(line in whole.text for line in {pipeline, *lines})
    for _ in range(1, preset.num_epochs):
        with pytest.raises(Killed):
            Run(tmp_path / "killed", setting, kill_after=1, **changes).go()
    resumed = Run(tmp_path / "killed", setting, **changes).go()
    assert_same_weights(resumed.weights, whole.weights)
    state = whole.store.load_final().state
    assert state["trainer_name"] == name
    assert state["origin"]["trainer"] == name
    assert state["plans"] == {key: value for key, value in plan.plans.items() if key != "continue_training"}
    load_predictor(state, plan=plan, preset=preset, device="cpu")


def test_a_trainer_stops_where_it_is_asked_and_goes_on_amid_an_epoch(setting, tmp_path):
    whole = Run(tmp_path / "whole", setting, trainer_name="nnUNetTrainerAdam", preset=PRESET).go()
    asked = iter(["", "", "", "asked"])
    first = Run(
        tmp_path / "stopped", setting, trainer_name="nnUNetTrainerAdam", preset=PRESET, stop_reason=lambda: next(asked)
    )
    with pytest.raises(Exception, match="epoch 1, after 1 of its 2 iterations, since asked"):
        first.go()
    resumed = Run(tmp_path / "stopped", setting, trainer_name="nnUNetTrainerAdam", preset=PRESET).go()
    assert_same_weights(resumed.weights, whole.weights)


def begun(name, setting, monkeypatch, tmp_path, *, preset=PRESET):
    """A trainer as `train` sets it up, before anything is built, and its log."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path))
    plan, _ = setting
    trainer = preset_trainer(name)(
        {**plan.plans, "continue_training": False}, plan.configuration, 0, plan.dataset_json, torch.device("cpu")
    )
    lines = []
    trainer._log, trainer._preset = lines.append, preset
    trainer._take_over(preset)
    trainer.network = torch.nn.Linear(1, 1)
    return trainer, "\n".join(lines)


def test_a_preset_without_a_rate_of_its_own_keeps_that_of_the_trainer_and_its_optimiser(setting, monkeypatch, tmp_path):
    trainer, _ = begun("nnUNetTrainerAdam1en3", setting, monkeypatch, tmp_path)
    optimizer, _ = trainer.configure_optimizers()
    assert (type(optimizer), optimizer.param_groups[0]["lr"]) == (torch.optim.AdamW, 1e-3)
    assert optimizer.param_groups[0]["amsgrad"]
    assert trainer.oversample_foreground_percent == 0.33
    sampled, _ = begun("nnUNetTrainer_probabilisticOversampling_010", setting, monkeypatch, tmp_path)
    assert (sampled.oversample_foreground_percent, sampled.probabilistic_oversampling) == (0.1, True)


def test_a_miniature_says_that_its_optimiser_is_not_the_trainers(setting, monkeypatch, tmp_path):
    trainer, lines = begun("nnUNetTrainerAdam1en3", setting, monkeypatch, tmp_path, preset=tiny_preset())
    optimizer, _ = trainer.configure_optimizers()
    assert not optimizer.param_groups[0]["amsgrad"]
    assert optimizer.param_groups[0]["lr"] == 5e-3
    assert "preset tiny trains with AdamW, and not with the optimiser of nnUNetTrainerAdam1en3" in lines


MIRRORED = {
    "all": ("nnUNetTrainer", None, (0, 1, 2)),
    "none by the trainer": ("nnUNetTrainerNoMirroring", (0, 1), ()),
    "two by the trainer": ("nnUNetTrainer_onlyMirror01", None, (0, 1)),
    "one by both": ("nnUNetTrainer_onlyMirror01", (1, 2), (1,)),
}
"""Trainer, mirror axes of the preset, and those that are left."""


@pytest.mark.parametrize("case", MIRRORED)
def test_what_is_mirrored_both_trainer_and_preset_mirror(case, setting, monkeypatch, tmp_path):
    name, axes, left = MIRRORED[case]
    trainer, _ = begun(name, setting, monkeypatch, tmp_path, preset=replace(PRESET, mirror_axes=axes))
    *_, found = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert tuple(found) == left
    assert tuple(trainer.inference_allowed_mirroring_axes) == left


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OwnLoop", "trainer OwnLoop: has its own on_epoch_end, run_training, which would never be called"),
        ("nnUNetTrainerBenchmark_5epochs", "has its own on_train_end, run_training, save_checkpoint"),
        ("nnUNetTrainerAdm", "did you mean 'nnUNetTrainerAdam'"),
    ],
)
def test_a_trainer_with_its_own_way_of_what_is_ours_is_refused(name, message, setting, tmp_path):
    with pytest.raises(ConfigError, match=message):
        Run(tmp_path, setting, trainer_name=name).go()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch about its own schedules, which nnU-Net asks for epochs
def test_every_other_bundled_trainer_trains_and_is_resumed_exactly(setting, tmp_path):
    """But for those that only measure, and those whose packages are not installed."""
    bundled = nnunet_classes._bundled_trainers()
    names = [name for name, found in bundled.items() if found.tree is not None and ".primus." not in found.module]
    refused, failures = set(), {}
    for name in names:
        changes = {"preset": PRESET, "trainer_name": name}
        try:
            whole = Run(tmp_path / name / "whole", setting, **changes).go()
        except ConfigError:
            refused.add(name)
            continue
        except RuntimeError as error:
            failures[name] = str(error)
            continue
        with pytest.raises(Killed):
            Run(tmp_path / name / "killed", setting, kill_after=1, **changes).go()
        assert_same_weights(Run(tmp_path / name / "killed", setting, **changes).go().weights, whole.weights)
    assert refused == {"nnUNetTrainerBenchmark_5epochs", "nnUNetTrainerBenchmark_5epochs_noDataLoading"}
    assert all("Adan" in name and "to be installed" in message for name, message in failures.items())
    assert len(names) > 40


def test_a_checkpoint_of_another_trainer_is_refused(setting, tmp_path):
    for before, after, message in (
        ("nnUNetTrainerAdam", "nnUNetTrainer", "has trainer nnUNetTrainerAdam; expected nnU-Net's default"),
        ("nnUNetTrainer", "nnUNetTrainerAdam", "has trainer nnU-Net's default; expected nnUNetTrainerAdam"),
    ):
        with pytest.raises(Killed):
            Run(tmp_path / before, setting, kill_after=1, trainer_name=before, preset=PRESET).go()
        with pytest.raises(TrainingError, match=message):
            Run(tmp_path / before, setting, trainer_name=after, preset=PRESET).go()


def test_the_origin_of_a_default_training_says_nothing_of_trainer_and_planner(setting, tmp_path):
    with pytest.raises(Killed):
        Run(tmp_path, setting, kill_after=1).go()
    origin = Run(tmp_path, setting).store.load_latest()["origin"]
    assert not {"trainer", "planner"} & set(origin)


def test_a_residual_encoder_is_trained_and_named(tmp_path, setting):
    files = [write_ball(tmp_path, index) for index in range(4)]
    plan = tiny_plan(files, preset=tiny_preset(num_convs_per_stage=1), planner="nnUNetPlannerResEncM")
    patches = write_all_patches(tmp_path / "patches", files, plan)
    run = Run(tmp_path / "run", (plan, patches), preset=tiny_preset(num_epochs=1)).go()
    state = run.store.load_final().state
    assert state["origin"]["planner"] == "nnUNetPlannerResEncM"
    assert np.isfinite(run.reports[0].train_loss)
    load_predictor(state, plan=plan, preset=PRESET, device="cpu")
    assert run.arguments["train_cases"] == CASES[:3]
