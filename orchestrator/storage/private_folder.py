"""Folders of this machine that other users can neither enter nor exchange, for caches and for the length of a run.

The temporary folder belongs to everybody: whoever is first there can take any name that is known beforehand. What is
found under such a name is therefore used only if it is a folder, no link, of this user, to which nobody else can write.
"""

import fcntl
import logging
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StorageError

logger = logging.getLogger(__name__)

CACHES = "ORCHESTRATOR_CACHES"
"""Environment variable that names the folder below which caches are kept; by default that is the temporary folder."""
MAX_SOCKET_BYTES = 107 if sys.platform == "linux" else 103
"""Of the path of a Unix socket."""

LEAST_FREE_BYTES = 32 * 1024**2
"""For the folder of a run: its logs are small, but with less it would start and then fail."""

_OWN_PREFIX = "orch"
"""Short, so that sockets of Ray have room below `/tmp` for users of any number."""
_LOCKED_PREFIX = "r-"
_REMOVAL_S = 5.0
"""For processes that are just ending, and may write for a moment still."""
_NUM_TRIES = 5
_COMMON = ("/tmp", "/var/tmp", "/dev/shm")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """The folders of one run; they are removed at its end."""

    path: Path
    """Its path is short enough for sockets."""
    temporary: Path
    """The temporary folder of its processes: has a short path too, and the space of this user's temporary folder."""
    caches: Path
    """What CACHES is to name for its processes, so that they use the caches that outlive the run."""


def cache_folder(name: str) -> Path:
    """Return this user's folder for a cache, which all processes of this machine share; it is made if it is missing.

    Raises
    ------
    StorageError
        If there is no folder of this machine in which it could be.
    """
    refusals = []
    for base in _bases(os.environ.get(CACHES)):
        try:
            return _made(base, name)
        except OSError as error:
            refusals.append(_told(base, error))
    raise _no_folder("caches", refusals)


@contextmanager
def run_folder(*, num_below_bytes: int, prefer: str | None = None) -> Iterator[RunFolder]:
    """Context with the folders of a run. What runs that have died left behind is removed first.

    Parameters
    ----------
    num_below_bytes
        Longest path of a socket below the folder.
    prefer
        Where it is to be, if its path is short enough; by default in the temporary folder, or where paths are shorter.

    Raises
    ------
    StorageError
        If there is no folder in which it could be.
    """
    with ExitStack() as stack:
        _tell_if_unusable(os.environ.get("TMPDIR"))
        # Asked for first: the run's processes get another one.
        caches = Path(os.environ.get(CACHES) or _temporary_folder())
        path = stack.enter_context(_short_folder(num_below_bytes=num_below_bytes, prefer=prefer))
        temporary = path / "t"
        roomy = Path(_temporary_folder()).resolve()
        if path.is_relative_to(roomy) or not _has_room(roomy):
            temporary.mkdir()
        else:
            temporary.symlink_to(stack.enter_context(locked_folder(own_folder(roomy))), target_is_directory=True)
        yield RunFolder(path=path, temporary=temporary, caches=caches)


def _made(base: Path, name: str) -> Path:
    """Make a folder in this user's own."""
    for number in range(_NUM_TRIES):
        folder = own_folder(base) / name
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except FileNotFoundError:  # a run that has just ended removes an empty folder
            if number == _NUM_TRIES - 1:
                raise
        else:
            break
    return folder


def own_folder(base: Path) -> Path:
    """Return this user's folder in one that others may write to; raises OSError if there can be none."""
    base = base.resolve()
    for folder in (base, *base.parents):
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise PermissionError(f"{folder}: every user may rename what is in it; expected the sticky bit")
    prefix = f"{_OWN_PREFIX}-{os.geteuid()}"
    usual = base / prefix
    with suppress(FileExistsError):
        usual.mkdir(mode=0o700)
    refusal = _refusal(usual)
    if refusal is None:
        return usual
    others = [folder for folder in sorted(base.glob(f"{prefix}-*")) if _refusal(folder) is None]
    if others:
        return others[0]
    other = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=base))
    logger.warning("%s: %s; expected a folder of this user alone. %s is used instead", usual, refusal, other)
    return other


def _refusal(folder: Path) -> str | None:
    """Return why what lies here cannot be this user's own folder; one that others can only read is closed."""
    try:
        with _opened(folder) as descriptor:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid():
                return f"belongs to user {status.st_uid}"
            if status.st_mode & 0o022:
                return "other users may write to it"
            if status.st_mode & 0o077:
                os.fchmod(descriptor, 0o700)
    except OSError as error:
        return f"cannot be opened as a folder of this user alone ({error.strerror})"
    return None


@contextmanager
def _short_folder(*, num_below_bytes: int, prefer: str | None) -> Iterator[Path]:
    refusals = []
    for base in _bases(prefer):
        try:
            if not _has_room(base):
                refusals.append(_told(base, OSError(f"less than {LEAST_FREE_BYTES // 1024**2} MiB free")))
                continue
            root = own_folder(base)
            num_bytes = len(os.fsencode(root)) + len(f"/{_LOCKED_PREFIX}") + 6 + num_below_bytes
            # Ray takes no other letters.
            if num_bytes > MAX_SOCKET_BYTES or not str(root).isascii():
                what = "is too long for sockets" if num_bytes > MAX_SOCKET_BYTES else "has letters beyond ASCII"
                refusals.append(f"{base}: its path {what}")
                with suppress(OSError):
                    root.rmdir()  # if it is empty
                continue
            with ExitStack() as stack:
                folder = stack.enter_context(locked_folder(root))
                # A full disk lets folders be made, and no files.
                (folder / "probe").write_bytes(b"0" * 65536)
                (folder / "probe").unlink()
                held = stack.pop_all()
        except OSError as error:
            refusals.append(_told(base, error))
            continue
        with held:
            yield folder
        return
    raise _no_folder("the run", refusals)


def _has_room(base: Path) -> bool:
    return shutil.disk_usage(base).free >= LEAST_FREE_BYTES


@contextmanager
def locked_folder(root: Path) -> Iterator[Path]:
    """Context with a new folder in one of this user, by whose lock others know that it is in use.

    What processes that have died left there is removed first.
    """
    folder, descriptor = make_locked(root)
    try:
        yield folder
    finally:
        until_s = time.monotonic() + _REMOVAL_S
        while folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            if time.monotonic() > until_s:
                break
            time.sleep(0.05)
        os.close(descriptor)
        with suppress(OSError):
            root.rmdir()


def make_locked(root: Path) -> tuple[Path, int]:
    """Make a folder as `locked_folder` does, and return it with the descriptor by which its lock is held."""
    for _ in range(_NUM_TRIES):
        # A run that ends removes an empty folder.
        root.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError), locked(root):
            _sweep(root)
            folder = root / f"{_LOCKED_PREFIX}{secrets.token_hex(3)}"
            folder.mkdir(mode=0o700)
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return folder, descriptor
    raise FileNotFoundError(f"{root}: removed again and again")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, no link, which one process or thread at a time has and which ends with its process."""
    with _opened(folder) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def if_free(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder unless somebody else does; says whether."""
    is_free = False
    with _opened(folder) as descriptor:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        yield is_free


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Context with the descriptor of a folder, no link; closing it ends a lock that is held by it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sweep(root: Path) -> None:
    """Remove the folders of runs that have died: nobody holds their lock."""
    for folder in root.glob(f"{_LOCKED_PREFIX}*"):
        with suppress(OSError), if_free(folder) as is_free:
            if is_free:
                shutil.rmtree(folder, ignore_errors=True)


def _bases(first: str | None) -> tuple[Path, ...]:
    """Return the folders in which this user's can be, the one of choice first."""
    return tuple(dict.fromkeys(Path(base) for base in (first, _temporary_folder(), *_COMMON) if base))


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise StorageError(f"{error.strerror}. Free space in one of them, or set TMPDIR to another folder") from error


def where_space_is_short() -> str:
    """Return what helps where a temporary folder or a cache of this user is full."""
    return f"Free space in {os.environ.get(CACHES) or _temporary_folder()}, or set TMPDIR to another folder"


def _tell_if_unusable(named: str | None) -> None:
    """Say if the system has chosen another temporary folder than the one that is named."""
    chosen = _temporary_folder()
    if named and Path(named).resolve() != Path(chosen).resolve():
        logger.warning("TMPDIR %s: full, or cannot be written to. %s is used for temporary files", named, chosen)


def _told(base: Path, error: OSError) -> str:
    """Say that a folder cannot be used, and return why."""
    refusal = f"{base}: {error.strerror or error}"
    logger.warning("%s. Another folder is used for temporary files", refusal)
    return refusal


def _no_folder(what: str, refusals: list[str]) -> StorageError:
    return StorageError(
        f"no folder for {what}: {'; '.join(refusals)}. Set TMPDIR to a folder with free space and a short path"
    )
