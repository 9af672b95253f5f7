"""Texts without what they say of a machine: paths become the name of their file, addresses lose theirs."""

import os
import re
from collections.abc import Sequence

from orchestrator.errors import ConfigError

_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>|,;)\]}]+")
_PATH = re.compile(r"(?:(?<![\w./…])[/~]|(?<!\w)[A-Za-z]:[\\/]|\\\\)[^\s'\"<>|:,;()\[\]{}]+")
_HOST = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\bip-\d+-\d+-\d+-\d+\b")
_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\b(?:hf_|ghp_|xox[a-z]-|sk-)[\w-]{16,}")
_SHORTEST = 4
"""Of a location that is looked for: `/` and `.` are in every text."""


def redacted(text: str, *, locations: Sequence[str] = ()) -> str:
    """Return a text without paths, addresses, keys and machines; `locations` are removed whole, also with spaces."""
    for location in sorted(filter(_is_telling, locations), key=len, reverse=True):
        text = text.replace(location, "…")
    text = _ADDRESS.sub(lambda found: _last(found[0]), text)
    text = _PATH.sub(lambda found: _last(found[0]), text)
    return _HOST.sub("(machine)", _KEY.sub("(key)", text))


def check_tells_nothing(name: str, content: bytes, *, locations: Sequence[str]) -> None:
    """Raise ConfigError for a file that holds one of the locations or a key: it cannot be packed as it is."""
    text = content.decode(errors="replace")
    found = [location for location in filter(_is_telling, locations) if location in text]
    if found or _KEY.search(text):
        what = f"the path {found[0]}" if found else "what looks like a secret key"
        raise ConfigError(
            f"{name}: holds {what}, which nobody else should read; expected a file that can be handed on. Take it out; "
            "comments count as well, and a study file with another content is that of another run"
        )


def telling_locations(*locations: str) -> tuple[str, ...]:
    """Return places that no text of a bundle may hold: the given ones and the home folder."""
    return tuple(dict.fromkeys(filter(_is_telling, (*locations, os.path.expanduser("~")))))  # noqa: PTH111


def _is_telling(location: str) -> bool:
    return len(location) > _SHORTEST


def _last(path: str) -> str:
    """Return the name of the file at a path or address; that of a folder may be a person's, and is left out."""
    _, _, rest = path.partition("?")[0].rpartition("://")
    parts = re.split(r"[\\/]", rest.rstrip("\\/.…"))
    return parts[-1] if len(parts) > 1 and "." in parts[-1] else "…"
