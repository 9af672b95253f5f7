"""What our trainer leaves to nnU-Net's own, and how it ends where it cannot go on: in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.storage.json_values import JsonObject
from orchestrator.training.dropin.trainer_file import TRAINER


@contextmanager
def ending_in_a_line() -> Iterator[None]:
    """End the process with one line for what is refused; nnU-Net's command would show where in the code it was."""
    try:
        yield
    except OrchestratorError as error:
        raise SystemExit(str(error)) from error


def refuse_what_needs_nnunets_own(plans: JsonObject, configuration: str) -> None:
    """Raise ConfigError for what needs nnU-Net's own trainer."""
    previous = PlansManager(plans).get_configuration(configuration).previous_stage_name
    own = f"expected -tr {nnUNetTrainer.__name__} for it"
    if previous is not None:
        raise ConfigError(
            f"{configuration} is the second stage of a cascade, which {TRAINER} does not train; {own} and for "
            f"{previous}"
        )
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise ConfigError(
            f"-num_gpus {torch.distributed.get_world_size()}: {TRAINER} trains on one GPU, and several trainings side "
            f"by side use several; {own}"
        )
