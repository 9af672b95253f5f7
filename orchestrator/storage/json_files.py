"""Small records as JSON."""

import json
from collections.abc import Mapping

from orchestrator.errors import IntegrityError
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_values import JsonMapping, JsonObject

Fields = Mapping[str, type | tuple[type, ...]]
"""What a record must have, and of which type."""


def read_json(storage: Storage, key: str, fields: Fields | None = None) -> JsonObject:
    """Return the record that a file holds; raises IntegrityError if it is not JSON, no object or without its fields."""
    try:
        record = json.loads(storage.read_bytes(key))
    except (RecursionError, ValueError) as error:
        raise _not_written(storage, key, f"not JSON ({error})") from error
    if not isinstance(record, dict):
        raise _not_written(storage, key, f"not a record but a {type(record).__name__}")
    for name, types in (fields or {}).items():
        if not isinstance(record.get(name), types):
            found = f"{name} is {record[name]!r:.80}" if name in record else f"{name} is missing"
            raise _not_written(storage, key, f"not the record that it should be: {found}")
    return record


def _not_written(storage: Storage, key: str, found: str) -> IntegrityError:
    return IntegrityError(
        f"{storage.location}/{key}: {found}; expected what a run has written. Remove it to have it written again"
    )


def write_json(storage: Storage, key: str, record: JsonMapping) -> None:
    """Write a file, whole or not at all."""
    storage.write_bytes(key, json.dumps(record, indent=1).encode())
