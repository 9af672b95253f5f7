"""GIPL files (.gipl): whether all voxels are there, by the header; they are read by ITK, which fills up with zeros."""

import math
import struct
from pathlib import Path

from orchestrator.images.problem import Fault, naming
from orchestrator.images.stored_voxels import Encoding, check_room

_HEADER_BYTES = 256
_MAGIC = (4026526128, 719555000)
"""At its end."""
_VOXEL_BYTES = {1: 1, 7: 1, 8: 1, 15: 2, 16: 2, 31: 4, 32: 4, 64: 4, 65: 8}
"""By the number of the type."""


def check_gipl(path: Path) -> None:
    """Raise SourceError if a file is no GIPL or shorter than its header says; the voxels have no checksum."""
    with naming(path):
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
        magic = struct.unpack_from(">I", header, 252)[0] if len(header) == _HEADER_BYTES else None
        *extents, kind = struct.unpack_from(">5H", header) if magic in _MAGIC else (0,)
        if kind not in _VOXEL_BYTES:
            raise Fault(
                f"a file of {path.stat().st_size} bytes without a header of GIPL that can be read",
                expected="a whole GIPL file of one number a voxel",
                advice="Write or download it again.",
            )
        # Axes that are not there have the length 0 or 1.
        num_bytes = _HEADER_BYTES + _VOXEL_BYTES[kind] * math.prod(max(1, extent) for extent in extents)
        check_room(num_bytes, num_stored=path.stat().st_size, encoding=Encoding.RAW)
