"""What streams of JPEG, JPEG-LS and RLE hold otherwise than their header says, which GDCM does not tell."""

import struct

from orchestrator.images.dicom.elements import EXPORT
from orchestrator.images.dicom.slice import Slice
from orchestrator.images.problem import SourceError

_RLE = "1.2.840.10008.1.2.5"
_JPEG = frozenset(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70, 80, 81))
"""JPEG and JPEG-LS. JPEG 2000 is read by what its stream says, and refused if it has another size."""
_ITEM_BYTES = 8
_FRAMES = frozenset((0xF7, *range(0xC0, 0xD0))) - {0xC4, 0xC8, 0xCC}
"""Markers of the header of a frame."""
_BITS_STORED, _HIGH_BIT = b"\x28\x00\x01\x01US\x02\x00", b"\x28\x00\x02\x01US\x02\x00"
"""How these elements begin; compressed files are of explicit VR and little-endian."""


def check_frame(slice_: Slice, content: bytes) -> None:
    """Refuse a stream of another size than the header says: of a larger one of JPEG-LS, GDCM takes the first voxels."""
    frame = _frame(slice_, content)
    if frame is not None and frame[1:] != slice_.size:
        raise SourceError.of(
            slice_.file,
            found=f"a slice of {frame[1]} x {frame[2]} voxels in its JPEG stream",
            expected=f"{slice_.size[0]} x {slice_.size[1]}, as its header says",
            advice=EXPORT,
        )


def with_all_bits(slice_: Slice, content: bytes) -> bytes | None:
    """Return a file whose header says that all bits of its stream are in use; None where it says so already.

    GDCM cuts off what is above BitsStored. Most files whose streams have more bits have nothing in these, and are read
    right as they are: so the numbers must be looked at.
    """
    stored, frame = slice_.stored, _frame(slice_, content)
    num_bits = stored.num_allocated if slice_.transfer_syntax == _RLE else frame[0] if frame else 0
    if not stored.num_bits < num_bits <= stored.num_allocated or stored.has_overlay:
        return None
    for element, old, new in (
        (_BITS_STORED, stored.num_bits, num_bits),
        (_HIGH_BIT, stored.num_bits - 1, num_bits - 1),
    ):
        content = content.replace(element + struct.pack("<H", old), element + struct.pack("<H", new))
    return content


def _frame(slice_: Slice, content: bytes) -> tuple[int, int, int] | None:
    """Return the bits, columns and rows that a stream of JPEG or JPEG-LS says; None if it is none."""
    if slice_.transfer_syntax not in _JPEG:
        return None
    # Before it is an item with the offsets of all streams.
    at = slice_.pixels.offset
    at += 2 * _ITEM_BYTES + int.from_bytes(content[at + 4 : at + _ITEM_BYTES], "little") + 2
    while len(content) > at + 8 and content[at] == 0xFF:
        if content[at + 1] in _FRAMES:
            bits, rows, columns = struct.unpack_from(">BHH", content, at + 4)
            return bits, columns, rows
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None
