"""Follows a run for people: counts, durations, epochs, passed on to the live view and the metrics."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping

from orchestrator.driver.run_events import (
    EpochEnded,
    LooksTaken,
    MachinesMissing,
    MachinesWaiting,
    RunEvent,
    StageAskedToStop,
    StageFailed,
    StageFinished,
    StageRevived,
    TimePassed,
)
from orchestrator.progress import ProgressListener, RunningTraining, Snapshot, StageCount, duration_text
from orchestrator.scheduling.remaining_time import estimate_remaining_s
from orchestrator.scheduling.retries import GiveUp, Retry
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.stages.records.latest_epoch import LatestEpoch
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKey, StageKind

SNAPSHOT_INTERVAL_S = 1.0
"""Shortest time between two snapshots."""


class RunObserver:
    """A listener of a run."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        view: ProgressListener,
        publish: Callable[[Snapshot, Mapping[StageKind, float]], None],
        clock: Callable[[], float],
    ) -> None:
        """Begin to observe.

        Parameters
        ----------
        schedule
            The run.
        view
            What people see.
        publish
            Called with each snapshot and the seconds spent in each kind of stage; sends them out as metrics.
        clock
            Gives monotonic seconds.
        """
        self._view = view
        self._publish = publish
        self._clock = clock
        self._started_s = clock()
        self._shown_s = float("-inf")
        self._durations_s: dict[StageKind, list[float]] = defaultdict(list)
        self._running: dict[str, RunningTraining] = {}
        of_kind = {kind: {key for key, one in schedule.graph.items() if one.kind is kind} for kind in StageKind}
        self._results = of_kind[StageKind.SCORE] or of_kind[StageKind.TRAIN]
        """With which each training of the request ends, those of earlier calls among them."""

    def __call__(self, event: RunEvent) -> None:
        """Take note of what has happened."""
        match event:
            case StageFinished(stage=stage, elapsed_s=elapsed_s):
                self._leave(stage)
                self._durations_s[stage.kind].append(elapsed_s)
            case StageFailed():
                self._leave(event.stage)
                self._take_failure(event)
            case StageAskedToStop(stage=stage, reason=reason):
                self._view.note(f"{stage.key}: {reason}")
            case StageRevived(stage=stage):
                self._view.note(f"{stage.key}: tried again, since other stages failed on the same node as well")
            case LooksTaken():
                self._take_looks(event)
            case EpochEnded(stage=stage, latest=latest):
                self._running[stage.key.training] = _running_training(stage, latest)
            case TimePassed(schedule=schedule):
                self._show(schedule)
            case _:
                self._note_machines(event)

    def _take_looks(self, event: LooksTaken) -> None:
        for look in event.looks:
            self._results.difference_update(map(StageKey.score_of, look.left_out))
            self._view.note(look.line)

    def _note_machines(self, event: RunEvent) -> None:
        match event:
            case MachinesMissing(missing=missing) if missing:
                sizes = [f"{number} with {size.text}" for size, number in missing.items()]
                self._view.note(f"machines to come: {', '.join(sizes)}")
            case MachinesWaiting(waiting=waiting) if waiting:
                lines = ", ".join(f"{number} x {what}" for what, number in sorted(waiting.items()))
                self._view.note(f"machines that wait: {lines}")

    def _take_failure(self, event: StageFailed) -> None:
        stage, line = event.stage, event.failed.line
        match event.decision:
            case Retry(attempt=attempt, wait_s=wait_s, reopened=reopened):
                when = f" in {duration_text(wait_s)}" if wait_s else ""
                self._view.note(f"{stage.key}: {line} (attempt {attempt} follows{when})")
                for key in reopened:
                    self._view.note(f"{key}: carried out again, since a file that it had made is lost")
            case GiveUp():
                self._view.note(f"FAILED {stage.key}: {line}")

    def _leave(self, stage: Stage) -> None:
        if stage.kind is StageKind.TRAIN:
            self._running.pop(stage.key.training, None)

    def _show(self, schedule: Schedule) -> None:
        """Show a new snapshot, at most once in a while."""
        now_s = self._clock()
        if now_s - self._shown_s < SNAPSHOT_INTERVAL_S:
            return
        self._shown_s = now_s
        snapshot = self.snapshot(schedule)
        self._view.show(snapshot)
        self._publish(snapshot, {kind: sum(values) for kind, values in self._durations_s.items()})

    def snapshot(self, schedule: Schedule) -> Snapshot:
        """Return the run as it is now."""
        return Snapshot(
            elapsed_s=self._clock() - self._started_s,
            eta_s=estimate_remaining_s(schedule, now_s=self._clock()),
            stages=tuple(_counts(schedule)),
            num_trainings=len(self._results),
            num_trainings_done=len(self._results & schedule.outcomes.done),
            num_trainings_failed=len(self._results & (schedule.outcomes.failed | schedule.outcomes.blocked)),
            running=tuple(self._running[name] for name in sorted(self._running)),
        )


def _counts(schedule: Schedule) -> Iterator[StageCount]:
    """Yield the numbers of the stages that this call has to do, by kind."""
    outcomes, states = schedule.outcomes, Counter[tuple[StageKind, str]]()
    for key in outcomes.needed:
        states[key.kind, "total"] += 1
        states[key.kind, "done"] += key in outcomes.done
        states[key.kind, "failed"] += key in outcomes.failed
        states[key.kind, "running"] += key in schedule.running
    for kind in StageKind:
        if states[kind, "total"]:
            names = ("total", "done", "running", "failed")
            yield StageCount(kind=kind.value, **{name: states[kind, name] for name in names})


def _running_training(stage: Stage, latest: LatestEpoch) -> RunningTraining:
    report = latest.report
    return RunningTraining(
        id=stage.key.training,
        epoch=report.epoch + 1,
        num_epochs=report.num_epochs,
        train_loss=report.train_loss,
        pseudo_dice=report.pseudo_dice,
        epoch_elapsed_s=report.elapsed_s,
        loader_wait_s=report.loader_wait_s,
    )
