"""The state of a training as data: a tree in JSON, and the tensors of it in the format of safetensors.

A pickle, which torch saves, is a program that runs when it is read. Here nothing can run: JSON holds the tree, with
`{"tuple": [...]}`, `{"dict": [[key, value], ...]}`, `{"scalar": [dtype, number]}` of numpy, and `{"tensor": name}` or
`{"array": name}` (numpy's) in place of what lies among the tensors. A tensor is named after its place, as
`network_weights/encoder.stages.0...`, and several places may share one, as the encoder of nnU-Net's decoder does.
`"axes"` tells the order of its axes in memory where that is not the usual one: kernels may round differently for
another.
"""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from orchestrator.errors import IntegrityError, TrainingError

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls them."""
_SCALARS = {
    np.dtype(kind).str: kind
    for kind in (
        *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float16, np.float32, np.float64),
    )
}
_UNREADABLE = (AssertionError, LookupError, OverflowError, RuntimeError, SafetensorError, TypeError, ValueError)
"""What the two formats raise for other bytes; a tree that is too deep is a RuntimeError."""
_LENGTH_BYTES = 8
_ALIGNMENT = 8
"""Of the tensors, as safetensors itself aligns them."""

State = dict[str, Any]
"""What a checkpoint holds, by name: plain values, containers of them, tensors."""


class _Tensors:
    """The tensors of a state by name, each in the memory once."""

    def __init__(self) -> None:
        self.by_name: dict[str, torch.Tensor] = {}
        self._names: dict[tuple[object, ...], str] = {}

    def add(self, tensor: torch.Tensor, place: str) -> State:
        """Return what stands for a tensor in the tree."""
        if tensor.dtype not in _DTYPES or tensor.layout != torch.strided:
            raise TrainingError(f"{place}: a tensor of {tensor.dtype}, {tensor.layout}, which checkpoints do not hold")
        view = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        axes = sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))
        if tensor.is_contiguous() or axes == list(range(tensor.ndim)):
            axes = []
        name = self._names.get(view)
        if name is None or not tensor.numel():
            name = place
            while name in self.by_name:
                name += "'"
            self._names[view] = name
            self.by_name[name] = tensor.detach().permute(axes) if axes else tensor.detach()
        return {"tensor": name, "axes": axes} if axes else {"tensor": name}


def write_state(state: State, sink: io.BytesIO) -> None:
    """Append a state to `sink`: the length of the tree in 8 bytes, the tree, the tensors.

    Raises TrainingError for a value that is neither a tensor or array nor of a plain type.
    """
    tensors = _Tensors()
    tree = json.dumps(_encoded(dict(state), "", tensors), separators=(",", ":")).encode()
    sink.write(len(tree).to_bytes(_LENGTH_BYTES, "big") + tree)
    _write_tensors(tensors.by_name, sink)


def read_state(content: memoryview) -> State:
    """Return the state that `write_state` wrote; raises IntegrityError (without a name) if it is none."""
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big")
    try:
        tensors = load(bytes(content[end:]))
        state = _decoded(json.loads(bytes(content[_LENGTH_BYTES:end])), tensors)
    except _UNREADABLE as error:
        raise IntegrityError(f"not the state of a training ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict):
        raise IntegrityError(f"the state of a training is a {type(state).__name__}; expected a dict")
    return state


def _encoded(value: object, place: str, tensors: _Tensors) -> object:
    """Return a value as JSON knows it."""
    match value:
        case torch.Tensor():
            return tensors.add(value, place)
        case np.ndarray():
            return {"array": tensors.add(torch.from_numpy(np.array(value, order="C")), place)["tensor"]}
        case np.generic() if value.dtype.str in _SCALARS:
            return {"scalar": [value.dtype.str, value.item()]}
        case dict() | list() | tuple():
            return _encoded_parts(value, place, tensors)
    if value is None or type(value) in {bool, int, float, str}:
        return value
    raise TrainingError(f"{place}: a {type(value).__name__}; expected a tensor, an array or a plain type in a state")


def _encoded_parts(
    value: dict[object, object] | list[object] | tuple[object, ...], place: str, tensors: _Tensors
) -> object:
    if isinstance(value, dict):
        pairs = [(_encoded(key, place, tensors), f"{place}/{key}".lstrip("/"), one) for key, one in value.items()]
        return {"dict": [[key, _encoded(one, name, tensors)] for key, name, one in pairs]}
    items = [_encoded(item, f"{place}/{index}", tensors) for index, item in enumerate(value)]
    return {"tuple": items} if isinstance(value, tuple) else items


def _decoded(value: Any, tensors: Mapping[str, torch.Tensor]) -> object:
    """Return the value that `_encoded` expressed."""
    match value:
        case list():
            decoded: object = [_decoded(item, tensors) for item in value]
        case {"tuple": [*items]}:
            decoded = tuple(_decoded(item, tensors) for item in items)
        case {"dict": [*pairs]}:
            decoded = {_decoded(key, tensors): _decoded(one, tensors) for key, one in pairs}
        case {"scalar": [dtype, number]}:
            decoded = _SCALARS[dtype](number)
        case {"array": name}:
            decoded = tensors[name].numpy()
        case {"tensor": name, "axes": axes}:
            decoded = tensors[name].permute(*np.argsort(axes).tolist())
        case {"tensor": name}:
            decoded = tensors[name]
        case dict():
            raise ValueError(f"an entry with {', '.join(value)[:80]}")
        case _:
            decoded = value
    return decoded


def _write_tensors(tensors: Mapping[str, torch.Tensor], sink: io.BytesIO) -> None:
    """Append tensors as `safetensors.torch.save` gives them, which would hold them three times on the way."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    sink.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
    for tensor in tensors.values():
        sink.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
