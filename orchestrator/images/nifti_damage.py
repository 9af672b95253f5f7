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
_RELATIVE_TOLERANCE = 1e-2
"""Of two spacings of one header."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Where the voxels of a file are."""

    first_byte: int
    num_voxels: int
    num_bits: int
    """Of a voxel."""
    float_dtype: str
    """Of numpy; empty for other numbers."""
    spacings_mm: tuple[tuple[float, ...], ...]
    """(x, y, z), in each of the ways in which the header gives it."""

    @property
    def num_bytes(self) -> int:
        return self.first_byte + self.num_voxels * self.num_bits // 8


def check_nifti(path: Path) -> None:
    """Look whether a NIfTI file is whole; one without a header that can be read is left to ITK, which tells.

    Raises
    ------
    DataError
        If the file is cut short, its compressed content is damaged, a voxel is NaN or infinite, or its header gives two
        different spacings.
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
    if not np.allclose(layout.spacings_mm, layout.spacings_mm[0], rtol=_RELATIVE_TOLERANCE):
        by_pixdim, by_sform = (" x ".join(f"{step:g}" for step in spacing) for spacing in layout.spacings_mm)
        raise DataError(
            f"{path}: voxels of {by_pixdim} mm (x, y, z) by pixdim and of {by_sform} mm by the sform of its header; "
            "expected one size. Write it again with the right one"
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
        (has_sform,) = struct.unpack_from(f"{order}h", content, 254)
        sform = np.array(struct.unpack_from(f"{order}12f", content, 280)).reshape(3, 4)
        by_sform = (tuple(np.linalg.norm(sform[:, :3], axis=0).tolist()),) if has_sform > 0 else ()
        if 1 <= num_axes <= 7 and min(extents[:num_axes]) > 0 and math.isfinite(first_byte):
            return _Layout(
                first_byte=int(first_byte),
                num_voxels=math.prod(extents[:num_axes]),
                num_bits=num_bits,
                float_dtype=order + _FLOATS[datatype] if datatype in _FLOATS else "",
                spacings_mm=(struct.unpack_from(f"{order}3f", content, 80), *by_sform),
            )
    return None
