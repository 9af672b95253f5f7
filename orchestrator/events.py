"""What has happened in a run, one JSON object a line.

| kind | fields |
|---|---|
| run_started | trainings, stages_done |
| stage_started | stage, stage_kind, attempt |
| stage_finished | stage, stage_kind, elapsed_s |
| stage_failed | stage, stage_kind, error, final |
| training_epoch | training, epoch, num_epochs, train_loss, val_loss, pseudo_dice, elapsed_s, loader_wait_s |
| run_finished | trainings_done, stages_failed, elapsed_s |

Every event has `time` (UTC, ISO 8601) and `kind`.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import Storage

LINES_PER_WRITE = 200
"""Events that may wait in memory: S3 knows no appending, so a segment is written as a whole."""


class EventLog:
    """Events of one call of the driver, in segments below `events/`."""

    def __init__(self, storage: Storage, *, run_started: datetime, clock: Callable[[], datetime]) -> None:
        """Begin a log.

        Parameters
        ----------
        storage
            Output location of the run.
        run_started
            Names the segments of this driver; UTC.
        clock
            Gives the time of an event; UTC.
        """
        self._storage = storage
        self._name = run_started.strftime("%Y%m%dT%H%M%S.%f")
        self._clock = clock
        self._segment = 0
        self._lines: list[str] = []

    def append(self, kind: str, **fields: Any) -> None:
        """Add one event."""
        self._lines.append(json.dumps({"time": self._clock().isoformat(), "kind": kind, **fields}))
        if len(self._lines) >= LINES_PER_WRITE:
            self.flush()

    def flush(self) -> None:
        """Write the events that wait as one more segment."""
        if self._lines:
            key = f"{run_paths.EVENTS}/{self._name}-{self._segment:05d}.jsonl"
            self._storage.write_bytes(key, ("\n".join(self._lines) + "\n").encode())
            self._segment += 1
            self._lines = []


def read_events(storage: Storage) -> list[dict[str, Any]]:
    """Return all events of an output location in the order in which they were written."""
    text = "".join(storage.read_bytes(key).decode() for key in storage.list_keys(run_paths.EVENTS))
    return [json.loads(line) for line in text.splitlines()]
