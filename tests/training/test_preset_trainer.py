"""Claims about what a preset changes of nnU-Net's trainer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import tiny_plan, tiny_preset, write_ball
from torch._inductor import config as compiler

from orchestrator.training.nnunet.trainers import exact_trainer
from orchestrator.training.nnunet.trainers.preset_trainer import PresetTrainer

PRESET = tiny_preset()


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    return tiny_plan([write_ball(folder, index) for index in range(4)], preset=PRESET, configuration="3d_fullres")


def trainer_of(plan, preset, tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path))
    trainer = PresetTrainer(
        {**plan.plans, "continue_training": False}, plan.configuration, 0, plan.dataset_json, torch.device("cpu")
    )
    trainer._preset, trainer.initial_lr = preset, preset.initial_learning_rate
    trainer._log = lambda _: None
    trainer.network = torch.nn.Linear(1, 1)
    return trainer


OVERFLOWS = {
    "one overflows": (True, [1.0, np.nan, 3.0], [1.0, 3.0]),
    "all overflow": (True, [np.nan, np.inf], [np.nan, np.inf]),
    "full precision": (False, [1.0, np.nan], [1.0, np.nan]),
}
"""Whether precision is mixed, the losses of an epoch, and those that count."""


@pytest.mark.parametrize("case", OVERFLOWS)
def test_an_iteration_that_overflows_in_mixed_precision_does_not_count(case, plan, tmp_path, monkeypatch):
    mixed, losses, counted = OVERFLOWS[case]
    trainer = trainer_of(plan, PRESET, tmp_path, monkeypatch)
    lines = []
    trainer._log, trainer.grad_scaler, trainer._losses = lines.append, object() if mixed else None, losses
    np.testing.assert_array_equal(trainer._losses_that_count(), counted)
    assert len(lines) == (len(counted) < len(losses))


COMPILING = {
    "long": (250_000, "", True),
    "short": (100, "", False),
    "without a compiler": (250_000, "a C compiler is missing", False),
}
"""Iterations of a training, why the machine cannot compile, and whether the network is compiled."""


@pytest.mark.parametrize("case", COMPILING)
def test_a_network_is_compiled_where_it_pays_and_the_machine_can(case, plan, tmp_path, monkeypatch):
    num_iterations, obstacle, compiles = COMPILING[case]
    trainer = trainer_of(plan, PRESET, tmp_path, monkeypatch)
    lines = []
    trainer._log, trainer.device = lines.append, torch.device("cuda")
    trainer.num_epochs, trainer.num_iterations_per_epoch = 1, num_iterations
    monkeypatch.delenv("nnUNet_compile", raising=False)
    monkeypatch.setattr(exact_trainer, "obstacle_to_compiling", lambda: obstacle)
    with compiler.patch(compile_threads=16):
        assert trainer._do_i_compile() == compiles
        assert not compiles or compiler.compile_threads == 1
    assert sum("a C compiler is missing" in line for line in lines) == bool(obstacle)


def test_the_paper_keeps_nnunets_optimiser_and_mirror_axes(plan, tmp_path, monkeypatch):
    preset = replace(PRESET, optimizer="nnunet", initial_learning_rate=1e-2, mirror_axes=None)
    trainer = trainer_of(plan, preset, tmp_path, monkeypatch)
    optimizer, scheduler = trainer.configure_optimizers()
    assert type(optimizer) is torch.optim.SGD
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (1e-2, 0.99, True, 3e-5)
    assert type(scheduler).__name__ == "PolyLRScheduler"
    assert trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] == (0, 1, 2)
    assert trainer.inference_allowed_mirroring_axes == (0, 1, 2)


def test_a_preset_can_leave_out_the_axis_between_left_and_right(plan, tmp_path, monkeypatch):
    trainer = trainer_of(plan, replace(PRESET, mirror_axes=(0, 1)), tmp_path, monkeypatch)
    assert trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] == (0, 1)
    assert trainer.inference_allowed_mirroring_axes == (0, 1)
