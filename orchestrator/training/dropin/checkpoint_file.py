"""Checkpoints as nnU-Net reads them, written whole or not at all, and read without running anything in them."""

from pathlib import Path

import numpy as np
import torch

from orchestrator.errors import DataError, IntegrityError
from orchestrator.storage.local import LocalStorage
from orchestrator.training.nnunet.foreign_weights import load_weights
from orchestrator.training.plain_state import State

PLACE = "orchestrator_place"
"""Key of what nnU-Net does not know: where exactly the training goes on."""


def write_checkpoint(path: Path, state: State) -> None:
    """Write a checkpoint; one of that name that is there is replaced when the new one is whole on the disk."""
    with LocalStorage(str(path.parent)).writing(path.name) as temporary:
        torch.save(_plain(state), temporary)


def read_checkpoint(path: Path) -> State:
    """Return a checkpoint, its tensors in the memory of the CPU.

    Raises IntegrityError if it is not whole, or would have to be run.
    """
    try:
        return load_weights(path, mapped=False)
    except DataError as error:
        raise IntegrityError(f"{error}; remove it to go on from another one, or from epoch 0") from error


def _plain(value: object) -> object:
    """Return a value with Python's numbers for those of numpy, and lists for its arrays."""
    match value:
        case np.generic():
            return value.item()
        case np.ndarray():
            return value.tolist()
        case dict() if type(value) is dict:
            return {_plain(key): _plain(one) for key, one in value.items()}
        case list():
            return [_plain(one) for one in value]
        case tuple():
            return tuple(_plain(one) for one in value)
    return value
