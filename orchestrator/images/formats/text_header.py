"""What MetaImage and NRRD have in common: a header of lines that says where the voxels are, here or in another file."""

import errno
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from orchestrator.images.formats.nifti import check_finite
from orchestrator.images.image_header import ImageHeader
from orchestrator.images.problem import Fault
from orchestrator.images.stored_voxels import (
    Encoding,
    ReadBuffer,
    begins_as_nifti,
    check_expands,
    check_room,
    cut_short,
    expand,
    largest_stored,
    read_at_most,
    too_long,
)

LARGEST_HEADER = 1 << 20
_LONGEST_NUMBER = 40
"""Letters of a number that is written out; with 17 digits, sign and exponent it has 24."""
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredVoxels:
    """What a header says of the bytes of the voxels."""

    path: Path
    """The file that they are in."""
    encoding: Encoding
    first_byte: int
    """In that file."""
    num_lines: int = 0
    """To be skipped behind that."""
    num_skipped: int = 0
    """Bytes to be skipped, of what is expanded; -1: whatever is before the last of them."""


def read_voxels(stored: StoredVoxels, header: ImageHeader, buffer: ReadBuffer) -> NDArray[np.generic]:
    """Read the voxels (z, y, x) of a volume; raises Fault."""
    check_size(stored, header)
    if stored.encoding is Encoding.TEXT:
        return _read_text(stored, header, buffer)
    ahead = max(0, stored.num_skipped)
    num_bytes = header.num_bytes + ahead
    limit = largest_stored(num_bytes, encoding=stored.encoding)
    with stored.path.open("rb") as file:
        _skip_lines(file, stored, header)
        if stored.num_skipped < 0 and stored.encoding is Encoding.RAW:
            file.seek(-num_bytes, 2)
        content = read_at_most(file, limit + 1)
    if len(content) > limit:
        raise too_long(num_bytes)
    expanded = expand(content, encoding=stored.encoding, num_bytes=num_bytes, buffer=buffer)
    voxels = header.voxels(expanded, first_byte=ahead if stored.num_skipped >= 0 else expanded.size - num_bytes)
    check_finite(voxels)
    return voxels


def check_size(stored: StoredVoxels, header: ImageHeader) -> None:
    """Raise Fault if the voxels are in no file, in one that cannot hold so many, or not where the header says.

    A header beside a NIfTI file is common, and the header in that is mistaken for voxels.
    """
    try:
        is_there = stored.path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        is_there = False
    if not is_there:
        raise Fault(
            f"a header whose voxels are in {stored.path.name:.80}, which is no file",
            expected="one file beside it",
            advice="Put it there.",
        )
    if stored.encoding is Encoding.TEXT:
        num_bytes = math.prod(header.geometry.size)  # a digit each
    else:
        num_bytes = header.num_bytes + max(0, stored.num_skipped)
    num_stored = stored.path.stat().st_size - stored.first_byte
    check_room(num_bytes, num_stored=max(0, num_stored), encoding=stored.encoding)
    if stored.num_skipped == 0:
        with stored.path.open("rb") as file:
            _skip_lines(file, stored, header)
            if begins_as_nifti(file, encoding=stored.encoding):
                raise Fault(
                    f"voxels that begin with the header of a NIfTI file ({stored.path.name:.80})",
                    expected="a header that skips it",
                    advice="Write `byte skip: -1` into that of NRRD, `HeaderSize = -1` into that of MetaImage.",
                )


def check_whole(stored: StoredVoxels, header: ImageHeader) -> None:
    """Raise Fault if the voxels are cut short or damaged, as their number and checksums tell; none is kept."""
    check_size(stored, header)
    if stored.encoding is Encoding.TEXT:
        _read_text(stored, header, ReadBuffer())
    elif stored.encoding is not Encoding.RAW:
        with stored.path.open("rb") as file:
            _skip_lines(file, stored, header)
            num_bytes = header.num_bytes + max(0, stored.num_skipped)
            check_expands(file, encoding=stored.encoding, num_bytes=num_bytes)


def _skip_lines(file: IO[bytes], stored: StoredVoxels, header: ImageHeader) -> None:
    """Go to what is behind the header and the lines that are to be skipped; raises Fault if the file ends before."""
    file.seek(stored.first_byte)
    for _ in range(stored.num_lines):
        if not file.readline(LARGEST_HEADER):
            raise cut_short(0, num_bytes=header.num_bytes)


def _read_text(stored: StoredVoxels, header: ImageHeader, buffer: ReadBuffer) -> NDArray[np.generic]:
    """Read numbers that are written out."""
    num_voxels = math.prod(header.geometry.size)
    voxels = buffer.take(header.num_bytes).view(header.dtype.newbyteorder("="))
    num_read = 0
    with stored.path.open("rb") as file:
        _skip_lines(file, stored, header)
        if stored.path.stat().st_size - file.tell() > largest_stored(num_voxels, encoding=stored.encoding):
            raise too_long(num_voxels)
        for words in _words(file):
            end = num_read + len(words)
            if end <= num_voxels:
                voxels[num_read:end] = _numbers(words, voxels.dtype)
            num_read = end
    if num_read != num_voxels:
        raise Fault(f"{num_read} numbers", expected=f"{num_voxels} by its header", advice="Write it again.")
    check_finite(voxels)
    return voxels.reshape(header.geometry.size[::-1])


def _words(file: IO[bytes]) -> Iterator[list[bytes]]:
    """Yield what stands between blanks and commas, piece by piece: all of it at once would take far more memory."""
    begun = b""
    while piece := file.read(_PIECE_BYTES).replace(b",", b" "):
        words = (begun + piece).split()
        begun = b"" if piece[-1:].isspace() else words.pop()
        yield words
        if len(begun) > _LONGEST_NUMBER:
            break
    yield [begun] if begun else []


def _numbers(words: list[bytes], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Return numbers that are written out; raises Fault for what is none of this type."""
    longest = max(words, key=len, default=b"")
    if len(longest) > _LONGEST_NUMBER:  # in an array of texts each takes as much
        raise _no_numbers(f"{longest[:_LONGEST_NUMBER]!r}... of {len(longest)} letters", dtype)
    try:
        return np.array(words).astype(dtype)
    except (ValueError, OverflowError) as error:
        raise _no_numbers(str(error), dtype) from error


def _no_numbers(found: str, dtype: np.dtype[np.generic]) -> Fault:
    return Fault(
        f"voxels that are no numbers of its type ({found})",
        expected=f"numbers that {dtype.name} can hold",
        advice="Write it again.",
    )


def fields_once(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the fields of a header by name; raises Fault if one is there twice and says something else."""
    found: dict[str, str] = {}
    for name, value in fields:
        if found.setdefault(name, value) != value:
            raise Fault(
                f"{name} = {found[name][:80]!r} and {name} = {value[:80]!r} in one header",
                expected="one of them",
                advice="Remove the wrong one.",
            )
    return found
