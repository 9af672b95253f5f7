"""Checkpoints as nnU-Net reads them, written whole or not at all, and read without running anything in them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from orchestrator.errors import DataError, IntegrityError, StorageError
from orchestrator.storage.local import LocalStorage
from orchestrator.training.nnunet.foreign_weights import load_weights
from orchestrator.training.plain_state import State

PLACE = "orchestrator_place"
"""Key of what nnU-Net does not know: where exactly the training goes on."""


def write_checkpoint(path: Path, state: State) -> None:
    """Write a checkpoint; one of that name that is there is replaced when the new one is whole on the disk."""
    storage, content = LocalStorage(str(path.parent)), _plain(state)
    with storage.writing(path.name) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:
            # Of a disk that is full torch tells a position in the file; what says something of a GPU has its own class.
            if type(error) is not RuntimeError:
                raise
            free_mib = (storage.free_bytes() or 0) / 2**20
            raise StorageError(
                f"{path}: cannot be written whole ({error}); {free_mib:,.0f} MiB are free there. Make room: --c "
                "goes on from the checkpoint before"
            ) from error


def set_aside(folder: Path, names: Iterable[str]) -> list[str]:
    """Give files of a folder names under which nothing goes on from them; returns these.

    `checkpoint_final.pth` becomes `checkpoint_final_before.pth`, in the place of an older one of that name.
    """
    there = [folder / name for name in names if (folder / name).exists()]
    return [path.replace(path.with_stem(f"{path.stem}_before")).name for path in there]


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
