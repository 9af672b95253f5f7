"""What has happened in a run, one JSON object a line.

| kind | fields |
|---|---|
| run_started | trainings, stages_done, left_out: no answer needs these |
| stage_started | stage, stage_kind, attempt, and where it has a GPU gpu_kind, gpus |
| stage_finished | stage, stage_kind, elapsed_s |
| stage_failed | stage, stage_kind, error, final; wait_s where it is not tried again at once |
| stage_asked_to_stop | stage, stage_kind |
| stage_revived | stage, stage_kind |
| stage_reopened | stage, stage_kind: it was done, and what it had made is lost |
| look_taken | look, text: what it has decided, left_out: trainings that no answer needs from then on |
| machines_missing | machines: how many a growing cluster is asked to add, each time that this changes |
| machines_waiting | waiting: how many machines wait in a queue, by pool and reason, each time that this changes |
| machines_seen | machines: what those that are there do, to how many of each size, if this changes; gpus of all |
| training_epoch | training, epoch, num_epochs, train_loss, val_loss, pseudo_dice, elapsed_s, loader_wait_s, host |
| attempt_started | training, epoch, iteration, elapsed_s, reason, host, pid |
| checkpoint_saved | the same; elapsed_s is what the saving took, reason why the training was asked to stop |
| attempt_ended | training, error, is_preemption |
| run_finished | trainings_done, stages_failed, elapsed_s |

Every event has `time` (UTC, ISO 8601) and `kind`. A number that is not finite is null: JSON knows no NaN.
"""

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from orchestrator.errors import IntegrityError
from orchestrator.storage import run_paths
from orchestrator.storage.best_effort import best_effort
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_values import JsonObject

LINES_PER_SEGMENT = 200
"""Events of one file: S3 knows no appending, so the latest file is written anew until it holds so many."""

OF_ATTEMPTS = frozenset({"attempt_started", "checkpoint_saved", "attempt_ended"})
"""Written by the process that trains; all others by a driver."""

_READ_FIELDS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "run_started": {"trainings": list},
    "stage_started": {"stage": str, "stage_kind": str, "attempt": int},
    "stage_finished": {"stage": str, "stage_kind": str, "elapsed_s": (int, float)},
    "stage_failed": {"stage": str, "stage_kind": str, "error": str, "final": bool},
    "stage_revived": {"stage": str},
    "look_taken": {"left_out": list},
    "machines_missing": {"machines": int},
    "machines_waiting": {"waiting": dict},
    "machines_seen": {"machines": dict},
}
"""What the status of a run relies on, and the type of it."""
_READ_IF_THERE: Mapping[str, type | tuple[type, ...]] = {
    "gpus": (int, float),
    "gpu_kind": str,
    "left_out": list,
}

_NAME = "%Y%m%dT%H%M%S.%f"
"""Of segments, after that of their writer: when it began, so that they are sorted."""
REMOTE_INTERVAL_S = 5.0
"""Shortest time between two writes to a bucket; the events of that time are lost with a killed driver."""


class EventLog:
    """Events of one call of the driver, in segments below `events/`.

    In a folder each event is on the disk when `append` returns. In a bucket events wait for the next one that comes
    `REMOTE_INTERVAL_S` after the latest write, or for `flush`. Events that the storage refuses wait as well: they are
    for people, and no reason for a run to end.
    """

    def __init__(
        self, storage: Storage, *, run_started: datetime, clock: Callable[[], datetime], writer: str = ""
    ) -> None:
        """Begin a log.

        Parameters
        ----------
        storage
            Output location of the run.
        run_started
            Names the segments of this driver, after all that are there of the same writer; UTC.
        clock
            Gives the time of an event; UTC.
        writer
            Put before the names of the segments; empty for a driver.
        """
        self._storage = storage
        self._writer, self._started, self._name = writer, run_started, ""
        self._clock = clock
        self._interval_s = REMOTE_INTERVAL_S if storage.is_remote else 0.0
        self._written: datetime | None = None
        self._segment = 0
        self._lines: list[str] = []
        self._num_waiting = 0

    def append(self, kind: str, **fields: object) -> None:
        """Add one event."""
        now = self._clock()
        event = {"time": now.isoformat(), "kind": kind, **fields}
        self._lines.append(json.dumps(finite_or_null(event), allow_nan=False))
        self._num_waiting += 1
        waited_s = (now - self._written).total_seconds() if self._written else self._interval_s
        # A clock that was set back must not silence the log until it has caught up.
        is_due = waited_s >= self._interval_s or waited_s < 0
        if is_due or len(self._lines) >= LINES_PER_SEGMENT:
            self.flush()
            self._written = now

    def flush(self) -> None:
        """Write the events that wait."""
        if not self._num_waiting:
            return
        with best_effort(f"{run_paths.EVENTS}/{self._writer}"):
            self._name = self._name or self._next_name()
            key = f"{run_paths.EVENTS}/{self._name}-{self._segment:05d}.jsonl"
            self._storage.write_bytes(key, ("\n".join(self._lines) + "\n").encode())
            self._num_waiting = 0
        if not self._num_waiting and len(self._lines) >= LINES_PER_SEGMENT:
            self._segment += 1
            self._lines = []

    def _next_name(self) -> str:
        """Return a name that is sorted after those of the same writer that are there, whatever the clock says now."""
        prefix = f"{run_paths.EVENTS}/{self._writer}"
        keys = run_paths.own_keys(self._storage, run_paths.EVENTS, below=prefix.rpartition("/")[0])
        names = (key.removeprefix(prefix).rpartition("-")[0] for key in keys if key.startswith(prefix))
        earlier = [time for time in map(_time_of, names) if time is not None]
        after = [max(earlier) + timedelta(microseconds=1)] if earlier else []
        return self._writer + max([self._started, *after]).strftime(_NAME)


def _time_of(name: str) -> datetime | None:
    """Return when the writer of a segment began, by its name; None for the name of another writer."""
    try:
        return datetime.strptime(name, _NAME).replace(tzinfo=UTC)
    except ValueError:
        return None


def read_events(storage: Storage) -> list[JsonObject]:
    """Return all events of an output location, driver by driver in the order in which they were written.

    Raises IntegrityError for a line that is not an event.
    """
    events = []
    for key in run_paths.own_keys(storage, run_paths.EVENTS):
        for number, line in enumerate(storage.read_bytes(key).decode(errors="replace").splitlines(), start=1):
            try:
                event = json.loads(line, parse_float=_finite, parse_constant=_finite)
            except (ValueError, RecursionError) as error:
                raise _not_an_event(storage, key, number=number) from error
            if not _is_event(event):
                raise _not_an_event(storage, key, number=number)
            events.append(event)
    return events


def _is_event(event: object) -> bool:
    """Whether something has what every event has, and what is read of its kind."""
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return False
    try:
        datetime.fromisoformat(event["time"])
    except (KeyError, TypeError, ValueError):
        return False
    fields = _READ_FIELDS.get(event["kind"], {})
    optional = {name: types for name, types in _READ_IF_THERE.items() if name in event}
    values = [(event.get(name), types) for name, types in {**fields, **optional}.items()]
    return all(isinstance(value, types) for value, types in values)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text}; expected a finite number")
    return number


def _not_an_event(storage: Storage, key: str, *, number: int) -> IntegrityError:
    return IntegrityError(
        f"{storage.location}/{key}: line {number} is not an event; expected a JSON object with time, kind and the "
        "fields of its kind. Delete the file: only this history is lost"
    )


def finite_or_null(value: object) -> object:
    """Return a value for JSON: NaN and infinities become None, at any depth."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {name: finite_or_null(item) for name, item in value.items()}
        case list() | tuple():
            return [finite_or_null(item) for item in value]
    return value
