"""Trainers by name, with a preset's length, our checkpoints and our patch files."""

from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.training.nnunet.classes import find_trainer
from orchestrator.training.nnunet.trainers.preset_trainer import PresetTrainer
from orchestrator.training.nnunet.trainers.trainer_overrides import overridden

_TOGETHER = {
    *("initialize", "_do_i_compile", "configure_optimizers", "on_validation_epoch_end", "get_dataloaders"),
    *("configure_rotation_dummyDA_mirroring_and_inital_patch_size", "print_to_log_file"),
}
"""Methods of ours that go on to those of the trainer, or stand for them without any loss."""
_NEVER_CALLED = {"save_checkpoint", "do_split"}
"""Methods of nnU-Net's trainer that have no use here."""


def preset_trainer(name: str) -> type[PresetTrainer]:
    """Return the trainer class of that name as a preset trains with it.

    Raises ConfigError if nnU-Net finds none, or if it has its own way of what is done otherwise here: checkpoints, the
    split, the loop over epochs and what happens at their ends.
    """
    named = find_trainer(name)
    if named is PresetTrainer.named:
        return PresetTrainer
    ours = {method for method, value in vars(PresetTrainer).items() if callable(value) and not method.startswith("__")}
    if own := overridden(named, sorted(ours - _TOGETHER | _NEVER_CALLED)):
        raise ConfigError(
            f"trainer {name}: has its own {', '.join(own)}, which would never be called: checkpoints, the split and "
            "the loop over epochs are this project's. Expected a trainer that changes loss, network, optimiser, "
            "augmentation or a step"
        )
    made: Any = type(name, (PresetTrainer, named), {"named": named, "__module__": __name__})
    trainer: type[PresetTrainer] = made
    return trainer
