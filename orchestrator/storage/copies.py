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

from orchestrator.errors import IntegrityError, StorageError
from orchestrator.storage.local import file_sha256, flush
from orchestrator.storage.private_folder import cache_folder, if_free, locked, locked_folder, make_locked

logger = logging.getLogger(__name__)

CACHE_LIMIT_BYTES = 64 * 1024**3
"""Size of the cache above which the copies that were used longest ago are removed."""
LEFT_BYTES = 1024**3
"""Free space that is left to others: the disk may be smaller than the limit."""

_IN_USE = "in-use"
_CONTENT, _PARTIAL, _FACTS = "content", "partial", "facts"
"""In the folder of a copy: it, what is being fetched, and its facts, in a file that has the time of the last use."""


class _Uses:
    """Notes of which copies are in use; their folder is made with the first one."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    @cached_property
    def folder(self) -> Path:
        return self._stack.enter_context(locked_folder(_cache_folder() / _IN_USE))


_compared: set[tuple[Path, str]] = set()
"""Copies, and their facts, that this process has fetched or read: what is large is read once."""
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


def fetched(
    name: str, *, version: str, num_bytes: int, download: Callable[[Path], None], sha256: str | None = None
) -> Path:
    """Return the path of a copy; of several processes that want the same one, one fetches it and the others wait.

    A copy that another process has fetched is compared with its digest once; after that it is taken for the same if it
    is the same file, of the same size and time: its folder is of this user alone.

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
    sha256
        Digest with which the copy is compared each time.

    Raises
    ------
    StorageError
        If the object comes with another size, twice.
    IntegrityError
        If it comes with another digest, twice.
    """
    folder = _cache_folder() / hashlib.sha256(f"{name} {version}".encode()).hexdigest()
    folder.mkdir(exist_ok=True)
    # Made before room is: what processes that have died used is in use no more.
    notes = _notes()
    with locked(folder):
        if not _is_whole(folder, name, sha256=sha256):
            _make_room(num_bytes)
            _fetch(folder, download, name=name, num_bytes=num_bytes, sha256=sha256)
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


def _fetch(folder: Path, download: Callable[[Path], None], *, name: str, num_bytes: int, sha256: str | None) -> None:
    """Write a copy; it appears when it is whole. A wrong one is fetched once more."""
    # boto3 adds to the name, and that of the object may be as long as names can be.
    copy, partial = _copy_in(folder, name), folder / _PARTIAL / "object"
    shutil.rmtree(partial.parent, ignore_errors=True)  # of a process that was killed
    partial.parent.mkdir()
    try:
        download(partial)
        try:
            _check(partial, name=name, num_bytes=num_bytes, sha256=sha256)
        except (IntegrityError, StorageError):
            # Networks err too.
            download(partial)
            _check(partial, name=name, num_bytes=num_bytes, sha256=sha256)
        flush(partial)
        copy.parent.mkdir(exist_ok=True)
        partial.replace(copy)
        _write_facts(folder, copy, sha256=sha256 or file_sha256(copy))
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)


def _write_facts(folder: Path, copy: Path, *, sha256: str) -> None:
    facts = _facts_of(copy)
    (folder / _FACTS).write_text(f"{facts} {sha256}", encoding="ascii")
    _compared.add((copy, facts))


def _check(partial: Path, *, name: str, num_bytes: int, sha256: str | None) -> None:
    found_bytes = partial.stat().st_size
    if found_bytes != num_bytes:
        raise StorageError(
            f"{name}: {found_bytes} bytes came; expected {num_bytes}. It may have been replaced just now: try again"
        )
    if sha256 is not None and (found := file_sha256(partial)) != sha256:
        raise IntegrityError(f"{name}: SHA-256 {found} of {num_bytes} bytes; expected {sha256}. Write it again")


def _copy_in(folder: Path, name: str) -> Path:
    return folder / _CONTENT / Path(name).name


def _facts_of(copy: Path) -> str:
    status = copy.stat()
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _is_whole(folder: Path, name: str, *, sha256: str | None) -> bool:
    """Whether a copy is there and still what was fetched, and has the digest if one is given."""
    copy = _copy_in(folder, name)
    try:
        facts, _, of_fetched = (folder / _FACTS).read_text(encoding="ascii").rpartition(" ")
        if _facts_of(copy) != facts:
            return False
    except (FileNotFoundError, UnicodeDecodeError):
        return False
    if sha256 is None and (copy, facts) in _compared:
        return True
    is_same = file_sha256(copy) == (sha256 or of_fetched)
    if is_same:
        _compared.add((copy, facts))
    return is_same


def _make_room(num_bytes: int) -> None:
    """Remove what was used longest ago, and is not in use, as long as the cache or its disk is too full for more."""
    cached = []
    for folder in _cache_folder().iterdir():
        with suppress(FileNotFoundError):  # another process trims too
            files = [path.lstat() for path in folder.rglob("*") if not path.is_dir()]
            if files and folder.name != _IN_USE and not folder.is_symlink():
                used_ns = max(status.st_mtime_ns for status in files)
                cached.append((used_ns, sum(status.st_size for status in files), folder))
    cached_bytes, free_bytes = sum(size for _, size, _ in cached), shutil.disk_usage(_cache_folder()).free
    excess = num_bytes + max(cached_bytes - CACHE_LIMIT_BYTES, LEFT_BYTES - free_bytes)
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
