"""What a run looks like at one moment, who is told, and the plain lines of a listener without a terminal."""

import math
from dataclasses import dataclass
from typing import Protocol, TextIO

PLAIN_INTERVAL_S = 10.0
"""Time between two plain lines."""
_COMPILING = frozenset({"preprocess", "train", "validate", "predict", "score"})
"""Kinds of stages whose kernels are compiled where they have never run before; nobody counts that in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCount:
    """Numbers of the stages of one kind."""

    kind: str
    total: int
    done: int
    running: int
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTraining:
    """The latest epoch of a training under way."""

    id: str
    epoch: int
    """Epochs finished."""
    num_epochs: int
    train_loss: float
    pseudo_dice: float
    epoch_elapsed_s: float
    loader_wait_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A run at one moment."""

    elapsed_s: float
    eta_s: float
    """Seconds still to go, estimated."""
    stages: tuple[StageCount, ...]
    """Of this call: what earlier ones have done is not counted."""
    num_trainings: int
    """All that were asked for."""
    num_trainings_done: int
    num_trainings_failed: int
    running: tuple[RunningTraining, ...]


class ProgressListener(Protocol):
    """Is told how far a run is. Nothing that it does changes what the run decides."""

    def show(self, snapshot: Snapshot) -> None:
        """Take a snapshot, about one a second."""

    def note(self, line: str) -> None:
        """Take a line on what has happened."""


class NoListener:
    """A listener that listens to nothing."""

    def show(self, snapshot: Snapshot) -> None:
        """Take a snapshot."""

    def note(self, line: str) -> None:
        """Take a line."""


class ProgressLines:
    """A listener that writes a line now and then to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last_s = -math.inf

    def show(self, snapshot: Snapshot) -> None:
        """Write how far the run is, unless that was written a moment ago."""
        if snapshot.elapsed_s - self._last_s >= PLAIN_INTERVAL_S:
            self._last_s = snapshot.elapsed_s
            self.note(plain_line(snapshot))

    def note(self, line: str) -> None:
        """Write a line."""
        self._stream.write(f"{line}\n")
        self._stream.flush()


def duration_text(seconds: float) -> str:
    """Return `7 s`, `3 min 05 s`, `2 h 10 min` or `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def to_go_text(snapshot: Snapshot) -> str:
    """Return `about 7 s to go`, that nothing can go on, or what takes longer than was expected."""
    if math.isinf(snapshot.eta_s):
        return "no machine to go on"
    late = [count for count in snapshot.stages if count.running]
    if round(snapshot.eta_s) or not late:
        return f"about {duration_text(snapshot.eta_s)} to go"
    kinds = " and ".join(count.kind for count in late)
    is_first = any(not count.done and count.kind in _COMPILING for count in late)
    why = " (the first one in an installation compiles kernels, which takes up to a minute)" if is_first else ""
    return f"waiting for {kinds}, longer than expected{why}"


def plain_line(snapshot: Snapshot) -> str:
    """Return one line that says how far the run is."""
    stages = "  ".join(f"{count.kind} {count.done}/{count.total}" for count in snapshot.stages if count.total)
    failed = f", {snapshot.num_trainings_failed} failed" if snapshot.num_trainings_failed else ""
    return (
        f"[{duration_text(snapshot.elapsed_s)}] "
        f"{snapshot.num_trainings_done} of {snapshot.num_trainings} trainings done{failed}, "
        f"{to_go_text(snapshot)} | in this call: {stages}"
    )
