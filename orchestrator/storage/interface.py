"""The few operations that every place for files offers."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"
"""File names that begin so are unfinished writes: never listed, swept when they are old."""


class Storage(ABC):
    """Files under one location, addressed by keys with `/`; every write is atomic: whole or not at all.

    Instances can be pickled and sent to other processes.
    """

    location: str
    """Folder or `s3://` prefix."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether a file is there."""

    @abstractmethod
    def list_keys(self, prefix: str = "") -> list[str]:
        """Keys of all files below the folder `prefix`, sorted; temporary files are left out."""

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
    def fetch(self, key: str) -> Path:
        """Local path with the content of a file, for reading only; raises StorageError if it is not there.

        On a file system this is the file itself, on S3 a copy in a local cache.
        """

    @abstractmethod
    def writing(self, key: str) -> AbstractContextManager[Path]:
        """Context with a local path to write to; the file appears under `key` when the context ends without error.

        The path ends like the key, so writers that look at the file ending work.
        """

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free space, or None where there is no limit to be known."""
