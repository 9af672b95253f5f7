"""What one attempt at a training leaves behind of itself: lines of a log, and the places from which it can go on."""

import json
import logging
import os
import socket
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError, SupersededError
from orchestrator.events import EventLog
from orchestrator.storage import run_paths
from orchestrator.storage.best_effort import best_effort
from orchestrator.storage.interface import Storage
from orchestrator.storage.numbered_files import last_number, take_next

if TYPE_CHECKING:
    from orchestrator.training.reports import Milestone

logger = logging.getLogger(__name__)


class AttemptClaim:
    """The right to write the checkpoints of a training, which the latest attempt has.

    A machine that cannot be reached counts as lost, and its training begins again elsewhere; where both still reach the
    output location, the attempt that was given up must not write over the checkpoints of the other.
    """

    def __init__(self, storage: Storage, *, training_id: str) -> None:
        """Take the right away from whatever attempt has it."""
        self._storage = storage
        self._training_id = training_id
        self._number = take_next(
            storage,
            run_paths.attempts(training_id),
            key=partial(run_paths.attempt, training_id),
            data=json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(),
        )

    def check(self) -> None:
        """Raise SupersededError if a later attempt has begun."""
        latest = last_number(self._storage, run_paths.attempts(self._training_id))
        if latest > self._number:
            raise SupersededError(
                f"{self._training_id}: attempt {latest} has begun, since this one, number {self._number} on "
                f"{socket.gethostname()}, was given up for lost; what it has saved so far is kept"
            )


class TrainingLog:
    """Text log of one training: written to the storage when flushed; a second attempt appends to the first."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._text = storage.read_bytes(key).decode(errors="replace") if storage.exists(key) else ""

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, error_type: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SupersededError):
            return  # the log is that of the later attempt now
        if error is not None:
            self.write("".join(traceback.format_exception(error)))
        self.flush()

    def write(self, line: str) -> None:
        """Add one line; it goes to the log of the process, and so to the Ray dashboard, as well."""
        logger.info("%s: %s", self._key, line.rstrip("\n"))
        self._text += line.rstrip("\n") + "\n"

    def flush(self) -> None:
        """Make all lines so far visible."""
        with best_effort("log"):
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
        self._events.append("attempt_ended", training=self._training_id, error=reason, is_preemption=is_preemption)
        self._events.flush()

    def add(self, milestone: "Milestone") -> None:
        """Add the begin of the attempt, or a checkpoint."""
        fields = asdict(milestone) | {"training": self._training_id, "host": socket.gethostname(), "pid": os.getpid()}
        kind = fields.pop("kind")
        if kind == "attempt_started":
            self._events.append("attempt_started", **fields)
        else:
            self._events.append("checkpoint_saved", **fields)
