"""Reads what torch has saved without running any of it.

A pickle is a program: it names functions and their arguments. torch's own reader for weights lets a few through; beside
those, what nnU-Net's checkpoints name of numpy is taken for the plain numbers that it stands for. Whatever else a file
names is refused by that name, and never imported.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from orchestrator.errors import DataError, is_of_a_disk, is_out_of_memory
from orchestrator.training.plain_state import State

_NUMBERS = {
    f"{kind}{size}" for kind, sizes in {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "b": (1,)}.items()
    for size in sizes
}  # fmt: skip
"""Types of numpy that are plain numbers, as its pickles name them."""


class _StoredType:
    """Stands for a numpy type in a pickle."""

    def __init__(self, name: object, *_: object) -> None:
        if name not in _NUMBERS:
            raise pickle.UnpicklingError(f"numpy.dtype({str(name)[:40]})")
        self.name = str(name)

    def __setstate__(self, state: object) -> None:
        """Take nothing over: the order of bytes is always the one that torch writes, little-endian."""


def _number(kind: object, content: object = b"") -> float | int | bool:
    """Return the number that a numpy scalar in a pickle is."""
    if not isinstance(kind, _StoredType) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("numpy.core.multiarray.scalar of no number")
    (number,) = np.frombuffer(content, f"<{kind.name}")
    plain: float | int | bool = number.item()
    return plain


_STAND_INS = [
    (_StoredType, "numpy.dtype"),
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


class _FloatType(_StoredType):
    """Stands for a class of a numpy type, which newer versions name beside the type itself."""


_STAND_INS += [
    (_FloatType, f"numpy.dtypes.{name}DType")
    for name in ("Float16", "Float32", "Float64", "Int32", "Int64", "Bool", "UInt8")
]


def load_weights(path: Path, *, mapped: bool = True) -> State:
    """Return what torch has saved in a file, tensors as they are and numpy's numbers as Python's.

    Tensors that are mapped are read from the file when they are used. Raises DataError, which names what it needs, for
    a file that is more than tensors, numbers, texts and containers of these, or that is none of torch's.
    """
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            # Optimiser and history that are mapped are never read.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and _can_be_mapped(path))
    except Exception as error:
        if is_out_of_memory(error) or is_of_a_disk(error):
            raise
        raise DataError(f"{path}: {_words(error)}") from error
    if not isinstance(state, Mapping):
        raise DataError(f"{path}: holds a {type(state).__name__}; expected a checkpoint of nnU-Net")
    return dict(state)


def _can_be_mapped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _words(error: Exception) -> str:
    """Return what torch says at length, in a line."""
    text = str(error)
    for start, end in (("GLOBAL ", " was not"), ("Unsupported class ", "."), ("GLOBAL ", " whose module")):
        _, found, rest = text.partition(start)
        if found and end in rest:
            name = rest.partition(end)[0]
            return f"wants to run {name[:120]} when it is read; expected weights only, and nothing to run"
    reason = text.strip().splitlines()[0][:200] if text.strip() else type(error).__name__
    return f"cannot be read as weights ({type(error).__name__}: {reason}); expected a checkpoint of nnU-Net"
