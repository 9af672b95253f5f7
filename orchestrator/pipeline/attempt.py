"""What one attempt at a training leaves behind of itself: lines of a log, and the places from which it can go on."""

import logging
import os
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError, StorageError
from orchestrator.events import EventLog
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import Storage

if TYPE_CHECKING:
    from orchestrator.training.reports import Milestone

logger = logging.getLogger(__name__)


@contextmanager
def going_on_without(what: str) -> Iterator[None]:
    """Context in which a storage may fail: what is lost is only for people to look at, and no reason to stop."""
    try:
        yield
    except StorageError as error:
        logger.warning("%s is not written: %s", what, error)


class TrainingLog:
    """Text log of one training: written to the storage when flushed; a second attempt appends to the first."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._text = storage.read_bytes(key).decode() if storage.exists(key) else ""

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, error_type: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.write("".join(traceback.format_exception(error)))
        self.flush()

    def write(self, line: str) -> None:
        """Add one line; it goes to the log of the process, and so to the Ray dashboard, as well."""
        logger.info("%s: %s", self._key, line.rstrip("\n"))
        self._text += line.rstrip("\n") + "\n"

    def flush(self) -> None:
        """Make all lines so far visible."""
        with going_on_without("log"):
            self._storage.write_bytes(self._key, self._text.encode())


class AttemptEvents:
    """Events of one attempt, written by the process that trains: they outlive the driver."""

    def __init__(self, storage: Storage, *, training_id: str) -> None:
        self._training_id = training_id
        self._events = EventLog(
            storage,
            run_started=datetime.now(UTC),
            clock=lambda: datetime.now(UTC),
            writer=f"{run_paths.TRAINING_EVENTS}/{training_id}-",
        )

    def __enter__(self) -> "AttemptEvents":
        return self

    def __exit__(self, error_type: object, error: BaseException | None, trace: object) -> None:
        reason = "" if error is None else f"{type(error).__name__}: {error}".splitlines()[0]
        is_preemption = isinstance(error, OrchestratorError) and error.is_preemption
        with going_on_without("end of an attempt"):
            self._events.append("attempt_ended", training=self._training_id, error=reason, is_preemption=is_preemption)
            self._events.flush()

    def add(self, milestone: "Milestone") -> None:
        """Add the begin of the attempt, or a checkpoint."""
        fields = asdict(milestone) | {"training": self._training_id, "host": socket.gethostname(), "pid": os.getpid()}
        kind = fields.pop("kind")
        with going_on_without("event of an attempt"):
            if kind == "attempt_started":
                self._events.append("attempt_started", **fields)
            else:
                self._events.append("checkpoint_saved", **fields)
