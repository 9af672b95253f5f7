"""What a trainer class has of its own beside nnU-Net's, and how one that loads checkpoints in its own way is fed."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from orchestrator.training.plain_state import State

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

_OURS = f"{__name__.partition('.')[0]}."
"""What the names of our modules begin with."""


def overridden(trainer: type, names: Sequence[str]) -> list[str]:
    """Return which methods of nnU-Net's trainer a trainer class has its own of, or has beside them.

    Those that it has of one of our classes do not count.
    """
    return [
        name for name in names if getattr(_whose(trainer, name), name, None) is not getattr(nnUNetTrainer, name, None)
    ]


def _whose(trainer: type, name: str) -> type:
    """Return the class, none of ours, of which a trainer class has a method; nnU-Net's trainer if there is no other."""
    kinds = (kind for kind in trainer.__mro__ if name in vars(kind) and not kind.__module__.startswith(_OURS))
    return next(kinds, nnUNetTrainer)


def load_as_nnunet(trainer: "nnUNetTrainer", state: State, *, named: "type[nnUNetTrainer]") -> None:
    """Let a trainer class with its own `load_checkpoint`, as those of several stages have, read a file of nnU-Net's.

    The network, the optimiser and the log are to be restored afterwards, as those of any other.
    """
    wanted = ("network_weights", "optimizer_state", "grad_scaler_state", "current_epoch")
    checkpoint = {key: state[key] for key in wanted}
    checkpoint |= {"logging": trainer.logger.get_checkpoint(), "_best_ema": None, "init_args": {}}
    checkpoint["inference_allowed_mirroring_axes"] = trainer.inference_allowed_mirroring_axes
    init_arguments = trainer.my_init_kwargs
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        path = Path(folder) / "checkpoint_latest.pth"
        torch.save(checkpoint, path)
        named.load_checkpoint(trainer, str(path))
    trainer.my_init_kwargs = init_arguments
