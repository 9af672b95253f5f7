"""Files in memory: what is made of a run without a place of its own."""

from contextlib import AbstractContextManager
from pathlib import Path

from orchestrator.errors import StorageError
from orchestrator.storage.interface import Storage


class MemoryStorage(Storage):
    """A few small files; what works with local paths finds none."""

    def __init__(self, location: str, *, files: dict[str, bytes] | None = None) -> None:
        self.location = location
        self.files: dict[str, bytes] = dict(files or {})
        """Content by key."""

    def exists(self, key: str) -> bool:
        """Whether a file is there."""
        return self.checked(key) in self.files

    def list_keys(self, prefix: str = "") -> list[str]:
        """Keys of all files below the folder `prefix`, sorted."""
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        return sorted(key for key in self.files if key.startswith(folder))

    def sizes_and_times(self, prefix: str) -> dict[str, tuple[int, int]]:
        """Bytes of each file below the folder `prefix`; they have no times."""
        return {key: (len(self.files[key]), 0) for key in self.list_keys(prefix)}

    def sweep(self) -> None:
        """Do nothing: no write is unfinished."""

    def read_bytes(self, key: str) -> bytes:
        """Content of a file; raises StorageError if it is not there."""
        if not self.exists(key):
            raise StorageError(f"{self.location}/{key}: is not there")
        return self.files[key]

    def write_bytes(self, key: str, data: bytes) -> None:
        """Write or replace a file."""
        self.files[self.checked(key)] = data

    def create_exclusive(self, key: str, data: bytes) -> bool:
        """Write a file that must not exist yet; False, and nothing written, if it does."""
        if self.exists(key):
            return False
        self.write_bytes(key, data)
        return True

    def delete(self, key: str) -> None:
        """Remove a file if it is there."""
        self.files.pop(self.checked(key), None)

    def fetch(self, key: str, *, sha256: str | None = None) -> Path:  # noqa: ARG002 - it has nothing to compare
        """Raise StorageError: what is in memory has no path."""
        raise StorageError(f"{self.location}/{key}: has no path on this machine")

    def writing(self, key: str) -> AbstractContextManager[Path]:
        """Raise StorageError as `fetch` does."""
        raise StorageError(f"{self.location}/{key}: has no path on this machine")

    def free_bytes(self) -> int | None:
        """Return None: nothing limits it."""
        return None
