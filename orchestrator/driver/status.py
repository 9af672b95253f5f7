"""What the files of a run say about it: what is done, under way, waiting and failed."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.events import read_events
from orchestrator.results.store import ResultsStore
from orchestrator.stages.records.latest_epoch import read_latest_epoch
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_values import JsonMapping
from orchestrator.usage import gpu_hours, stage_spans
from orchestrator.workflow.keys import StageKey, StageKind

_OF_STAGES = {"run_started", "stage_started", "stage_finished", "stage_failed", "run_finished"}
_OF_A_TRAINING = {StageKind.TRAIN, StageKind.VALIDATE, StageKind.ENSEMBLE, StageKind.PREDICT, StageKind.SCORE}
_FOLLOWING = {
    StageKind.TRAIN: StageKind.PREDICT,
    StageKind.VALIDATE: StageKind.ENSEMBLE,
    StageKind.ENSEMBLE: StageKind.PREDICT,
    StageKind.PREDICT: StageKind.SCORE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingUnderWay:
    """A training that has begun and is not scored yet."""

    id: str
    stage: str
    """train, predict or score; of an ensemble also validate or ensemble."""
    since: datetime
    """Start of this stage."""
    epoch: int
    """Epochs finished."""
    num_epochs: int
    """0 before the first epoch has ended."""
    pseudo_dice: float
    """Dice of patches in the latest epoch, NaN before the first."""
    epoch_elapsed_s: float
    """Duration of the latest epoch, NaN as long as none has told how long those to come will take."""
    host: str
    """Machine of the latest epoch; empty before the first."""

    def remaining_s(self) -> float | None:
        """Return the seconds until the last epoch ends; None if that is not known."""
        return None if math.isnan(self.epoch_elapsed_s) else (self.num_epochs - self.epoch) * self.epoch_elapsed_s


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """A run at one moment."""

    trainings: tuple[str, ...]
    """Ids of all that the latest call was asked for."""
    done: frozenset[str]
    under_way: tuple[TrainingUnderWay, ...]
    """What the latest driver has started; it goes on only while that driver lives."""
    failed: Mapping[str, str]
    """One line for each stage that failed for good in the latest call."""
    delayed: Mapping[str, tuple[datetime, str]]
    """Stages that wait before another attempt: until when, and one line on why the last one failed."""
    waiting: tuple[str, ...]
    """Trainings that have not begun; those that a failure blocks included."""
    left_out: frozenset[str]
    """Trainings that no answer needs any more."""
    training_s: float
    """Time spent in finished trainings, predictions and scores of all calls."""
    gpu_hours: Mapping[str, float]
    """Hours of GPUs that stages of all calls took until the latest event, by kind of GPU; empty without GPUs."""
    machines: Mapping[str, Mapping[str, int]]
    """What those of the latest call do, to how many of each size; as the latest driver saw them."""
    machines_missing: int
    """How many it has asked for beside them."""
    machines_waiting: Mapping[str, int]
    """How many of these wait in a queue, by pool and reason."""


def read_status(storage: Storage) -> RunStatus:
    """Gather the status of a run from its output location.

    Raises
    ------
    ConfigError
        If no run has been started there.
    IntegrityError
        If its events are damaged.
    """
    events = read_events(storage)
    starts = [index for index, event in enumerate(events) if event["kind"] == "run_started"]
    if not starts:
        raise ConfigError(f"{storage.location}: no run has been started there; expected the --output of one")
    latest = events[starts[-1] :]
    trainings = tuple(latest[0]["trainings"])
    done = ResultsStore(storage).finished() & set(trainings)
    open_stages = _open_stages(latest, trainings=trainings).items()
    under_way = tuple(_under_way(storage, key, since=since) for key, since in open_stages if key.training not in done)
    failed = _failed(latest)
    begun = {training.id for training in under_way} | _begun_before_failing(failed)
    left_out = _left_out(latest).difference(done)
    waiting = tuple(training for training in trainings if training not in done | begun | left_out)
    return RunStatus(
        trainings=trainings,
        done=frozenset(done),
        under_way=under_way,
        failed=failed,
        delayed=_delayed(latest),
        waiting=waiting,
        left_out=left_out,
        training_s=sum(
            event["elapsed_s"]
            for event in events
            if event["kind"] == "stage_finished" and event["stage_kind"] in _OF_A_TRAINING
        ),
        gpu_hours=gpu_hours(stage_spans(events)),
        machines=_latest(latest, "machines_seen", "machines") or {},
        machines_missing=_latest(latest, "machines_missing", "machines") or 0,
        machines_waiting=_latest(latest, "machines_waiting", "waiting") or {},
    )


def _failed(events: Sequence[JsonMapping]) -> dict[str, str]:
    """Return the stages that have failed for good, and were not found to be innocent later."""
    failed: dict[str, str] = {}
    for event in events:
        if event["kind"] == "stage_failed" and event["final"]:
            failed[event["stage"]] = event["error"]
        elif event["kind"] == "stage_revived":
            failed.pop(event["stage"], None)
    return failed


def _delayed(events: Sequence[JsonMapping]) -> dict[str, tuple[datetime, str]]:
    """Return the stages that wait before another attempt, until when, and why."""
    delayed: dict[str, tuple[datetime, str]] = {}
    for event in events:
        if event["kind"] == "stage_failed" and event.get("wait_s"):
            until = datetime.fromisoformat(event["time"]) + timedelta(seconds=event["wait_s"])
            delayed[event["stage"]] = (until, event["error"])
        elif event["kind"] in _OF_STAGES and "stage" in event:
            delayed.pop(event["stage"], None)
    return delayed


def _left_out(events: Sequence[JsonMapping]) -> frozenset[str]:
    """Return the trainings that looks at the questions of the study have found needless."""
    named = (event.get("left_out", ()) for event in events if event["kind"] in {"run_started", "look_taken"})
    return frozenset(str(id_) for ids in named for id_ in ids)


def _begun_before_failing(failed: Iterable[str]) -> set[str]:
    """Return the trainings that have failed themselves; one that only waits for a case that failed has not begun."""
    return {key.training for key in map(StageKey.parse, failed) if key is not None and key.case is None}


def _latest(events: Sequence[JsonMapping], kind: str, field: str) -> Any:
    """Return what the last event of a kind says; None where there is none."""
    return next((event[field] for event in reversed(events) if event["kind"] == kind), None)


def _open_stages(events: Sequence[JsonMapping], *, trainings: Collection[str]) -> dict[StageKey, datetime]:
    """Return the stages of trainings that have begun and not ended, and when each has begun.

    What follows one is of the trainings that were asked for: members of ensembles may be trained and no more.
    """
    opened: dict[StageKey, datetime] = {}
    for event in events:
        key = StageKey.parse(event["stage"]) if event["kind"] in _OF_STAGES and "stage" in event else None
        if key is None or key.kind not in _OF_A_TRAINING:
            continue
        now = datetime.fromisoformat(event["time"])
        if event["kind"] == "stage_started":
            opened[key] = now
            continue
        opened.pop(key, None)
        if event["kind"] == "stage_finished" and key.kind in _FOLLOWING and key.training in trainings:
            opened[replace(key, kind=_FOLLOWING[key.kind])] = now
    return opened


def _under_way(storage: Storage, key: StageKey, *, since: datetime) -> TrainingUnderWay:
    latest = read_latest_epoch(storage, key.training)
    return TrainingUnderWay(
        id=key.training,
        stage=key.kind.value,
        since=since,
        epoch=latest.report.epoch + 1 if latest else 0,
        num_epochs=latest.report.num_epochs if latest else 0,
        pseudo_dice=latest.report.pseudo_dice if latest else math.nan,
        epoch_elapsed_s=latest.report.elapsed_s if latest and latest.report.is_typical else math.nan,
        host=latest.host if latest else "",
    )
