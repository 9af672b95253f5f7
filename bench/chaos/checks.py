"""What a disturbed run is compared with, and what its events say about lost work and about the cost of all this."""

import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.chaos.cluster import Kill
from bench.chaos.events import Event, RunEvents, seconds
from orchestrator.errors import SupersededError
from orchestrator.events import read_events
from orchestrator.results.store import ResultsStore
from orchestrator.stages.attempt import TrainingLog
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.workflow.keys import StageKey, StageKind

FULL_SIZE_PARAMETERS = 31_000_000
"""Of nnU-Net's 3d_fullres network; its optimiser holds as many again."""
PAPER_INTERVAL_S = 600.0
PAPER_EPOCH_S = 32.0
DIFFERING = {"checkpoint_sha256", "train_elapsed_s"}
"""Columns that say how long a training took; everything else must be the same."""
LIVES_ON_S = {"controller": 15.0, "driver": 15.0, "node": 15.0}
"""How long a training may go on after a kill of some kinds: it does not notice at once that others are gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """What one training lost by one kill."""

    lost_s: float
    saved_at: tuple[int, int]
    """Epoch and iteration of the last checkpoint before the kill."""
    goes_on_at: tuple[int, int]
    """Where the next attempt began."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempts:
    """Attempts at trainings."""

    num: int
    num_resumed: int

    @classmethod
    def of(cls, outputs: Iterable[Path]) -> "Attempts":
        """Count those of some runs."""
        starts = [e for output in outputs for e in _events(output) if e["kind"] == "attempt_started"]
        return cls(num=len(starts), num_resumed=sum((e["epoch"], e["iteration"]) > (0, 0) for e in starts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Overhead:
    """What the orchestrator costs a training beyond the training itself."""

    start_and_end_s: float
    checkpoint_s: float
    epoch_s: float
    longest_iteration_s: float

    @property
    def share_of_an_hour(self) -> float:
        """Share of an hour of training with the paper's preset."""
        per_hour_s = 3600 / PAPER_INTERVAL_S * self.checkpoint_s + 3600 / PAPER_EPOCH_S * self.epoch_s
        return (self.start_and_end_s + per_hour_s) / 3600

    @property
    def line(self) -> str:
        """Its parts."""
        return (
            f"start and end {self.start_and_end_s:.1f} s, 6 checkpoints of full size at {self.checkpoint_s:.2f} s, "
            f"112 epochs at {1000 * self.epoch_s:.1f} ms"
        )


def differences(output: Path, undisturbed: Path) -> Iterator[str]:
    """Yield a line for everything in which a run differs from the undisturbed one.

    Of a run that is not done yet, only the trainings are compared whose results are committed.
    """
    finished = ResultsStore(open_storage(output)).finished()
    if finished >= ResultsStore(open_storage(undisturbed)).finished():
        yield from _different_tables(output, undisturbed)
    rows, expected = (_rows(folder, finished) for folder in (output, undisturbed))
    for what, more, less in (("lost", expected, rows), ("doubled or made up", rows, expected)):
        yield from (f"{output.name}: {what}: {row[:200]}" for row in (more - less).elements())
    for name in sorted(finished):
        if not _same_weights(output, undisturbed, training_id=name):
            yield f"{output.name}: the weights of {name} differ"
        if not _is_of_its_checkpoint(output, training_id=name):
            yield f"{output.name}: the results of {name} are of another checkpoint than the one that is there"


def _different_tables(output: Path, undisturbed: Path) -> Iterator[str]:
    for name in sorted(path.name for path in (undisturbed / "tables").iterdir()):
        found = output / "tables" / name
        if not found.exists() or found.read_bytes() != (undisturbed / "tables" / name).read_bytes():
            yield f"{output.name}: tables/{name} differs"


def lost_work(output: Path, kills: Sequence[Kill]) -> Iterator[Loss]:
    """Yield what each training lost whenever an attempt at it ended without its own doing.

    An attempt without an end of its own was killed, by the first kill after its last sign of life that can have hit it
    and came before the driver called it failed. One that was superseded had been given up for lost: what it did after
    the next one had begun counts for nothing.
    """
    failed_s: dict[str, list[float]] = {}
    for event in RunEvents(output=output).of_drivers():
        if event["kind"] == "stage_failed":
            failed_s.setdefault(event["stage"], []).append(seconds(event))
    trainings: dict[str, dict[str, list[Event]]] = {}
    for event in RunEvents(output=output).of_trainings():
        trainings.setdefault(event["training"], {}).setdefault(event["attempt"], []).append(event)
    for name, attempts in trainings.items():
        # What ended before it had found its place has lost nothing.
        failed = failed_s.get(StageKey(kind=StageKind.TRAIN, training=name).text, ())
        begun = [events for events in attempts.values() if events[0]["kind"] == "attempt_started"]
        for attempt, following in pairwise(begun):
            if not _ended_by_itself(attempt):
                yield _loss(attempt, following=following[0], kills=kills, failed_s=failed)


def _loss(attempt: Sequence[Event], *, following: Event, kills: Sequence[Kill], failed_s: Iterable[float]) -> Loss:
    # An attempt says that it has begun when it has read where it goes on.
    until_s = seconds(following) - following["elapsed_s"]
    usable = [e for e in attempt if e["kind"] in {"attempt_started", "checkpoint_saved"} and seconds(e) <= until_s]
    first, last = attempt[0], usable[-1]
    # What lived on, cut off, until it was superseded was hit by nothing that came after its own end, and what went down
    # with the controller that it had on another host by nothing that came after the driver knew.
    end_s = seconds(attempt[-1] if attempt[-1]["kind"] == "attempt_ended" else following)
    end_s = min([end_s, *(time_s for time_s in failed_s if time_s >= seconds(first))])
    times = [
        kill.time_s
        for kill in kills
        if max(seconds(first), seconds(last) - LIVES_ON_S.get(kill.kind, 0.0)) <= kill.time_s <= end_s
        and kill.failed.host in {"", first["host"]}
    ]
    return Loss(
        lost_s=max(0.0, min(times, default=seconds(last)) - seconds(last)),
        saved_at=(last["epoch"], last["iteration"]),
        goes_on_at=(following["epoch"], following["iteration"]),
    )


def _ended_by_itself(attempt: Sequence[Event]) -> bool:
    last = attempt[-1]
    return last["kind"] == "attempt_ended" and not last["error"].startswith(SupersededError.__name__)


def overhead(undisturbed: Path) -> Overhead:
    """Measure what a training costs besides its iterations: from the events, and by writing at full size."""
    events = _events(undisturbed)
    within = {e["training"]: seconds(e) for e in events if e["kind"] == "attempt_ended"}
    for event in events:
        if event["kind"] == "attempt_started":
            within[event["training"]] -= seconds(event)
    stages = {
        key.training: e["elapsed_s"]
        for e in events
        if e["kind"] == "stage_finished" and (key := StageKey.parse(e["stage"])) and key.kind is StageKind.TRAIN
    }
    around_s = [stages[name] - within[name] for name in stages]
    epochs_s = [e["elapsed_s"] for e in events if e["kind"] == "training_epoch"]
    return Overhead(
        start_and_end_s=sum(around_s) / len(around_s),
        checkpoint_s=_full_size_checkpoint_s(undisturbed),
        epoch_s=_epoch_records_s(undisturbed),
        longest_iteration_s=max(epochs_s),
    )


def _full_size_checkpoint_s(folder: Path) -> float:
    import torch

    state = {"network": torch.rand(FULL_SIZE_PARAMETERS), "optimizer": torch.rand(FULL_SIZE_PARAMETERS)}
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        store = CheckpointStore(open_storage(place), training_id="full-size")
        store.save_latest(state)
        started_s = time.perf_counter()
        for _ in range(3):
            store.save_latest(state)
        return (time.perf_counter() - started_s) / 3


def _epoch_records_s(folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        storage = open_storage(place)
        log = TrainingLog(storage, "log")
        # As long as that of the last epoch of a thousand.
        log.write("a line of a log, as long as they are\n" * 4000)
        started_s = time.perf_counter()
        for _ in range(20):
            log.flush()
            storage.write_bytes("progress.json", b"{}" * 200)
        return (time.perf_counter() - started_s) / 20


def _events(output: Path) -> list[dict[str, Any]]:
    return read_events(open_storage(output))


def _rows(output: Path, trainings: Collection[str]) -> Counter[str]:
    read = ResultsStore(open_storage(output)).read().to_pylist()
    rows = [row for row in read if row["training_id"] in trainings]
    return Counter(repr({key: value for key, value in row.items() if key not in DIFFERING}) for row in rows)


def _is_of_its_checkpoint(output: Path, *, training_id: str) -> bool:
    storage = open_storage(output)
    rows = [row for row in ResultsStore(storage).read().to_pylist() if row["training_id"] == training_id]
    return {row["checkpoint_sha256"] for row in rows} == {
        CheckpointStore(storage, training_id=training_id).load_final().sha256
    }


def _same_weights(output: Path, undisturbed: Path, *, training_id: str) -> bool:
    import torch

    found, expected = (
        CheckpointStore(open_storage(folder), training_id=training_id).load_final().state["network_weights"]
        for folder in (output, undisturbed)
    )
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
