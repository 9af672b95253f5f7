"""The record of a training's latest epoch: written by the training, shown to people, counted on by the schedule."""

from dataclasses import asdict, dataclass, fields

from orchestrator.errors import IntegrityError, StorageError
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.training.reports import EpochReport


@dataclass(frozen=True, kw_only=True, slots=True)
class LatestEpoch:
    """An epoch that has ended, and where."""

    report: EpochReport
    host: str
    """Name of the machine."""
    node: str
    """Id of the machine in its cluster; empty outside of one."""


def write_latest_epoch(storage: Storage, training_id: str, latest: LatestEpoch) -> None:
    """Write the record anew."""
    record = {**asdict(latest.report), "host": latest.host, "node": latest.node}
    write_json(storage, run_paths.training_progress(training_id), record)


def read_latest_epoch(storage: Storage, training_id: str) -> LatestEpoch | None:
    """Return the record; None before the first epoch, or if it cannot be read: the next epoch writes it anew."""
    try:
        record = read_json(storage, run_paths.training_progress(training_id))
        numbers = {field.name: record[field.name] for field in fields(EpochReport)}
        latest = LatestEpoch(report=EpochReport(**numbers), host=str(record["host"]), node=str(record["node"]))
    except (StorageError, IntegrityError, KeyError, TypeError):
        return None
    return latest if all(isinstance(number, int | float) for number in numbers.values()) else None
