"""The loop of a run: what is decided is started, how it ends is told to whoever decides, and listeners hear of it."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from orchestrator.cluster.node_pool import Resources
from orchestrator.driver.backend import Backend
from orchestrator.driver.lease import Lease
from orchestrator.driver.looks import Looks
from orchestrator.driver.progress_feed import Progress, ProgressFeed
from orchestrator.driver.run_events import (
    EpochEnded,
    LooksTaken,
    MachinesMissing,
    MachinesSeen,
    MachinesWaiting,
    RunEvent,
    RunListener,
    StageAskedToStop,
    StageFailed,
    StageFinished,
    StageRevived,
    StageStarted,
    TimePassed,
)
from orchestrator.errors import StorageError
from orchestrator.scheduling.autoscaling import missing_machines
from orchestrator.scheduling.ended import Done, Ended, Failed, FailureKind
from orchestrator.scheduling.placement import Start
from orchestrator.scheduling.remaining_time import TimeLeft
from orchestrator.scheduling.resources import MachineState, NodesSeen
from orchestrator.scheduling.retries import GiveUp
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.stages.finished import lost_stages
from orchestrator.stages.preemption import REMOTE_MARKER_EVERY_S, ask_to_stop, forget_request
from orchestrator.storage.interface import Storage
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKey, StageKind

MAY_LACK_A_FILE = {FailureKind.TRANSIENT, FailureKind.DETERMINISTIC}
"""Failures after which it is looked whether a file of ours is lost."""
POLL_S = 0.5
"""Longest time between two looks at the running stages."""
PROGRESS_EVERY_S = 1.0
"""Shortest time between two looks at what trainings tell, and at whether this driver may go on."""
WIND_DOWN_S = REMOTE_MARKER_EVERY_S + 45.0
"""Longest time that an interrupted driver gives its trainings for one more checkpoint: to see that they are asked, to
end the validation of an epoch, to write."""

_PREEMPTED = "preempted for a training with a longer way to go"
_EXPANDED = "more workers are to go on with it, as nothing else needs what is idle beside it"


class RunLoop:
    """Carries out a schedule on a cluster."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        backend: Backend,
        storage: Storage,
        listeners: Sequence[RunListener],
        lease: Lease,
        clock: Callable[[], float],
    ) -> None:
        """Prepare.

        Parameters
        ----------
        schedule
            Decides; is told of every end, and how far trainings are.
        backend
            Carries out, and has begun.
        storage
            Output location of the run.
        listeners
            Are told everything.
        lease
            Raises if this driver must stop.
        clock
            Gives monotonic seconds.
        """
        self._schedule = schedule
        self._backend = backend
        self._storage = storage
        self._listeners = tuple(listeners)
        self._lease = lease
        self._clock = clock
        self._feed = ProgressFeed(storage, clock=clock)
        self._started_s: dict[StageKey, float] = {}
        self._read_s = float("-inf")
        self._missing: Counter[Resources] = Counter()
        self._told_waiting: Mapping[str, int] = {}
        self._told_machines: Mapping[MachineState, Mapping[Resources, int]] = {}
        self._idle_since_s: dict[str, float] = {}
        self._time_left = TimeLeft()
        self.failures: dict[StageKey, Failed] = {}
        """Stages that have failed for good."""
        self.looks: Looks | None = None
        """Say which trainings are needed, where a run ends once its questions are answered."""

    def execute(self) -> None:
        """Go on until nothing can be started any more; an interruption lets trainings save one more checkpoint."""
        try:
            while not self._schedule.is_over:
                self.step()
        except KeyboardInterrupt:
            self._wind_down()
            raise

    def step(self) -> None:
        """Start what can be started, and take note of what has happened meanwhile."""
        self._decide()
        for key, ended in self._backend.wait(timeout_s=POLL_S):
            self._settle(key, ended)
        self._look_at_nodes()
        self._follow_progress()
        self._tell(TimePassed(schedule=self._schedule))

    def _tell(self, event: RunEvent) -> None:
        for listener in self._listeners:
            listener(event)

    def _decide(self) -> None:
        now_s = self._clock()
        while (start := self._schedule.start_next(now_s)) is not None:
            self._start(start)
        for key in self._schedule.requests_to_stop(now_s):
            stage = self._schedule.graph[key]
            reason = _EXPANDED if self._schedule.needs.is_expanded(stage) else _PREEMPTED
            # It goes on to its end otherwise, which costs time and nothing else.
            self._ask_to_stop(key, reason=reason)
            self._tell(StageAskedToStop(stage=stage, reason=reason))
        self._ask_for_machines()

    def _start(self, start: Start) -> None:
        stage, processors = start.stage, self._schedule.processors
        if stage.kind is StageKind.TRAIN:
            # An old request that cannot be removed costs one more start.
            with suppress(StorageError):
                forget_request(self._storage, training_id=stage.key.training)
            self._time_left.started(stage.key, now_s=self._clock())
        self._feed.started(stage)
        node = processors.node(start.node)
        self._tell(StageStarted(stage=stage, attempt=start.attempt, node=node, gpus=start.share.gpus))
        quarantined = self._schedule.records.quarantined
        self._backend.start(start, nodes=processors.nodes.values(), quarantined=quarantined)
        self._started_s[stage.key] = self._clock()

    def _ask_to_stop(self, key: StageKey, *, reason: str) -> None:
        with suppress(StorageError):
            ask_to_stop(self._storage, training_id=key.training, reason=reason)

    def _settle(self, key: StageKey, ended: Ended) -> None:
        """Tell the schedule and the listeners how a stage has ended."""
        stage, now_s = self._schedule.graph[key], self._clock()
        elapsed_s = now_s - self._started_s.pop(key)
        self._take(self._feed.ended(stage))
        match ended:
            case Done(node=node, voxels=voxels):
                self._schedule.finish(key, now_s=now_s, node=node or None)
                self._schedule.expectations.measured(key, voxels=voxels)
                self._tell(StageFinished(stage=stage, elapsed_s=elapsed_s))
                self._take_looks()
            case Failed():
                self._settle_failure(stage, ended, now_s=now_s)

    def _take_looks(self) -> None:
        """Let the questions of the study say which trainings are needed by now."""
        if self.looks is None or not (looks := self.looks.take(done=self._schedule.outcomes.done)):
            return
        stages = self._schedule.require(map(StageKey.score_of, self.looks.latest.needed))
        self._tell(LooksTaken(looks=looks, stages=tuple(stages)))

    def _settle_failure(self, stage: Stage, failed: Failed, *, now_s: float) -> None:
        lost = self._lost(stage.key) if failed.kind in MAY_LACK_A_FILE else ()
        node = failed.node or None
        decision = self._schedule.fail(stage.key, kind=failed.kind, now_s=now_s, node=node, lost=lost)
        if isinstance(decision, GiveUp):
            self.failures[stage.key] = failed
        self._tell(StageFailed(stage=stage, failed=failed, decision=decision))
        for revived in self._schedule.take_revived():
            self.failures.pop(revived, None)
            self._tell(StageRevived(stage=self._schedule.graph[revived]))

    def _lost(self, key: StageKey) -> Sequence[StageKey]:
        """Return the stages whose products a failed stage cannot have found; none where that cannot be seen now."""
        # Everything is lost where the whole location is.
        self._lease.look()
        with suppress(StorageError):
            return lost_stages(self._schedule.graph, self._storage, key=key)
        return ()

    def _follow_progress(self) -> None:
        """Let the schedule learn what trainings tell, once in a while; raises if this driver must stop."""
        now_s = self._clock()
        if now_s - self._read_s < PROGRESS_EVERY_S:
            return
        self._read_s = now_s
        self._lease.check()
        for progress in self._feed.read():
            self._take(progress)

    def _take(self, progress: Progress | None) -> None:
        """Let the schedule and the listeners learn what a training has told."""
        if progress is None:
            return
        if progress.untold:
            progress.tell(self._schedule, now_s=self._clock())
            if progress.node:
                self._time_left.told(progress.stage.key, now_s=self._clock())
        for latest in progress.untold:
            self._tell(EpochEnded(stage=progress.stage, latest=latest, is_new=True))
        if not progress.untold:
            self._tell(EpochEnded(stage=progress.stage, latest=progress.latest, is_new=False))

    def _look_at_nodes(self) -> None:
        """Tell the schedule which nodes have come and gone; what ran on those ends as failed."""
        seen = self._backend.look_at_nodes()
        if seen is None:
            return
        now_s, processors = self._clock(), self._schedule.processors
        found = {node.id: node for node in seen.present}
        known = set(processors.nodes) | {node.id for node in processors.closed}
        for node_id in known - found.keys():
            self._schedule.remove_node(node_id, now_s=now_s)
        for node_id in found.keys() - known:
            self._schedule.add_node(found[node_id], now_s=now_s)
        for node_id in (seen.draining | self._too_short(seen)) & set(processors.nodes):
            self._schedule.drain_node(node_id, now_s=now_s)
        self._tell_machines()
        self._give_back_idle(now_s)

    def _too_short(self, seen: NodesSeen) -> set[str]:
        """Return the machines on which a training that waits had better not begin any more: others will come."""
        short, need = self._time_left.too_short(seen.left_s), self._schedule.waiting_network()
        if need is None or math.isinf(self._backend.idle_s):
            return set()
        return {node.id for node in seen.present if node.id in short and need.share_of(node)}

    def _tell_machines(self) -> None:
        """Tell what the machines do, if that has changed."""
        processors, found = self._schedule.processors, dict[MachineState, Counter[Resources]]()
        for node_id, state in processors.states(quarantined=self._schedule.records.quarantined).items():
            found.setdefault(state, Counter())[processors.node(node_id).offered] += 1
        if found != self._told_machines:
            self._told_machines = found
            self._tell(MachinesSeen(machines=found))

    def _give_back_idle(self, now_s: float) -> None:
        """Let machines go on which nothing has run for a while, and drained ones as soon as nothing runs there."""
        if math.isinf(self._backend.idle_s):
            return
        quarantined, processors = self._schedule.records.quarantined, self._schedule.processors
        idle = [node_id for node_id in processors.idle if node_id not in quarantined]
        self._idle_since_s = {node_id: self._idle_since_s.get(node_id, now_s) for node_id in idle}
        for node_id, since_s in self._idle_since_s.items():
            if now_s - since_s > self._backend.idle_s or not processors.has(node_id):
                self._backend.give_back(node_id)

    def _ask_for_machines(self) -> None:
        """Let whoever starts machines know what is missing for what could run now."""
        if not self._backend.pools:
            return
        missing, processors = self._missing_machines(), self._schedule.processors
        there = (*processors.nodes.values(), *processors.closed)
        self._backend.ask_for(missing, there=there, quarantined=self._schedule.records.quarantined)
        waiting = self._backend.waiting()
        if waiting != self._told_waiting:
            self._told_waiting = waiting
            self._tell(MachinesWaiting(waiting=waiting))
        if missing != self._missing:
            self._missing = missing
            self._tell(MachinesMissing(missing=missing))

    def _missing_machines(self) -> Counter[Resources]:
        processors = self._schedule.processors
        return missing_machines(
            self._backend.pools,
            present=processors.nodes.values(),
            useless=processors.closed,
            need=self._schedule.needs.one,
            demand=self._schedule.demand(),
        )

    def _wind_down(self) -> None:
        """Ask all trainings to stop and wait for them; a second interruption ends the waiting."""
        trainings = [key for key in self._started_s if key.kind is StageKind.TRAIN]
        for key in trainings:
            # Without it the training goes on from the checkpoint before.
            self._ask_to_stop(key, reason="the driver was interrupted")
        if trainings:
            self._backend.await_all(trainings, timeout_s=WIND_DOWN_S)
        for key in trainings:
            self._take(self._feed.ended(self._schedule.graph[key]))
