"""The environment variables through which Ray is told of its authentication token, and the token itself."""

import os
import secrets
import stat
from pathlib import Path

from orchestrator.errors import ConfigError

AUTH_MODE = "RAY_AUTH_MODE"
AUTH_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"

HEAD_JOB = {
    # Where a machine is taken away before a training has begun there, the next takes minutes to start; by default Ray
    # Train gives up its workers after 60 s and asks anew.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",
}
"""Environment of the driver on the head of a cluster that grows and shrinks."""


LAUNCHED_FROM = "ORCHESTRATOR_LAUNCHED_FROM"
"""Of such a driver: the cluster file by which it was launched, on the machine of whoever did so."""


def token_path() -> Path:
    """Return the file with the cluster's token: what RAY_AUTH_TOKEN_PATH says, or Ray's own place."""
    named = os.environ.get(AUTH_TOKEN_PATH)
    return (Path(named) if named else Path.home() / ".ray" / "auth_token").expanduser().absolute()


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
        If the file is empty, or can be read by other users of this machine.
    """
    path = token_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create(path)
    return use_token(path)


def use_token(path: Path) -> Path:
    """Like `ensure_token`, for the token of a cluster that exists: a missing file is a ConfigError."""
    path = path.expanduser().absolute()
    read_token(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"{path}: other users may read this token; expected mode 600. Run: chmod 600 {path}")
    os.environ[AUTH_MODE] = "token"
    os.environ[AUTH_TOKEN_PATH] = str(path)
    return path


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


def _create(path: Path) -> None:
    """Write a new token that only this user can read; one of two racing processes wins."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
