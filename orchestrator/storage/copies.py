"""Copies of objects in a cache of this machine: each is fetched once for all of its processes, and stays while in use.

A copy lies in a folder of its own. Whoever fetches it, removes it or notes that it is in use holds the lock of this
folder, which therefore outlasts the copy. The notes are empty files in a folder of whoever uses copies; its lock ends
with its process, so that one that was killed keeps none.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import cache, cached_property
from pathlib import Path

from orchestrator.errors import StorageError
from orchestrator.storage.cache_room import excess_bytes
from orchestrator.storage.local import flush
from orchestrator.storage.private_folder import cache_folder, if_free, locked, locked_folder, make_locked

logger = logging.getLogger(__name__)

CACHE_LIMIT_BYTES = 64 * 1024**3
"""Size of the cache above which the copies that were used longest ago are removed."""

_IN_USE = "in-use"
_CONTENT, _PARTIAL, _FACTS = "content", "partial", "facts"
"""In the folder of a copy: it, what is being fetched, and how the copy looks, which is written at each use."""
_NUM_TRIES = 2


class _Uses:
    """Notes of which copies are in use; their folder is made with the first one."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    @cached_property
    def folder(self) -> Path:
        return self._stack.enter_context(locked_folder(_cache_folder() / _IN_USE))


_uses: ContextVar[_Uses | None] = ContextVar("uses", default=None)


@contextmanager
def keeping_copies() -> Iterator[None]:
    """Context until whose end nobody removes the copies that are fetched in it; each is there until the innermost ends.

    What is fetched outside of any stays until the process ends.
    """
    with ExitStack() as stack:
        token = _uses.set(_Uses(stack))
        stack.callback(_uses.reset, token)
        yield


def fetched(name: str, *, version: str, num_bytes: int, download: Callable[[Path], None]) -> Path:
    """Return the path of a copy; of several processes that want the same one, one fetches it and the others wait.

    A copy is taken for what was fetched if it is the same file, of the same size and time: its folder is of this user
    alone.

    Parameters
    ----------
    name
        Of the object, location included.
    version
        Of the object: another one for another content.
    num_bytes
        What it takes.
    download
        Writes the object to a path.

    Raises
    ------
    StorageError
        If the object comes with another size, twice.
    """
    folder = _cache_folder() / hashlib.sha256(f"{name} {version}".encode()).hexdigest()
    folder.mkdir(exist_ok=True)
    # Made before room is: what processes that have died used is in use no more.
    notes = _notes()
    with locked(folder):
        if not _is_whole(folder, name):
            _make_room(num_bytes)
            _fetch(folder, download, name=name, num_bytes=num_bytes)
        os.utime(folder / _FACTS)
        (notes / folder.name).touch()
    return _copy_in(folder, name)


def _cache_folder() -> Path:
    return cache_folder("buckets")


def _notes() -> Path:
    """Return the folder that names what is in use here."""
    uses = _uses.get()
    return uses.folder if uses else _notes_of_process(_cache_folder() / _IN_USE)


@cache
def _notes_of_process(root: Path) -> Path:
    """Return a folder whose lock ends with the process."""
    return make_locked(root)[0]


def _fetch(folder: Path, download: Callable[[Path], None], *, name: str, num_bytes: int) -> None:
    """Write a copy; it appears when it is whole."""
    copy, partial = _copy_in(folder, name), folder / _PARTIAL / Path(name).name
    shutil.rmtree(partial.parent, ignore_errors=True)  # of a process that was killed
    partial.parent.mkdir()
    try:
        for _ in range(_NUM_TRIES):
            download(partial)
            found_bytes = partial.stat().st_size
            if found_bytes == num_bytes:
                break
        else:
            raise StorageError(
                f"{name}: {found_bytes} bytes came; expected {num_bytes}. It may have been replaced just now: try again"
            )
        flush(partial)
        copy.parent.mkdir(exist_ok=True)
        partial.replace(copy)
        (folder / _FACTS).write_text(_facts_of(copy), encoding="ascii")
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)


def _copy_in(folder: Path, name: str) -> Path:
    return folder / _CONTENT / Path(name).name


def _facts_of(copy: Path) -> str:
    status = copy.stat()
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _is_whole(folder: Path, name: str) -> bool:
    """Whether a copy is there and still what was fetched."""
    try:
        return _facts_of(_copy_in(folder, name)) == (folder / _FACTS).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _make_room(num_bytes: int) -> None:
    """Remove what was used longest ago, and is not in use, as long as the cache or its disk is too full for more."""
    cached = []
    for folder in _cache_folder().iterdir():
        with suppress(FileNotFoundError, NotADirectoryError):  # another process trims too
            files = [path.lstat() for path in folder.rglob("*") if not path.is_dir()]
            if files and folder.name != _IN_USE:
                used_ns = max(status.st_mtime_ns for status in files)
                cached.append((used_ns, sum(status.st_size for status in files), folder))
    cached_bytes = sum(size for _, size, _ in cached)
    excess = excess_bytes(
        _cache_folder(), num_bytes=num_bytes, cached_bytes=cached_bytes, limit_bytes=CACHE_LIMIT_BYTES
    )
    for _, size, folder in sorted(cached):
        if excess > 0 and _is_emptied(folder):
            excess -= size
    if excess > 0:
        logger.warning("%s: %d bytes more than it should have; all else is in use", _cache_folder(), excess)


def _is_emptied(folder: Path) -> bool:
    """Remove a copy, whole or not, unless somebody uses or fetches it; says whether."""
    with if_free(folder) as is_free:
        if not is_free or any((_cache_folder() / _IN_USE).glob(f"*/{folder.name}")):
            return False
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return True
