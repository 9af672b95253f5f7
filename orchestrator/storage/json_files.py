"""Small records as JSON."""

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.storage.interface import Storage


def read_json(storage: Storage, key: str) -> Any:
    """Return what a file holds."""
    return json.loads(storage.read_bytes(key))


def write_json(storage: Storage, key: str, record: Mapping[str, Any]) -> None:
    """Write a file, whole or not at all."""
    storage.write_bytes(key, json.dumps(record, indent=1).encode())
