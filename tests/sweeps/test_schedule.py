"""Settings that change while a model is trained: what takes effect when, and that a training goes on with it."""

import json
from types import SimpleNamespace

import pytest
import torch
from jsonschema import Draft202012Validator
from tiny_training import Killed, Run, assert_same_weights, tiny_preset, tiny_setting

from orchestrator.benchmark.presets import read_presets
from orchestrator.cli.schemas import schemas
from orchestrator.driver.request import preset_record
from orchestrator.errors import ConfigError
from orchestrator.training.nnunet.trainers.preset_trainer import PresetTrainer
from orchestrator.training.nnunet.trainers.scheduled_settings import take_over_settings

STEPS = [
    {"from_epoch": 1, "initial_learning_rate": 0.02, "momentum": 0.5, "weight_decay": 0.1},
    {"from_epoch": 2, "oversample_foreground": 1.0, "initial_learning_rate": 0.01},
]


def scheduled(*steps, **changes):
    return tiny_preset(**changes).changed_by((("schedule", list(steps)),))


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return tiny_setting(tmp_path_factory.mktemp("scheduled"), preset=tiny_preset())


@pytest.fixture
def seen(monkeypatch):
    """Learning rate, momentum, decay and oversampling of every epoch that begins."""
    found = []
    begin = PresetTrainer.on_train_epoch_start

    def on_train_epoch_start(self):
        begin(self)
        (group,) = self.optimizer.param_groups
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        found.append((group["lr"], momentum, group["weight_decay"], self._loaders[0]._settings.oversample_foreground))

    monkeypatch.setattr(PresetTrainer, "on_train_epoch_start", on_train_epoch_start, raising=False)
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "nnunet"])
def test_each_step_takes_effect_from_its_epoch_and_what_it_leaves_open_stays(setting, tmp_path, seen, optimizer):
    Run(tmp_path, setting, preset=scheduled(*STEPS, optimizer=optimizer, oversample_foreground=0.25)).go()
    momentum, decay = {"adamw": (0.9, 0.01), "nnunet": (0.99, 3e-5)}[optimizer]
    expected = [
        (0.005, momentum, decay, 0.25),
        (0.02 * (2 / 3) ** 0.9, 0.5, 0.1, 0.25),
        (0.01 * (1 / 3) ** 0.9, 0.5, 0.1, 1.0),
    ]
    assert [list(one) for one in seen] == [pytest.approx(list(one)) for one in expected]


def test_a_training_by_a_schedule_that_was_killed_ends_with_the_same_weights(setting, tmp_path):
    preset = scheduled(*STEPS)
    whole = Run(tmp_path / "whole", setting, preset=preset).go()
    for epochs in (1, 2):
        with pytest.raises(Killed):
            Run(tmp_path / str(epochs), setting, preset=preset, kill_after=epochs).go()
        assert_same_weights(Run(tmp_path / str(epochs), setting, preset=preset).go().weights, whole.weights)
    plain = Run(tmp_path / "plain", setting).go()
    assert not all(torch.equal(plain.weights[name], one) for name, one in whole.weights.items())


def test_a_schedule_that_says_what_the_preset_says_changes_nothing(setting, tmp_path):
    same = scheduled({"from_epoch": 0, "initial_learning_rate": 0.005}, {"from_epoch": 1, "momentum": 0.9})
    assert_same_weights(
        Run(tmp_path / "a", setting, preset=same).go().weights, Run(tmp_path / "b", setting).go().weights
    )


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"from_epoch": 1}, {"from_epoch": 1}], "each later than the last"),
        ([{"from_epoch": 2, "momentum": 0.5}, {"from_epoch": 1}], "each later than the last"),
        ([{"from_epoch": 0, "batch_size": 2}], "batch_size"),
        ([{"from_epoch": 0, "momentum": 1.0}], "less than 1"),
        ([{"momentum": 0.5}], "from_epoch"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(steps, message):
    with pytest.raises(ConfigError, match=message):
        read_presets({"own": {"like": "tiny", "schedule": steps}}, known={"tiny": tiny_preset()}, where="x")


def test_a_schedule_is_part_of_the_schemas_and_of_records_of_runs_that_have_one():
    schema = json.loads(dict(schemas())["presets.json"])
    entry = {"own": {"like": "smoke", "schedule": STEPS}}
    assert not list(Draft202012Validator(schema).iter_errors(entry))
    entry["own"]["schedule"] = [{"from_epoch": 0, "momentum": "much"}]
    assert list(Draft202012Validator(schema).iter_errors(entry))
    assert "schedule" not in preset_record(tiny_preset())
    assert preset_record(scheduled(*STEPS))["schedule"][1]["oversample_foreground"] == 1.0


def test_an_optimiser_or_decay_of_its_own_is_refused_where_a_schedule_would_change_it():
    weight = torch.nn.Parameter(torch.zeros(1))
    trainer = SimpleNamespace(
        initial_lr=0.01, lr_scheduler=object(), optimizer=torch.optim.Rprop([weight]), named=PresetTrainer
    )
    with pytest.raises(ConfigError, match="a learning rate schedule of its own"):
        take_over_settings(trainer, tiny_preset())
    with pytest.raises(ConfigError, match="Rprop has none"):
        take_over_settings(trainer, tiny_preset(initial_learning_rate=0.01, momentum=0.5))
