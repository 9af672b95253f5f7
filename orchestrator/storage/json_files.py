"""Small records as JSON."""

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import IntegrityError
from orchestrator.storage.interface import Storage


def read_json(storage: Storage, key: str) -> Any:
    """Return what a file holds; raises IntegrityError if that is not JSON."""
    try:
        return json.loads(storage.read_bytes(key))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{storage.location}/{key}: not JSON ({error}); expected what a run has written. Remove it to have it "
            "written again"
        ) from error


def write_json(storage: Storage, key: str, record: Mapping[str, Any]) -> None:
    """Write a file, whole or not at all."""
    storage.write_bytes(key, json.dumps(record, indent=1).encode())
