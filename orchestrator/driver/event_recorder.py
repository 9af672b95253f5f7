"""Writes what happens in a run to its output location: events, and the whole text of each failure."""

from collections.abc import Mapping
from dataclasses import asdict

from orchestrator.cluster.node_pool import Resources
from orchestrator.driver.run_events import (
    EpochEnded,
    LooksTaken,
    MachinesMissing,
    MachinesSeen,
    MachinesWaiting,
    RunEvent,
    StageAskedToStop,
    StageFailed,
    StageFinished,
    StageRevived,
    StageStarted,
)
from orchestrator.events import EventLog
from orchestrator.scheduling.retries import GiveUp, Retry
from orchestrator.storage import run_paths
from orchestrator.storage.best_effort import best_effort
from orchestrator.storage.interface import Storage
from orchestrator.workflow.keys import StageKey


class EventRecorder:
    """A listener of a run."""

    def __init__(self, storage: Storage, *, events: EventLog) -> None:
        """Write to the output location and to the log of its events."""
        self._storage = storage
        self._events = events

    def __call__(self, event: RunEvent) -> None:
        """Write what has happened."""
        match event:
            case StageStarted(stage=stage, attempt=attempt, node=node, gpus=gpus):
                on_gpu = {"gpu_kind": node.kind, "gpus": gpus} if gpus else {}
                self._events.append("stage_started", **_of(stage.key), attempt=attempt, **on_gpu)
            case StageFinished(stage=stage, elapsed_s=elapsed_s):
                self._events.append("stage_finished", **_of(stage.key), elapsed_s=round(elapsed_s, 3))
            case StageFailed():
                self._write_failure(event)
            case StageAskedToStop(stage=stage):
                self._events.append("stage_asked_to_stop", **_of(stage.key))
            case StageRevived(stage=stage):
                self._events.append("stage_revived", **_of(stage.key))
            case _:
                self._write_other(event)

    def _write_other(self, event: RunEvent) -> None:
        match event:
            case LooksTaken(looks=looks):
                for look in looks:
                    self._events.append("look_taken", look=look.number, text=look.line, left_out=list(look.left_out))
            case MachinesMissing(missing=missing):
                self._events.append("machines_missing", machines=sum(missing.values()))
            case MachinesWaiting(waiting=waiting):
                self._events.append("machines_waiting", waiting=dict(waiting))
            case MachinesSeen(machines=machines):
                sizes = {state.value: _by_size(found) for state, found in machines.items()}
                gpus = sum(size.gpus * number for of_state in machines.values() for size, number in of_state.items())
                self._events.append("machines_seen", machines=sizes, **({"gpus": gpus} if gpus else {}))
            case EpochEnded(stage=stage, latest=latest, is_new=True):
                told = {**asdict(latest.report), "host": latest.host}
                self._events.append("training_epoch", training=stage.key.training, **told)

    def _write_failure(self, event: StageFailed) -> None:
        key, failed, decision = event.stage.key, event.failed, event.decision
        with best_effort(f"the whole text of the failure of {key}"):
            self._storage.write_bytes(run_paths.stage_failure(key.text), failed.text.encode())
        if isinstance(decision, Retry):
            for reopened in decision.reopened:
                self._events.append("stage_reopened", **_of(reopened))
        told = {"error": failed.line, "final": isinstance(decision, GiveUp)}
        if isinstance(decision, Retry) and decision.wait_s:
            told["wait_s"] = decision.wait_s
        self._events.append("stage_failed", **_of(key), **told)


def _by_size(machines: Mapping[Resources, int]) -> Mapping[str, int]:
    return {size.text: number for size, number in machines.items()}


def _of(key: StageKey) -> Mapping[str, str]:
    """Return what every event of a stage says of it."""
    return {"stage": key.text, "stage_kind": key.kind.value}
