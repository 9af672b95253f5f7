"""Files in a local or shared folder."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import OrchestratorError, StorageError
from orchestrator.storage.filesystem import TEMPORARY_PREFIX, Storage

STALE_AFTER_S = 86400.0
"""Age after which an unfinished write belongs to nobody."""


class LocalStorage(Storage):
    """A folder; it is made when the first file is written."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._root = Path(location)

    def exists(self, key: str) -> bool:
        """Whether a file is there."""
        return (self._root / key).is_file()

    def list_keys(self, prefix: str = "") -> list[str]:
        """Keys of all files below the folder `prefix`, sorted; unfinished writes older than a day are removed."""
        keys = []
        for folder, _, names in os.walk(self._root / prefix):
            for name in names:
                path = Path(folder) / name
                if name.startswith(TEMPORARY_PREFIX):
                    _sweep(path)
                else:
                    keys.append(path.relative_to(self._root).as_posix())
        return sorted(keys)

    def read_bytes(self, key: str) -> bytes:
        """Content of a file; raises StorageError if it is not there."""
        try:
            return (self._root / key).read_bytes()
        except OSError as error:
            raise _storage_error(self._root / key, "read", error) from error

    def write_bytes(self, key: str, data: bytes) -> None:
        """Write or replace a file."""
        with self.writing(key) as path:
            path.write_bytes(data)

    def create_exclusive(self, key: str, data: bytes) -> bool:
        """Write a file that must not exist yet: a hard link is made by one racer only."""
        target = self._root / key
        try:
            with self._temporary(target) as temporary:
                temporary.write_bytes(data)
                _flush(temporary)
                os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            raise _storage_error(target, "create", error) from error
        return True

    def delete(self, key: str) -> None:
        """Remove a file if it is there."""
        (self._root / key).unlink(missing_ok=True)

    def fetch(self, key: str) -> Path:
        """Return the path of the file itself."""
        path = self._root / key
        if not path.is_file():
            raise StorageError(f"{path}: no such file")
        return path

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Context with a temporary path beside the target; flushed and renamed at the end."""
        target = self._root / key
        try:
            with self._temporary(target) as temporary:
                yield temporary
                _flush(temporary)
                temporary.replace(target)
        except OSError as error:
            if isinstance(error, OrchestratorError):
                raise
            raise _storage_error(target, "write", error) from error

    def free_bytes(self) -> int | None:
        """Free space of the file system that holds the folder."""
        existing = next(path for path in (self._root.resolve(), *self._root.resolve().parents) if path.exists())
        return shutil.disk_usage(existing).free

    @contextmanager
    def _temporary(self, target: Path) -> Iterator[Path]:
        """Context with a free path in the folder of the target that is removed at the end."""
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=f"-{target.name}", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o644)
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Force a file to the disk, so that its name never appears before its content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sweep(path: Path) -> None:
    try:
        if time.time() - path.stat().st_mtime > STALE_AFTER_S:
            path.unlink()
    except FileNotFoundError:
        pass  # its writer has just finished


def _storage_error(path: Path, action: str, error: OSError) -> StorageError:
    if error.errno == errno.ENOSPC:
        return StorageError(f"{path}: no space left to {action} it. Free space or choose another --output")
    return StorageError(f"{path}: cannot {action} it: {error.strerror or error}")
