"""The environment variables through which Ray is told of its authentication token, and the token itself."""

import logging
import os
import secrets
import shlex
import stat
from pathlib import Path

from orchestrator.errors import ConfigError

logger = logging.getLogger(__name__)

AUTH_MODE = "RAY_AUTH_MODE"
AUTH_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
AUTH_TOKEN = "RAY_AUTH_TOKEN"
"""The token itself; Ray prefers it to a file."""
TEMPORARY, RAY_TEMPORARY = "TMPDIR", "RAY_TMPDIR"
COMPILED = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch keeps what it has compiled."""

HEAD_JOB = {
    # Where a machine is taken away before a training has begun there, the next takes minutes to start; by default Ray
    # Train gives up its workers after 60 s and asks anew.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",
}
"""Environment of the driver on the head of a cluster that grows and shrinks."""


FOR_WORKERS = {
    # Of the notebook in which Ray was started: nnU-Net draws its curves without one, and where the package of the
    # notebook is missing it could not be imported.
    "MPLBACKEND": "agg",
}
"""Environment of what carries out a stage, before anything of nnU-Net is imported."""

LAUNCHED_FROM = "ORCHESTRATOR_LAUNCHED_FROM"
"""Of such a driver: the cluster file by which it was launched, on the machine of whoever did so."""


def in_home(path: Path) -> Path:
    """Return a path that may begin with `~`, absolute; raises ConfigError if nothing says where that is."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(
            f"{path}: HOME is not set, and user {os.geteuid()} has no home folder; expected HOME to name one"
        ) from error


def in_shell(path: str) -> str:
    """Return a path as a word of a shell, in which a leading `~/` is the home folder of whoever runs it."""
    return f'"$HOME"/{shlex.quote(path.removeprefix("~/"))}' if path.startswith("~/") else shlex.quote(path)


def token_path() -> Path:
    """Return the file with the cluster's token: what RAY_AUTH_TOKEN_PATH says, or Ray's own place."""
    return in_home(Path(os.environ.get(AUTH_TOKEN_PATH) or "~/.ray/auth_token"))


def ensure_token() -> Path:
    """Turn token authentication on for this process and all that it starts; make the token if there is none.

    Ray reads its environment when it is imported: before that is the time to call this.

    Returns
    -------
    Path
        The file of the token.

    Raises
    ------
    ConfigError
        If the file cannot be made, is empty, belongs to somebody else, or others could exchange it.
    """
    path = token_path()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            create_token(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; expected to write a token there: {AUTH_TOKEN_PATH} names another file"
        ) from error
    return use_token(path)


def use_token(path: Path) -> Path:
    """Like `ensure_token`, for the token of a cluster that exists: a missing file is a ConfigError."""
    path = in_home(path)
    read_token(path)
    close_token(path)
    os.environ[AUTH_MODE] = "token"
    os.environ[AUTH_TOKEN_PATH] = str(path)
    return path


def close_token(path: Path) -> None:
    """Let nobody else read a token: Ray itself makes readable ones, where a program without this project starts it.

    Raises
    ------
    ConfigError
        If that cannot be done, or if others could have put the token there.
    """
    path = path.resolve()
    file, folder = path.stat(), path.parent.stat()
    if file.st_uid not in {0, os.geteuid()}:
        raise ConfigError(f"{path}: this token belongs to user {file.st_uid}; expected one of this user. Remove it")
    try:
        if path.parent.name == ".ray" and folder.st_mode & 0o077:
            path.parent.chmod(0o700)
        if file.st_mode & 0o077:
            path.chmod(0o600)
            logger.warning(
                "%s: other users may have read this token until now; where they are not trusted, end the clusters that "
                "use it and remove it: a new one is made",
                path,
            )
    except OSError as error:
        raise ConfigError(
            f"{path}: other users may read this token; expected mode 600. Run: chmod 600 {path}"
        ) from error
    if path.parent.stat().st_mode & 0o002 and not folder.st_mode & stat.S_ISVTX:
        raise ConfigError(f"{path.parent}: other users may exchange the token; expected mode 700. Run: chmod 700 there")


def close_usual_token() -> None:
    """Do the same for the token that Ray takes by default, if there is one."""
    try:
        path = token_path()
        is_there = path.exists()
    except (OSError, RuntimeError):  # no home folder, or one that cannot be entered
        return
    if is_there:
        close_token(path)


def read_token(path: Path) -> str:
    """Return the token of a file; raises ConfigError if it is missing or empty."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no authentication token ({error}); expected a copy of the cluster's") from error
    if not token:
        raise ConfigError(f"{path}: the authentication token is empty; remove the file and a new one is made")
    return token


def token_headers() -> dict[str, str]:
    """Return the HTTP headers with which a dashboard lets this process in; raises ConfigError without a token."""
    return {"Authorization": f"Bearer {read_token(token_path())}"}


def create_token(path: Path) -> Path:
    """Write a new token that only this user can read, and return its path; one of two racing processes wins.

    Raises OSError if it cannot be written.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links: of two that race the later one wins
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
