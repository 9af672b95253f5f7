"""Patch files of a training at hand: those of a remote storage are fetched once a machine.

The cache is a private folder of this user. Files lie in it under their digest. A training that uses one holds a hard
link to it in a folder of its own, so a file may be evicted at any moment and stays with whoever has it. Locks are
`flock`s: they end with their process.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path

from orchestrator.errors import IntegrityError
from orchestrator.patches.record import PatchRecord
from orchestrator.storage.cache_room import excess_bytes
from orchestrator.storage.interface import Storage
from orchestrator.storage.local import LocalStorage
from orchestrator.storage.private_folder import cache_folder, open_lock

logger = logging.getLogger(__name__)

LIMIT_BYTES = 64 * 1024**3
"""Size of the cache above which the files that were used longest ago are removed."""

_IN_USE_PREFIX = "in-use-"
_PARTIAL = ".partial"
_LOCK = ".lock"
_NUM_TRIES = 2


class PatchCache:
    """A folder of this machine, shared by all processes of one user."""

    def __init__(self, folder: Path | None = None, *, limit_bytes: int = LIMIT_BYTES) -> None:
        """Prepare; without a folder it is this user's cache, made when something is to be fetched."""
        self._given = folder
        self._limit_bytes = limit_bytes

    @cached_property
    def _folder(self) -> Path:
        if self._given is None:
            return cache_folder("patches")
        self._given.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._given

    @contextmanager
    def gathered(self, storage: Storage, records: Mapping[str, PatchRecord]) -> Iterator[Path]:
        """Context with a folder that holds files under their own names, for reading only; records are by their keys.

        Files of a local or shared folder are linked to and their sizes compared; others are fetched, once for all
        processes that want them at the same time, and compared with their digests.

        Raises
        ------
        IntegrityError
            If a file is not what its record says.
        StorageError
            If one cannot be fetched.
        """
        if isinstance(storage, LocalStorage):
            with tempfile.TemporaryDirectory(prefix=_IN_USE_PREFIX) as name:
                for key, record in records.items():
                    path = storage.fetch(key).resolve()
                    record.check_size(path, name=str(path))
                    (Path(name) / path.name).symlink_to(path)
                yield Path(name)
            return
        with self._folder_in_use() as folder:
            for key, record in records.items():
                self._link(storage, key, record, folder / Path(key).name)
            yield folder

    @contextmanager
    def _folder_in_use(self) -> Iterator[Path]:
        """Context with a folder beside the cached files, which nobody sweeps as long as this process lives."""
        with ExitStack() as stack:
            # Nobody sweeps between the making of the folder and its lock.
            with _locked(self._folder / _LOCK):
                self._sweep()
                name = tempfile.TemporaryDirectory(prefix=_IN_USE_PREFIX, dir=self._folder)
                folder = Path(stack.enter_context(name))
                # Beside the folder: nnU-Net expects files of one kind in it.
                lock = folder.with_suffix(_LOCK)
                # A sweep may take the folder of a process that is just leaving for one that was left behind.
                stack.callback(lock.unlink, missing_ok=True)
                stack.enter_context(_locked(lock))
            yield folder

    def check(self, storage: Storage, key: str, record: PatchRecord) -> None:
        """Compare one file with the size and digest of its record.

        Raises IntegrityError if the file is missing or anything else than was written.
        """
        if not storage.exists(key):
            raise IntegrityError(f"{storage.location}/{key}: no such patch file")
        with self.gathered(storage, {key: record}) as folder:
            record.check((folder / Path(key).name).resolve(), name=f"{storage.location}/{key}")

    def _link(self, storage: Storage, key: str, record: PatchRecord, target: Path) -> None:
        """Give the cached copy of a file, fetched if need be, another name."""
        cached = self._folder / record.sha256
        with _locked(self._folder / f"{record.sha256}{_LOCK}"):
            # Evicted in the meantime, rotted, or cut short because the disk was full: fetched again.
            with suppress(FileNotFoundError):
                if record.matches(cached):
                    os.utime(cached)
                    os.link(cached, target)
                    return
            content = _fetch(storage, key, record)
            self._make_room(record.num_bytes)
            partial = self._folder / f"{record.sha256}{_PARTIAL}"
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, target)
            partial.replace(cached)

    def _make_room(self, num_bytes: int) -> None:
        """Remove the files that were used longest ago, but for those in use: they would free nothing."""
        with _locked(self._folder / _LOCK):
            files = []
            for path in self._folder.iterdir():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if path.is_file():
                        files.append((status.st_mtime_ns, status.st_size, status.st_nlink, path))
            excess = excess_bytes(
                self._folder,
                num_bytes=num_bytes,
                cached_bytes=sum(size for _, size, _, _ in files),
                limit_bytes=self._limit_bytes,
            )
            for _, size, num_links, path in sorted(files):
                if excess > 0 and size and num_links == 1 and path.suffix != _PARTIAL:
                    path.unlink(missing_ok=True)
                    excess -= size
        if excess > 0:
            logger.warning("%s: %d bytes more than it should have; all else is in use", self._folder, excess)

    def _sweep(self) -> None:
        """Remove what processes that are no more have left."""
        for folder in self._folder.glob(f"{_IN_USE_PREFIX}*/"):
            lock = folder.with_suffix(_LOCK)
            with _if_free(lock) as is_free:
                if is_free:
                    shutil.rmtree(folder, ignore_errors=True)
                    lock.unlink(missing_ok=True)
        for partial in self._folder.glob(f"*{_PARTIAL}"):
            with _if_free(partial.with_suffix(_LOCK)) as is_free:
                if is_free:
                    partial.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that one process, or thread, at a time can have."""
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _if_free(path: Path) -> Iterator[bool]:
    """Hold a lock unless somebody else does; says whether."""
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)


def _fetch(storage: Storage, key: str, record: PatchRecord) -> bytes:
    """Return the content of a file; a wrong one is asked for a second time, since networks err too."""
    for _ in range(_NUM_TRIES):
        content = storage.read_bytes(key)
        if (len(content), hashlib.sha256(content).hexdigest()) == (record.num_bytes, record.sha256):
            return content
    raise IntegrityError(
        f"{storage.location}/{key}: {len(content)} bytes with another digest than {record.sha256[:16]} of "
        f"{record.num_bytes} bytes; write the patches again"
    )
