"""The few operations that every place for files offers."""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from orchestrator.errors import DataError

TEMPORARY_PREFIX = ".tmp-"
"""File names that begin so are unfinished writes: never listed, swept when they are old."""
_MAX_NAME_BYTES, _MAX_KEY_BYTES = 255, 1024
"""What file systems, and buckets, let names have."""
_BYTES = frozenset(map(chr, range(0xDC80, 0xDD00)))
"""What stands for a byte that is no text in the name of a file, which a bucket cannot have."""


class Storage(ABC):
    """Files under one location, addressed by keys with `/`; every write is atomic: whole or not at all.

    A key is a plain relative path; any other is refused by every operation with a DataError, since strangers may choose
    it: whoever can write to a bucket, or to a record that names files. Instances can be pickled and sent to other
    processes.
    """

    location: str
    """Folder, or prefix of a bucket such as `s3://bucket/prefix`."""
    is_remote: ClassVar[bool] = False
    """Whether each operation is a request, which takes time and money."""

    def checked(self, key: str) -> str:
        """Return the key of a file; raises DataError as `plain`, or if it is longer than names can be everywhere."""
        self.plain(key)
        lengths = [len(part.encode(errors="surrogateescape")) for part in (key, *key.split("/"))]
        if lengths[0] > _MAX_KEY_BYTES or max(lengths[1:]) > _MAX_NAME_BYTES:
            raise DataError(
                f"{self.location}: {_short(key)} is too long for the name of a file; expected at most "
                f"{_MAX_NAME_BYTES} bytes a part and {_MAX_KEY_BYTES} in all. Shorten it"
            )
        return key

    def plain(self, key: str) -> str:
        """Return a key; raises DataError if it could lead out of the location or is no name of a file."""
        if not is_plain(key) or (self.is_remote and any(map(_is_half, key))):
            raise DataError(
                f"{self.location}: {_short(key)} is not the name of a file that is read or written; expected a plain "
                "relative path, without '..', empty parts, backslashes and control characters. Rename or remove it"
            )
        return key

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether a file is there."""

    @abstractmethod
    def list_keys(self, prefix: str = "") -> list[str]:
        """Keys of all files below the folder `prefix`, sorted; temporary files are left out."""

    def list_unreadable(self) -> list[str]:
        """Relative paths of files that are no keys, which nothing here can read; a bucket with one cannot be listed."""
        return []

    @abstractmethod
    def sizes_and_times(self, prefix: str) -> dict[str, tuple[int, int]]:
        """Bytes of each file below the folder `prefix`, and when it was written, in nanoseconds, by key."""

    @abstractmethod
    def sweep(self) -> None:
        """Remove unfinished writes that nobody can be at any more."""

    @abstractmethod
    def read_bytes(self, key: str) -> bytes:
        """Content of a file; raises StorageError if it is not there."""

    @abstractmethod
    def write_bytes(self, key: str, data: bytes) -> None:
        """Write or replace a file."""

    @abstractmethod
    def create_exclusive(self, key: str, data: bytes) -> bool:
        """Write a file that must not exist yet; False, and nothing written, if it does. One of many racers wins."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a file if it is there."""

    @abstractmethod
    def fetch(self, key: str, *, sha256: str | None = None) -> Path:
        """Local path with the content of a file, for reading only; raises StorageError if it is not there.

        On a file system this is the file itself, of a bucket a copy in a local cache, which stays as long as
        `orchestrator.storage.copies.keeping_copies` says and is compared with its digest if one is given.
        """

    @abstractmethod
    def writing(self, key: str) -> AbstractContextManager[Path]:
        """Context with a local path to write to; the file appears under `key` when the context ends without error.

        The path ends like the key, so writers that look at the file ending work.
        """

    def unwritable_folders(self, *, among: Collection[str]) -> list[str]:  # noqa: ARG002 - a bucket has none
        """Return in which folders, down to the third level, this user can make no file: the top one and these."""
        return []

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free space, or None where there is no limit to be known."""


def is_plain(key: str) -> bool:
    """Whether a key is a plain relative path."""
    is_name = not any(unicodedata.category(one) == "Cc" or (_is_half(one) and one not in _BYTES) for one in key)
    return is_name and "\\" not in key and {"", ".", ".."}.isdisjoint(key.split("/"))


def _is_half(character: str) -> bool:
    """Whether it is half a character of UTF-16, as JSON can hold it."""
    return unicodedata.category(character) == "Cs"


def _short(key: str) -> str:
    return repr(key) if len(key) <= 100 else f"{key[:80]!r} ..."
