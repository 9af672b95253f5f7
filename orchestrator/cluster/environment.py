"""The one place where environment variables and the token of a cluster are read."""

import os
import secrets
from pathlib import Path

TOKEN_PATH = Path("~/.ray/auth_token")
"""Where Ray looks for the token by itself."""


def token_path() -> Path:
    """Return the file with the cluster's token: RAY_AUTH_TOKEN_PATH, or Ray's own place."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", str(TOKEN_PATH))).expanduser()


def ensure_token() -> str:
    """Return the cluster's token; one is made, readable by its owner alone, if there is none."""
    path = token_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
    return path.read_text(encoding="ascii").strip()


def with_token(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return an environment for Ray's commands in which the token is used; the current one is its basis."""
    ensure_token()
    base = dict(os.environ) if environment is None else dict(environment)
    return base | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path())}
