"""Damage of compressed MetaImage and NRRD files that ITK does not see: it skips the checksums of both formats."""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import DataError

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
_GZIP = b"\x1f\x8b"
_ZLIB, _GZIP_FORMAT = 15, 31
"""Window of zlib with the header that a format has."""
_LARGEST_HEADER = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class _Compressed:
    """The voxels of a file as they are stored."""

    data: bytes
    window: int


def check_compressed(path: Path, *, num_bytes: int) -> None:
    """Look whether the compressed voxels of a MetaImage or NRRD file are whole; others are left to ITK, which tells.

    Parameters
    ----------
    path
        The file, or the header if its voxels are in another one.
    num_bytes
        Of the voxels by the header.

    Raises
    ------
    DataError
        If the voxels are cut short or damaged, or it cannot be told where they are.
    """
    is_meta = path.name.lower().endswith((".mha", ".mhd"))
    stored = _meta_image(path) if is_meta else _nrrd(path)
    if stored is None:
        return
    found = _expanded_bytes(stored, path)
    if found < num_bytes:
        raise DataError(f"{path}: {found} bytes of voxels, expected {num_bytes}; write or download it again")


def _expanded_bytes(stored: _Compressed, path: Path) -> int:
    left, num_bytes = stored.data, 0
    while True:
        expander = zlib.decompressobj(stored.window)
        try:
            num_bytes += len(expander.decompress(left))
        except zlib.error as error:
            raise DataError(f"{path}: damaged ({error}); write or download it again") from error
        if not expander.eof:
            raise DataError(f"{path}: cut short; write or download it again")
        left = expander.unused_data
        if not left.startswith(_GZIP):
            return num_bytes


def _beginning(path: Path) -> bytes:
    """Return what is long enough for any header: most files are not compressed, and need not be read a second time."""
    with path.open("rb") as file:
        return file.read(_LARGEST_HEADER)


def _meta_image(path: Path) -> _Compressed | None:
    """Return what the header of a MetaImage says is compressed, which its last field, ElementDataFile, ends."""
    content = _beginning(path)
    end = re.search(rb"^ElementDataFile\s*=\s*(.*?)\s*$", content, re.MULTILINE)
    if end is None:
        return None
    header = content[: end.start()]
    if re.search(rb"^CompressedData\s*=\s*True", header, re.MULTILINE | re.IGNORECASE) is None:
        return None
    name = end[1].decode("utf-8", "replace")
    is_local = name.upper() == "LOCAL"
    data = path.read_bytes()[content.index(b"\n", end.start()) + 1 :] if is_local else _read(path, name)
    return _Compressed(data=data, window=_ZLIB)


def _nrrd(path: Path) -> _Compressed | None:
    """Return what the header of a NRRD file says is compressed; an empty line ends it."""
    content = _beginning(path)
    end = re.search(rb"\r?\n\r?\n", content)
    header = content[: end.start()] if end else content
    if re.search(rb"^encoding:\s*(gzip|gz)\s*$", header, re.MULTILINE | re.IGNORECASE) is None:
        return None
    detached = re.search(rb"^data ?file:\s*(.*?)\s*$", header, re.MULTILINE | re.IGNORECASE)
    if detached is not None:
        return _Compressed(data=_read(path, detached[1].decode("utf-8", "replace")), window=_GZIP_FORMAT)
    return _Compressed(data=path.read_bytes()[end.end() :] if end else b"", window=_GZIP_FORMAT)


def _read(path: Path, name: str) -> bytes:
    """Return the content of the file that a header names."""
    data = path.parent / name
    if not data.is_file():
        raise DataError(f"{path}: its voxels are compressed in {name}; expected one file beside it")
    return data.read_bytes()
