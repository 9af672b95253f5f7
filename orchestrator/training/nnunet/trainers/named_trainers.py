"""Trainers by name, with what one of our classes does otherwise."""

from collections.abc import Collection
from typing import Any, TypeVar

from orchestrator.training.nnunet.classes import find_trainer, refuse_methods
from orchestrator.training.nnunet.trainers.exact_trainer import ExactTrainer
from orchestrator.training.nnunet.trainers.preset_trainer import PresetTrainer
from orchestrator.training.nnunet.trainers.trainer_overrides import overridden

Ours = TypeVar("Ours", bound=ExactTrainer)

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
    return before_trainer(PresetTrainer, name, called=name, together=_TOGETHER, never_called=_NEVER_CALLED)


def before_trainer(
    ours: type[Ours], name: str, *, called: str, together: Collection[str], never_called: Collection[str] = ()
) -> type[Ours]:
    """Return one of our classes put before a trainer class that nnU-Net finds.

    Parameters
    ----------
    ours
        Whose methods stand before those of the trainer.
    name
        Of the trainer.
    called
        Name of the class that is returned.
    together
        Methods of ours that go on to those of the trainer, or stand for them without any loss.
    never_called
        Further methods of nnU-Net's trainer that have no use.

    Raises
    ------
    ConfigError
        If nnU-Net finds no such trainer, or it has its own way of what ours does otherwise.
    """
    named = find_trainer(name)
    if named is ours.named and called in {name, ours.__name__}:
        return ours
    methods = {
        method
        for kind in (ours, ExactTrainer)
        for method, value in vars(kind).items()
        if callable(value) and not method.startswith("__")
    }
    refuse_methods(name, overridden(named, sorted(methods - {*together} | {*never_called})))
    made: Any = type(called, (ours, named), {"named": named, "__module__": __name__})
    trainer: type[Ours] = made
    return trainer
