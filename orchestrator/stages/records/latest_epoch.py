"""The record of a training's latest epochs: written by the training, shown to people, counted on by the schedule."""

import socket
from collections import deque
from dataclasses import asdict, dataclass, fields

from orchestrator.errors import IntegrityError, StorageError
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.storage.json_values import JsonMapping
from orchestrator.training.reports import EpochReport

NUM_EARLIER = 20
"""Epochs that a record holds beside the latest: a driver that looks less often than epochs end misses none of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatestEpoch:
    """An epoch that has ended, and where."""

    report: EpochReport
    host: str
    """Name of the machine."""
    node: str
    """Id of the machine in its cluster; empty outside of one."""
    earlier: tuple[EpochReport, ...] = ()
    """Of the same attempt, those just before, in their order."""


class EpochRecorder:
    """Keeps the record of an attempt up to date."""

    def __init__(self, storage: Storage, *, training_id: str, node: str) -> None:
        """Begin with no epoch; `node` is the id of this machine in its cluster."""
        self._storage = storage
        self._training_id = training_id
        self._node = node
        self._reports: deque[EpochReport] = deque(maxlen=NUM_EARLIER + 1)

    def write(self, report: EpochReport) -> None:
        """Write the record anew, with an epoch that has ended: one that could not be written stands in the next."""
        self._reports.append(report)
        *earlier, latest = self._reports
        told = LatestEpoch(report=latest, host=socket.gethostname(), node=self._node, earlier=tuple(earlier))
        write_latest_epoch(self._storage, self._training_id, told)


def write_latest_epoch(storage: Storage, training_id: str, latest: LatestEpoch) -> None:
    """Write the record anew."""
    record = {
        **asdict(latest.report),
        "host": latest.host,
        "node": latest.node,
        "earlier": [asdict(report) for report in latest.earlier],
    }
    write_json(storage, run_paths.training_progress(training_id), record)


def read_latest_epoch(storage: Storage, training_id: str) -> LatestEpoch | None:
    """Return the record; None before the first epoch, or if it cannot be read: the next epoch writes it anew."""
    try:
        record = read_json(storage, run_paths.training_progress(training_id))
        return LatestEpoch(
            report=_report(record),
            host=str(record["host"]),
            node=str(record["node"]),
            earlier=tuple(_report(one) for one in record.get("earlier", ())),
        )
    except (StorageError, IntegrityError, KeyError, TypeError):
        return None


def _report(record: JsonMapping) -> EpochReport:
    numbers = {field.name: record[field.name] for field in fields(EpochReport)}
    if not all(isinstance(number, int | float) for number in numbers.values()):
        raise TypeError(f"{numbers}: not all are numbers")
    return EpochReport(**numbers)
