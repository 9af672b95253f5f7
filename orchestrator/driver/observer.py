"""Follows a run for people: counts, durations, epochs; passed on to the live view, the events and the metrics."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from orchestrator.events import EventLog
from orchestrator.progress import ProgressListener, RunningTraining, Snapshot, StageCount
from orchestrator.scheduling.remaining_time import estimate_remaining_s
from orchestrator.scheduling.resources import Node, Resources
from orchestrator.scheduling.retries import GiveUp, Retry
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.stages.attempt import end_of_log
from orchestrator.stages.records.latest_epoch import LatestEpoch, read_latest_epoch
from orchestrator.storage import run_paths
from orchestrator.storage.best_effort import best_effort
from orchestrator.storage.interface import Storage
from orchestrator.workflow.graph import Stage, StageKind

SNAPSHOT_INTERVAL_S = 1.0
"""Shortest time between two snapshots."""
LOOKING_S = 0.2
"""Time of a snapshot after which no further training is looked at: on S3 a hundred records take seconds to read, in
which nothing would be started."""


class RunObserver:
    """A listener of the executor."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        storage: Storage,
        events: EventLog,
        view: ProgressListener,
        publish: Callable[[Snapshot, Mapping[StageKind, float]], None],
        check_lease: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Begin to observe.

        Parameters
        ----------
        schedule
            The run.
        storage
            Its output location, for progress records and failure texts.
        events
            Where each event is written.
        view
            What people see.
        publish
            Called with each snapshot and the seconds spent in each kind of stage; sends them out as metrics.
        check_lease
            Raises if this driver must stop.
        clock
            Gives monotonic seconds.
        """
        self._graph = schedule.graph
        self._storage = storage
        self._events = events
        self._view = view
        self._publish = publish
        self._check_lease = check_lease
        self._clock = clock
        self._started_s = clock()
        self._last_tick_s = float("-inf")
        self._durations_s: dict[StageKind, list[float]] = defaultdict(list)
        self._training_stages: dict[str, str] = {}
        self._running: dict[str, RunningTraining] = {}
        self._looked_s: dict[str, float] = {}
        self._seen_epochs: dict[str, int] = {}
        self._totals = Counter(stage.kind for stage in schedule.remaining())
        self._results = {stage.id for stage in schedule.graph.values() if stage.kind is StageKind.SCORE}
        """With which each training of the request ends, those of earlier calls among them."""
        self._num_done: Counter[StageKind] = Counter()
        self._num_running: Counter[StageKind] = Counter()
        self._num_failed: Counter[StageKind] = Counter()
        self.failures: dict[str, str] = {}
        """By id of each stage that has failed for good, a line that says why; below it, how its attempt's log ends."""

    def stage_started(self, stage: Stage, *, attempt: int, node: Node, gpus: float) -> None:
        """Take note that a stage was handed to the cluster."""
        self._num_running[stage.kind] += 1
        if stage.kind is StageKind.TRAIN and stage.training is not None:
            self._training_stages[stage.training.id] = stage.id
        on_gpu = {"gpu_kind": node.kind, "gpus": gpus} if gpus else {}
        self._events.append("stage_started", stage=stage.id, stage_kind=stage.kind.value, attempt=attempt, **on_gpu)

    def stage_finished(self, stage: Stage, *, elapsed_s: float) -> None:
        """Take note that a stage is done."""
        self._num_running[stage.kind] -= 1
        self._num_done[stage.kind] += 1
        self._durations_s[stage.kind].append(elapsed_s)
        self._forget(stage)
        self._events.append(
            "stage_finished", stage=stage.id, stage_kind=stage.kind.value, elapsed_s=round(elapsed_s, 3)
        )

    def stage_failed(self, stage: Stage, *, error: Exception, decision: Retry | GiveUp) -> None:
        """Take note that a stage has failed and of what follows."""
        self._num_running[stage.kind] -= 1
        self._forget(stage)
        line = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        with best_effort(f"the whole text of the failure of {stage.id}"):
            self._storage.write_bytes(run_paths.stage_failure(stage.id), _story(error).encode())
        match decision:
            case Retry(attempt=attempt, reopened=reopened):
                self._view.note(f"{stage.id}: {line} (attempt {attempt} follows)")
                self._reopen(reopened)
            case GiveUp():
                self._num_failed[stage.kind] += 1
                self.failures[stage.id] = "\n".join([line, *end_of_log(error)])
                self._view.note(f"FAILED {stage.id}: {line}")
        self._events.append(
            "stage_failed",
            stage=stage.id,
            stage_kind=stage.kind.value,
            error=line,
            final=isinstance(decision, GiveUp),
        )

    def stage_asked_to_stop(self, stage: Stage) -> None:
        """Take note that a training was asked to stop for another."""
        self._view.note(f"{stage.id}: preempted for a training with a longer way to go")
        self._events.append("stage_asked_to_stop", stage=stage.id, stage_kind=stage.kind.value)

    def machines_missing(self, missing: Mapping[Resources, int]) -> None:
        """Take note that so many machines of each size are asked for, other numbers than before."""
        sizes = [
            f"{number} with {size.cpus:g} CPUs" + (f" and {size.gpus:g} GPUs" if size.gpus else "")
            for size, number in missing.items()
        ]
        if sizes:
            self._view.note(f"machines to come: {', '.join(sizes)}")
        self._events.append("machines_missing", machines=sum(missing.values()))

    def machines_waiting(self, waiting: Mapping[str, int]) -> None:
        """Take note that so many machines wait in a queue, by pool and reason."""
        if waiting:
            lines = ", ".join(f"{number} x {what}" for what, number in sorted(waiting.items()))
            self._view.note(f"machines that wait: {lines}")
        self._events.append("machines_waiting", waiting=dict(waiting))

    def stage_revived(self, stage: Stage) -> None:
        """Take note that a stage that had failed for good is tried again: its node turned out to be broken."""
        self._num_failed[stage.kind] -= 1
        self.failures.pop(stage.id, None)
        self._view.note(f"{stage.id}: tried again, since other stages failed on the same node as well")
        self._events.append("stage_revived", stage=stage.id, stage_kind=stage.kind.value)

    def tick(self, schedule: Schedule) -> None:
        """Look at the progress records and show a new snapshot, at most once in a while."""
        now_s = self._clock()
        if now_s - self._last_tick_s < SNAPSHOT_INTERVAL_S:
            return
        self._last_tick_s = now_s
        self._check_lease()
        snapshot = self.snapshot(schedule)
        self._view.show(snapshot)
        self._publish(snapshot, {kind: sum(values) for kind, values in self._durations_s.items()})

    def snapshot(self, schedule: Schedule) -> Snapshot:
        """Return the run as it is now."""
        self._look_at_trainings(schedule)
        return Snapshot(
            elapsed_s=self._clock() - self._started_s,
            eta_s=estimate_remaining_s(schedule, now_s=self._clock()),
            stages=tuple(
                StageCount(
                    kind=kind.value,
                    total=self._totals[kind],
                    done=self._num_done[kind],
                    running=self._num_running[kind],
                    failed=self._num_failed[kind],
                )
                for kind in StageKind
                if self._totals[kind]
            ),
            num_trainings=len(self._results),
            num_trainings_done=len(self._results & schedule.outcomes.done),
            num_trainings_failed=len(self._results & (schedule.outcomes.failed | schedule.outcomes.blocked)),
            running=tuple(self._running[name] for name in sorted(self._running)),
        )

    def _look_at_trainings(self, schedule: Schedule) -> None:
        """Read what trainings tell of their epochs, those first that were not looked at for longest."""
        until_s = self._clock() + LOOKING_S
        for training_id in sorted(self._training_stages, key=lambda name: self._looked_s.get(name, float("-inf"))):
            self._looked_s[training_id] = self._clock()
            latest = read_latest_epoch(self._storage, training_id)
            if latest is not None:
                self._take_note(training_id, latest, schedule)
            if self._clock() > until_s:
                return

    def _take_note(self, training_id: str, latest: LatestEpoch, schedule: Schedule) -> None:
        """Show an epoch; if it is new, make an event of it and tell the schedule."""
        report = latest.report
        self._running[training_id] = RunningTraining(
            id=training_id,
            epoch=report.epoch + 1,
            num_epochs=report.num_epochs,
            train_loss=report.train_loss,
            pseudo_dice=report.pseudo_dice,
            epoch_elapsed_s=report.elapsed_s,
            loader_wait_s=report.loader_wait_s,
        )
        seen = self._seen_epochs.get(training_id)
        if seen == report.epoch:
            return
        self._seen_epochs[training_id] = report.epoch
        self._events.append("training_epoch", training=training_id, **asdict(report), host=latest.host)
        schedule.progress(
            self._training_stages[training_id],
            fraction=(report.epoch + 1) / report.num_epochs,
            whole_s=report.elapsed_s * report.num_epochs if report.is_typical else None,
            now_s=self._clock(),
            # The first record that a driver finds may be of an attempt before, on another machine.
            node=latest.node if seen is not None else None,
        )

    def _reopen(self, stage_ids: Sequence[str]) -> None:
        for stage_id in stage_ids:
            kind = self._graph[stage_id].kind
            self._totals[kind] += 1
            self._view.note(f"{stage_id}: carried out again, since a file that it had made is lost")
            self._events.append("stage_reopened", stage=stage_id, stage_kind=kind.value)

    def _forget(self, stage: Stage) -> None:
        if stage.kind is StageKind.TRAIN and stage.training is not None:
            for record in (self._training_stages, self._running, self._looked_s):
                record.pop(stage.training.id, None)


def _story(error: Exception) -> str:
    """Return the whole text of an error, with its notes and its cause."""
    lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
    cause = error.__cause__
    while cause is not None:
        lines.append(f"caused by {type(cause).__name__}: {cause}")
        cause = cause.__cause__
    return "\n".join(lines) + "\n"
