"""Copies of objects in a cache of this machine: each is fetched once for all of its processes."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.storage.cache_room import excess_bytes
from orchestrator.storage.interface import TEMPORARY_PREFIX
from orchestrator.storage.local import STALE_AFTER_S, file_sha256
from orchestrator.storage.private_folder import cache_folder, locked

CACHE_LIMIT_BYTES = 64 * 1024**3
"""Size of the cache above which the copies that were used longest ago are removed."""


def fetched(identity: str, *, file_name: str, num_bytes: int, download: Callable[[Path], None]) -> Path:
    """Return the path of a copy; of several processes that want the same one, one fetches it and the others wait.

    Parameters
    ----------
    identity
        Of the object and its version.
    file_name
        Name of the copy.
    num_bytes
        What it takes.
    download
        Writes the object to a path.
    """
    target = _cache_folder() / hashlib.sha256(identity.encode()).hexdigest() / file_name
    target.parent.mkdir(exist_ok=True)
    with locked(target.parent):
        if _is_whole(target):
            os.utime(target)
        else:
            _make_room(num_bytes)
            _fetch(target, download)
    return target


def _cache_folder() -> Path:
    return cache_folder("buckets")


def _fetch(target: Path, download: Callable[[Path], None]) -> None:
    """Write a copy; it appears when it is whole."""
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=_cache_folder()))
    try:
        download(folder / target.name)
        target.parent.mkdir(exist_ok=True)
        _digest_of(target).write_text(file_sha256(folder / target.name), encoding="ascii")
        (folder / target.name).replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _digest_of(target: Path) -> Path:
    """Return the file with the digest of a copy, written before the copy appears."""
    return target.with_name(f"{target.name}.sha256")


def _is_whole(target: Path) -> bool:
    """Whether a copy is there and still what was fetched."""
    try:
        return file_sha256(target) == _digest_of(target).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _make_room(num_bytes: int) -> None:
    """Remove the files that were used longest ago as long as the cache is too large, or its disk too full, for more."""
    copies = []
    for folder in _cache_folder().iterdir():
        with suppress(FileNotFoundError):  # another process trims too
            if files := [path.stat() for path in folder.iterdir()]:
                used = max(status.st_mtime for status in files)
                copies.append((used, sum(status.st_size for status in files), folder))
    cached_bytes = sum(size for _, size, _ in copies)
    excess = excess_bytes(
        _cache_folder(), num_bytes=num_bytes, cached_bytes=cached_bytes, limit_bytes=CACHE_LIMIT_BYTES
    )
    newest = max((used for used, _, _ in copies), default=0.0)
    for used, size, folder in sorted(copies):
        if excess <= 0:
            return
        is_download = folder.name.startswith(TEMPORARY_PREFIX) and newest - used < STALE_AFTER_S
        if not is_download:
            shutil.rmtree(folder, ignore_errors=True)
            excess -= size
