"""Voxels as files store them, expanded within what a header says: no stream decides how much memory it takes."""

import bz2
import ctypes
import gzip
import io
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import cache
from typing import IO

import deflate
import numpy as np
from numpy.typing import NDArray

from orchestrator.images.memory import available_bytes
from orchestrator.images.problem import Fault

PADDING_BYTES = 4096
"""How much may follow the voxels: tools fill up blocks, or end a line. More is a header that says too little."""
_LARGEST_RATIO = 1032
"""DEFLATE makes nothing smaller than by this."""
_PIECE_BYTES = 1 << 20
_TRAILER_BYTES = 18
"""Of the shortest gzip file."""
_AGAIN = "It is damaged or cut short: write or download it again."


class Encoding(StrEnum):
    """How voxels are stored."""

    RAW = "raw"
    GZIP = "gzip"
    ZLIB = "zlib"
    BZIP2 = "bzip2"
    TEXT = "text"


class ReadBuffer:
    """Memory that files are read into, one after the other: fresh pages would cost more than to expand a file."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return this many bytes, overwriting what was taken before; raises MemoryError rather than to use all."""
        if self._memory.size < size:
            available = available_bytes()
            if available is not None and size > available:
                raise MemoryError(f"{size / 2**30:.1f} GiB of voxels, and {available / 2**30:.1f} GiB of memory left")
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]


def check_room(num_bytes: int, *, num_stored: int, encoding: Encoding) -> None:
    """Refuse a header that promises more than a file of this size can hold."""
    largest = {Encoding.RAW: 1, Encoding.BZIP2: math.inf, Encoding.TEXT: 8}.get(encoding, _LARGEST_RATIO)
    if num_bytes > largest * num_stored:
        if encoding in {Encoding.RAW, Encoding.TEXT}:
            raise cut_short(num_stored, num_bytes=num_bytes, what="the file")
        raise Fault(
            f"a file of {num_stored} bytes whose header says that {num_bytes} bytes are compressed in it",
            expected="a header that describes the file",
            advice=_AGAIN,
        )


def largest_stored(num_bytes: int, *, encoding: Encoding) -> int:
    """Return the most bytes that the voxels take in a file: what cannot be made smaller grows.

    The quickest compressors, as ITK has one for level 1, write up to 9 bits for each 8.
    """
    if encoding is Encoding.TEXT:
        return 32 * num_bytes + PADDING_BYTES
    return num_bytes + PADDING_BYTES + (0 if encoding is Encoding.RAW else num_bytes // 8 + (1 << 16))


def read_at_most(stream: IO[bytes], num_bytes: int) -> bytes:
    """Read up to so many bytes.

    `read` asks for the memory of all of them at once, so that is for files that are known to have them. Of others they
    are read piece by piece, which takes them twice in the end.
    """
    try:
        num_left = os.fstat(stream.fileno()).st_size - stream.tell()
    except (OSError, AttributeError):  # in an archive, of zip and tar
        num_left = 0
    if num_left > 0:
        return stream.read(min(num_bytes, num_left))
    pieces = []
    while num_bytes > 0 and (piece := stream.read(min(num_bytes, _PIECE_BYTES))):
        pieces.append(piece)
        num_bytes -= len(piece)
    return b"".join(pieces)


def expand(
    stored: bytes, *, encoding: Encoding, num_bytes: int, buffer: ReadBuffer, what: str = "voxels"
) -> NDArray[np.uint8]:
    """Expand the stored bytes of a file.

    Parameters
    ----------
    stored
        All of them, with the checksum behind.
    num_bytes
        What the header says; up to PADDING_BYTES more are returned if they are there.
    buffer
        Memory for the result, which is good until something else is expanded into it.
    what
        What they are, for messages.

    Raises
    ------
    Fault
        If they are damaged, cut short, or more than the header says.
    MemoryError
        If this machine has not that much left.
    """
    check_room(num_bytes, num_stored=len(stored), encoding=encoding)
    limit = num_bytes + PADDING_BYTES
    with _expanding(encoding):
        content = _expanded(stored, encoding=encoding, num_bytes=num_bytes, limit=limit, buffer=buffer)
    if content.size < num_bytes:
        raise cut_short(content.size, num_bytes=num_bytes, what=what)
    if content.size > limit:
        raise too_long(num_bytes)
    return content


def check_expands(stored: IO[bytes], *, encoding: Encoding, num_bytes: int) -> None:
    """Expand what is left of a file, piece by piece, and keep nothing of it; raises Fault as `expand`."""
    num_found = 0
    with _expanding(encoding):
        for piece in _pieces(stored, encoding=encoding):
            num_found += len(piece)
            if num_found > num_bytes + PADDING_BYTES:
                raise too_long(num_bytes)
    if num_found < num_bytes:
        raise cut_short(num_found, num_bytes=num_bytes)


@contextmanager
def _expanding(encoding: Encoding) -> Iterator[None]:
    """Raise what is said of a damaged stream as Fault."""
    try:
        yield
    except (EOFError, OSError, zlib.error, ValueError) as error:
        raise Fault(
            f"a truncated or damaged file ({error})", expected=f"a whole {encoding} stream", advice=_AGAIN
        ) from error


def begins_as_nifti(stored: IO[bytes], *, encoding: Encoding) -> bool:
    """Whether what is left of a file begins as NIfTI does; False if that cannot be told."""
    start = stored.read(PADDING_BYTES)
    if encoding in {Encoding.GZIP, Encoding.ZLIB}:
        try:
            start = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(start, 348)
        except zlib.error:
            return False
    return start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0"


def _pieces(stored: IO[bytes], *, encoding: Encoding) -> Iterator[bytes]:
    if encoding is Encoding.ZLIB:
        yield from _pieces_of_zlib(stored)
        return
    stream = bz2.BZ2File(stored) if encoding is Encoding.BZIP2 else gzip.GzipFile(fileobj=stored)
    while piece := stream.read(_PIECE_BYTES):
        yield piece


def _pieces_of_zlib(stored: IO[bytes]) -> Iterator[bytes]:
    expander = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip, whatever its first bytes say
    while not expander.eof:
        content = expander.unconsumed_tail or stored.read(_PIECE_BYTES)
        piece = expander.decompress(content, _PIECE_BYTES)
        if not content and not piece:
            raise EOFError("cut short")
        yield piece


def cut_short(num_found: int, *, num_bytes: int, what: str = "voxels") -> Fault:
    """Return the fault of a file that holds less than its header says."""
    return Fault(f"{num_found} bytes of {what}", expected=f"{num_bytes} bytes by its header", advice=_AGAIN)


def too_long(num_bytes: int) -> Fault:
    """Return the fault of a file that holds more than its header says."""
    return Fault(
        f"more than the {num_bytes} bytes that its header says",
        expected="a header that describes all of the file",
        advice="The header was changed or belongs to another file: write it again.",
    )


def _expanded(
    stored: bytes, *, encoding: Encoding, num_bytes: int, limit: int, buffer: ReadBuffer
) -> NDArray[np.uint8]:
    if encoding is Encoding.GZIP:
        return _expand_gzip(stored, num_bytes=num_bytes, limit=limit, buffer=buffer)
    if encoding is Encoding.BZIP2:
        return _read_into(bz2.BZ2File(io.BytesIO(stored)), buffer.take(limit + 1))
    if encoding is Encoding.ZLIB:
        return _fill(buffer.take(limit + 1), _pieces_of_zlib(io.BytesIO(stored)))
    return np.frombuffer(stored, np.uint8)


def _expand_gzip(stored: bytes, *, num_bytes: int, limit: int, buffer: ReadBuffer) -> NDArray[np.uint8]:
    stated = int.from_bytes(stored[-4:], "little")
    # Files of several members state the size of the last one.
    if len(stored) >= _TRAILER_BYTES and num_bytes <= stated <= limit:
        expanded = _expand_one_member(stored, buffer.take(stated))
        if expanded is not None:
            return expanded
    with gzip.GzipFile(fileobj=io.BytesIO(stored)) as stream:
        return _read_into(stream, buffer.take(limit + 1))


def _fill(content: NDArray[np.uint8], pieces: Iterator[bytes]) -> NDArray[np.uint8]:
    """Return what pieces fill: zlib itself would hold all of them, and all of it at once."""
    filled = 0
    for piece in pieces:
        end = min(content.size, filled + len(piece))
        content[filled:end] = np.frombuffer(piece, np.uint8, count=end - filled)
        filled = end
        if filled == content.size:
            break
    return content[:filled]


def _read_into(stream: gzip.GzipFile | bz2.BZ2File, content: NDArray[np.uint8]) -> NDArray[np.uint8]:
    view, filled = content.data, 0
    while filled < content.size and (num_read := stream.readinto(view[filled:])):
        filled += num_read
    return content[:filled]


def _expand_one_member(stored: bytes, content: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Expand one gzip member that fills `content`; None if that is not what it does."""
    library = _libdeflate()
    if library is None:
        try:
            expanded = deflate.gzip_decompress(stored, content.size)
        except (deflate.DeflateError, ValueError):
            return None
        return np.frombuffer(expanded, np.uint8) if len(expanded) == content.size else None
    decompressor = library.libdeflate_alloc_decompressor()
    try:
        # Without a place for the actual size it is an error if there is less.
        failed = library.libdeflate_gzip_decompress(
            decompressor, stored, len(stored), content.ctypes.data, content.size, None
        )
    finally:
        library.libdeflate_free_decompressor(decompressor)
    return None if failed else content


@cache
def _libdeflate() -> ctypes.CDLL | None:
    """Return the library inside of the package `deflate`, whose own functions cannot write into memory of ours."""
    library = ctypes.CDLL(deflate._deflate.__file__)  # noqa: SLF001
    try:
        library.libdeflate_alloc_decompressor.restype = ctypes.c_void_p
        library.libdeflate_free_decompressor.argtypes = [ctypes.c_void_p]
        library.libdeflate_gzip_decompress.argtypes = [
            *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p),
        ]
    except AttributeError:
        # Not every wheel lets its library be seen.
        return None
    return library
