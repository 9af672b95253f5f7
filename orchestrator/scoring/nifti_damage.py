"""Damage of NIfTI files that ITK does not see: it reads what is missing, and what is no number, as 0 without a word."""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.errors import DataError

_GZIP = b"\x1f\x8b"
_HEADER_BYTES = 348
_FLOATS = {16: "f4", 64: "f8"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Where the voxels of a file are."""

    first_byte: int
    num_voxels: int
    num_bits: int
    """Of a voxel."""
    float_dtype: str
    """Of numpy; empty for other numbers."""

    @property
    def num_bytes(self) -> int:
        return self.first_byte + self.num_voxels * self.num_bits // 8


def check_nifti(path: Path) -> None:
    """Look whether a NIfTI file is whole; one without a header that can be read is left to ITK, which tells.

    Raises
    ------
    DataError
        If the file is cut short, its compressed content is damaged, or a voxel is NaN or infinite.
    """
    content = path.read_bytes()
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: cut short or damaged ({error}); write or download it again") from error
    layout = _layout(content)
    if layout is None:
        return
    if len(content) < layout.num_bytes:
        raise DataError(
            f"{path}: {len(content)} bytes, expected {layout.num_bytes} by its header; write or download it again"
        )
    if layout.float_dtype:
        voxels = np.frombuffer(content, layout.float_dtype, count=layout.num_voxels, offset=layout.first_byte)
        num_bad = layout.num_voxels - int(np.isfinite(voxels).sum())
        if num_bad:
            raise DataError(f"{path}: {num_bad} voxels that are NaN or infinite; expected integer labels")


def _layout(content: bytes) -> _Layout | None:
    """Return what the header of NIfTI-1 says; None if there is none, in neither byte order."""
    for order in "<>":
        if len(content) < _HEADER_BYTES or struct.unpack_from(f"{order}i", content)[0] != _HEADER_BYTES:
            continue
        num_axes, *extents = struct.unpack_from(f"{order}8h", content, 40)
        datatype, num_bits = struct.unpack_from(f"{order}2h", content, 70)
        (first_byte,) = struct.unpack_from(f"{order}f", content, 108)
        if 1 <= num_axes <= 7 and min(extents[:num_axes]) > 0 and math.isfinite(first_byte):
            return _Layout(
                first_byte=int(first_byte),
                num_voxels=math.prod(extents[:num_axes]),
                num_bits=num_bits,
                float_dtype=order + _FLOATS[datatype] if datatype in _FLOATS else "",
            )
    return None
