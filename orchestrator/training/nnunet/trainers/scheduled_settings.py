"""What of a training may change in its midst: learning rate, momentum, weight decay and where patches are placed."""

from typing import TYPE_CHECKING

from orchestrator.benchmark.presets import Preset
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from orchestrator.training.nnunet.trainers.exact_trainer import ExactTrainer


def take_over_settings(trainer: "ExactTrainer", preset: Preset) -> None:
    """Let a trainer go on with what a preset says; what it leaves open stays as it is.

    It is the same whether a training came to this epoch or goes on from a checkpoint, its own or that of another one.
    Raises ConfigError if optimiser or schedule of the trainer cannot have it.
    """
    rate = preset.initial_learning_rate
    if rate is not None and rate != trainer.initial_lr:
        if not hasattr(trainer.lr_scheduler, "initial_lr"):
            raise ConfigError(
                f"{trainer.named.__name__} has a learning rate schedule of its own ({_name(trainer.lr_scheduler)}); "
                "expected nnU-Net's polynomial decay, where the initial learning rate changes during a training"
            )
        trainer.initial_lr = trainer.lr_scheduler.initial_lr = rate
    for group in trainer.optimizer.param_groups:
        if preset.weight_decay is not None:
            group["weight_decay"] = preset.weight_decay
        if preset.momentum is not None:
            _set_momentum(group, preset.momentum, optimizer=trainer.optimizer)
    oversampling = preset.oversample_foreground
    if oversampling is not None and oversampling != trainer.oversampling_of_all:
        trainer.oversample(oversampling)
        trainer.make_other_batches()


def _set_momentum(group: dict[str, object], momentum: float, *, optimizer: "torch.optim.Optimizer") -> None:
    match group:
        case {"momentum": _}:
            group["momentum"] = momentum
        case {"betas": (_, second)}:
            group["betas"] = (momentum, second)
        case _:
            raise ConfigError(f"momentum {momentum:g}: {_name(optimizer)} has none; expected SGD or AdamW")


def _name(thing: object) -> str:
    return type(thing).__name__
