"""Whose an output folder is: predictions of one model and its settings, and nothing else in it is overwritten."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.storage.json_values import JsonObject

RECORD = "predict.json"
"""Which model has predicted what lies there, and how."""
TABLE = "predictions.csv"


def check_inputs(output: str, keys: Iterable[str], *, inputs: Iterable[Path]) -> None:
    """Raise ConfigError if a file that is to be written is one of the inputs, whatever it is called there."""
    if open_storage(output).is_remote:
        return
    there = {_place(path): path for path in inputs if path.is_file()}
    for path in (Path(output, key) for key in (RECORD, TABLE, *keys)):
        if path.is_file() and (image := there.get(_place(path))):
            raise ConfigError(
                f"{path}: would be written over {image}, which is to be predicted; expected an output folder of its "
                "own. Choose another output"
            )


def _place(path: Path) -> tuple[int, int]:
    """Return what is the same of one file under all its names."""
    status = path.stat()
    return status.st_dev, status.st_ino


def claim(output: str, identity: Mapping[str, object], *, keys: Iterable[str]) -> None:
    """Mark a folder as that of a model and its settings; one in which nothing was predicted yet becomes theirs.

    Raises ConfigError where others have predicted, and for a file of `keys` that is there though nobody has.
    """
    storage = open_storage(output)
    if not storage.exists(RECORD):
        if foreign := next(filter(storage.exists, keys), None):
            raise ConfigError(
                f"{output}: {foreign} is there, and no {RECORD} that says by which model it was predicted; expected an "
                "output folder of its own. Choose another output"
            )
    elif not (other := _differences(storage, identity)):
        return
    elif not _is_empty(storage):
        raise ConfigError(f"{output}: has predictions with another {other}. Choose another output")
    write_json(storage, RECORD, identity)


def check_claim(storage: Storage, identity: Mapping[str, object]) -> None:
    """Raise ConfigError where others have claimed a folder since this prediction began."""
    if storage.exists(RECORD) and (other := _differences(storage, identity)):
        raise ConfigError(f"{storage.location}: is predicted with another {other} now. Choose another output")


def taken_from_beside(label_map: Path) -> JsonObject:
    """Return what nnU-Net's writer of TIFF has put beside a label map, and remove it.

    It is the spacing, under the name that the record of the case has: nnU-Net reads it from there.
    """
    beside = label_map.with_suffix(".json")
    if not beside.is_file():
        return {}
    content: JsonObject = json.loads(beside.read_bytes())
    beside.unlink()
    return content


def _differences(storage: Storage, identity: Mapping[str, object]) -> str:
    before = read_json(storage, RECORD)
    names = [name for name in dict.fromkeys([*identity, *before]) if name != "model"]
    other = [name for name in names if before.get(name) != identity.get(name)]
    values = "; ".join(f"{name} {_shown(before, name)}, expected {_shown(identity, name)}" for name in other)
    return f"{', '.join(other)} (of {before.get('model')}: {values})" if other else ""


def _shown(of: Mapping[str, object], name: str) -> str:
    return f"{of[name]!r:.100}" if name in of else "not given"


def _is_empty(storage: Storage) -> bool:
    """Whether no case has a record, which is written before its label map."""
    return not cases_with_record(storage)


def cases_with_record(storage: Storage) -> list[str]:
    """Return the names of the cases that were predicted, or began to be."""
    records = [key for key in storage.list_keys() if key.endswith(".json") and "/" not in key and key != RECORD]
    return [key.removesuffix(".json") for key in records]
