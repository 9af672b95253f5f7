"""Files in a local or shared folder."""

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import StorageError
from orchestrator.storage.interface import TEMPORARY_PREFIX, Storage, is_plain

CLOSED_FOLDERS = {"lost+found", "System Volume Information", "$RECYCLE.BIN"}
"""What file systems have at the root of a disk for themselves; hidden folders are of others as well."""
_OF_WRITING = {errno.EFBIG, errno.EIO, errno.ESTALE}
"""What is said without the name of a file: of a limit (`ulimit -f`), a disk, a network."""
_OF_NO_FILE = {errno.ENOENT, errno.ELOOP}
"""What is said of a link that leads nowhere, or to itself, and of a file that was removed since it was listed."""
_LEFT_OF_NAME = 48
"""Characters, of at most 4 bytes each, of a name in that of its unfinished write."""
_LEVELS_WITH_FILES = 3
"""Of folders below the location, as in cases/DATASET/CASE."""
STALE_AFTER_S = 86400.0
"""Age after which an unfinished write belongs to nobody."""


class LocalStorage(Storage):
    """A folder; it is made when the first file is written."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._root = Path(location)

    def exists(self, key: str) -> bool:
        """Whether a file is there."""
        with _errors(self._path(key), "look at"):
            return self._path(key).is_file()

    def list_keys(self, prefix: str = "") -> list[str]:
        """Keys of all files below the folder `prefix`, sorted; also those in folders that are linked to."""
        # Under other names lies what nobody has written through here, and nobody can read.
        return sorted(filter(is_plain, self._relative_paths(prefix)))

    def list_unreadable(self) -> list[str]:
        """Relative paths of files that are no keys."""
        return sorted(path for path in self._relative_paths("") if not is_plain(path))

    def sizes_and_times(self, prefix: str) -> dict[str, tuple[int, int]]:
        """Bytes of each file below the folder `prefix`, and when it was written; links that lead nowhere are none."""
        found = {}
        for key in self.list_keys(prefix):
            try:
                status = self._path(key).stat()
            except OSError as error:
                if error.errno in _OF_NO_FILE:
                    continue
                raise storage_error(self._path(key), "look at", error) from error
            found[key] = (status.st_size, status.st_mtime_ns)
        return found

    def sweep(self) -> None:
        """Remove unfinished writes older than a day."""
        for path in self._walk(""):
            if path.name.startswith(TEMPORARY_PREFIX):
                _sweep(path)

    def unwritable_folders(self, *, among: Collection[str]) -> list[str]:
        """Return in which folders, down to the third level, this user can make no file: the top one and these."""
        found = []
        for folder, folders, _ in os.walk(self._root):
            here = Path(folder)
            if not os.access(here, os.W_OK | os.X_OK):
                found.append(folder)
            if here == self._root:
                folders[:] = [name for name in folders if name in among]
            elif len(here.relative_to(self._root).parts) == _LEVELS_WITH_FILES:
                folders.clear()
        return found

    def _relative_paths(self, prefix: str) -> Iterator[str]:
        paths = (path for path in self._walk(prefix) if not path.name.startswith(TEMPORARY_PREFIX))
        return (path.relative_to(self._root).as_posix() for path in paths)

    def _path(self, key: str) -> Path:
        return self._root / self.checked(key)

    def _walk(self, prefix: str) -> Iterator[Path]:
        """Yield all files, but not those behind links that lead back."""
        top = self._path(prefix.rstrip("/")) if prefix else self._root
        for folder, folders, names in os.walk(top, onerror=_refuse_unlisted, followlinks=True):
            here = Path(folder)
            with _errors(here, "list"):
                folders[:] = [name for name in folders if not _leads_back(here / name, root=self._root)]
            yield from (here / name for name in names)

    def read_bytes(self, key: str) -> bytes:
        """Content of a file; raises StorageError if it is not there."""
        with _errors(self._path(key), "read"):
            return self._path(key).read_bytes()

    def write_bytes(self, key: str, data: bytes) -> None:
        """Write or replace a file."""
        with self.writing(key) as path:
            path.write_bytes(data)

    def create_exclusive(self, key: str, data: bytes) -> bool:
        """Write a file that must not exist yet: a hard link is made by one racer only."""
        target = self._path(key)
        with self._temporary(target) as temporary:
            with _errors(target, "create"):
                temporary.write_bytes(data)
                flush(temporary)
            return _link(temporary, target)

    def delete(self, key: str) -> None:
        """Remove a file if it is there."""
        path = self._path(key)
        with _errors(path, "delete"), suppress(FileNotFoundError):
            # Looked for first: a file system that is only read refuses to remove what is not there as well.
            path.lstat()
            path.unlink()

    def fetch(self, key: str, *, sha256: str | None = None) -> Path:  # noqa: ARG002 - it may be large
        """Return the path of the file itself."""
        if not self.exists(key):
            raise StorageError(f"{self._path(key)}: no such file")
        return self._path(key)

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Context with a temporary path beside the target; flushed and renamed at the end.

        Of the errors of the `with` block itself, only those that concern the file become StorageErrors.
        """
        target = self._path(key)
        with self._temporary(target) as temporary:
            try:
                yield temporary
            except OSError as error:
                if is_full(error) or error.errno in _OF_WRITING or error.filename == str(temporary):
                    raise storage_error(target, "write", error) from error
                raise
            with _errors(target, "write"):
                flush(temporary)
                temporary.replace(target)

    def free_bytes(self) -> int | None:
        """Free space of the file system that holds the folder."""
        root = self._root.resolve()
        with _errors(root, "measure the free space of"):
            existing = next(path for path in (root, *root.parents) if path.exists())
            return shutil.disk_usage(existing).free

    @contextmanager
    def _temporary(self, target: Path) -> Iterator[Path]:
        """Context with a free path in the folder of the target that is removed at the end."""
        with _errors(target, "write"):
            target.parent.mkdir(parents=True, exist_ok=True)
            # The mode follows the umask, and the folder's default rules; mkstemp's does not.
            # The end alone, which tells what is written: a name may be as long as file systems let it be.
            end = target.name[-_LEFT_OF_NAME:]
            temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}-{end}")
            temporary.touch(exist_ok=False)
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the digest of a file of this machine, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_full(error: OSError) -> bool:
    """Whether an error says that a disk or a quota is full."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def storage_error(
    target: object, action: str, error: OSError, *, advice: str = "Free space or choose another --output"
) -> StorageError:
    """Return the error of the storage for one of the system, naming `target`; `advice` is for a full disk."""
    if is_full(error):
        return StorageError(f"{target}: no space left to {action} it. {advice}")
    return StorageError(f"{target}: cannot {action} it: {error.strerror or error}")


@contextmanager
def _errors(target: Path, action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(target, action, error) from error


def _link(temporary: Path, target: Path) -> bool:
    """Give a written file its name; False if another file has it."""
    try:
        # A hard link fails where the name is taken, also on network file systems, where O_EXCL with a later write
        # would show half a file.
        os.link(temporary, target)
    except FileExistsError:
        # A network file system may repeat a request whose answer was lost, and then refuse its own link.
        return temporary.stat().st_nlink > 1
    except OSError as error:
        if error.errno in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
            raise StorageError(
                f"{target}: cannot create it: this file system has no hard links, by which one of several writers "
                "wins. Choose an --output on another file system or in a bucket"
            ) from error
        raise storage_error(target, "create", error) from error
    return True


def flush(path: Path) -> None:
    """Force a file to the disk, so that its name never appears before its content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _refuse_unlisted(error: OSError) -> None:
    """Raise for a folder that is there but cannot be listed; its files would seem to be gone."""
    name = Path(error.filename).name
    if name.startswith(".") or name in CLOSED_FOLDERS:
        return
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise storage_error(Path(error.filename), "list", error) from error


def _leads_back(path: Path, *, root: Path) -> bool:
    """Whether a folder is a link to one on the way to it, or above."""
    if not path.is_symlink():
        return False
    target, way = path.resolve(), path.parent
    above = [way, *(parent for parent in way.parents if parent.is_relative_to(root))]
    return any(folder.resolve().is_relative_to(target) for folder in above)


def _sweep(path: Path) -> None:
    with _errors(path, "sweep"):
        try:
            if time.time() - path.stat().st_mtime > STALE_AFTER_S:
                path.unlink()
        except FileNotFoundError:
            pass  # its writer has just finished
