"""The one door to Ray: starts the stages that the schedule chooses and brings back what became of them."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from orchestrator.cluster.config import Provisioner
from orchestrator.cluster.node_pool import NodePool
from orchestrator.errors import ClusterError, OrchestratorError, StorageError
from orchestrator.ray_backend.capacity import CapacityRequests
from orchestrator.ray_backend.draining import drain_idle, draining_nodes
from orchestrator.ray_backend.errors import address_of, classify, innermost, node_of
from orchestrator.ray_backend.leftovers import free_reserved_places
from orchestrator.ray_backend.nodes import label_selector, node_at, nodes_of
from orchestrator.ray_backend.tasks import Ended, settle_coordinator, submit
from orchestrator.scheduling.autoscaling import missing_machines
from orchestrator.scheduling.resources import Node, Resources
from orchestrator.scheduling.retries import FailureKind, GiveUp, Retry
from orchestrator.scheduling.scheduler import Schedule, Start
from orchestrator.stages.context import RunContext
from orchestrator.stages.finished import lost_stages
from orchestrator.stages.preemption import REMOTE_MARKER_EVERY_S, ask_to_stop, forget_request
from orchestrator.workflow.graph import Stage, StageKind

T = TypeVar("T")

MAY_LACK_A_FILE = {FailureKind.TRANSIENT, FailureKind.DETERMINISTIC}
"""Failures after which it is looked whether a file of ours is lost."""

POLL_S = 0.5
"""Longest time between two looks at the running stages."""
WIND_DOWN_S = REMOTE_MARKER_EVERY_S + 45.0
"""Longest time that an interrupted driver gives its trainings for one more checkpoint: to see that they are asked, to
end the validation of an epoch, to write."""
NODES_INTERVAL_S = 10.0
"""Time between two looks at the nodes."""


class RunListener(Protocol):
    """Is told what happens in a run."""

    def stage_started(self, stage: Stage, *, attempt: int, node: Node, gpus: float) -> None:
        """Take note that a stage was handed to the cluster, for this share of the GPUs of a node like this."""

    def stage_finished(self, stage: Stage, *, elapsed_s: float) -> None:
        """Take note that a stage is done."""

    def stage_failed(self, stage: Stage, *, error: Exception, decision: Retry | GiveUp) -> None:
        """Take note that a stage has failed and of what follows."""

    def stage_asked_to_stop(self, stage: Stage) -> None:
        """Take note that a training was asked to stop for another."""

    def machines_missing(self, missing: Mapping[Resources, int]) -> None:
        """Take note that so many machines of each size are asked for, other numbers than before."""

    def machines_waiting(self, waiting: Mapping[str, int]) -> None:
        """Take note that so many machines wait in a queue, by pool and reason; other numbers than before."""

    def stage_revived(self, stage: Stage) -> None:
        """Take note that a stage that had failed for good is tried again: its node turned out to be broken."""

    def tick(self, schedule: Schedule) -> None:
        """Take note that time has passed."""


def map_unordered(function: Callable[[str], T], items: Sequence[str], *, name: str) -> Iterator[T]:
    """Call a function for each item as Ray tasks of one CPU and yield what they return, as it comes.

    Raises ClusterError if a task is lost; what the function raises comes as it is.
    """

    def call(item: str) -> T:
        return function(item)

    task = ray.remote(num_cpus=1)(call)
    # Ray's names are UTF-8, file names need not be.
    names = [f"{name} {item}".encode(errors="replace").decode() for item in items]
    waiting = [task.options(name=own).remote(item) for own, item in zip(names, items, strict=True)]
    while waiting:
        (finished, *_), waiting = ray.wait(waiting, num_returns=1)
        try:
            yield ray.get(finished)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, OrchestratorError) else error) from error
        except RayError as error:
            raise ClusterError(f"a task of the cluster was lost: {error}") from error


@dataclass(kw_only=True, slots=True)
class _Running:
    stage: Stage
    started_s: float


class Executor:
    """Carries out a schedule on the connected cluster."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        context: RunContext,
        listener: RunListener,
        pools: Sequence[NodePool],
        provisioner: Provisioner | None = None,
        idle_s: float = float("inf"),
        separate_trainings: bool,
    ) -> None:
        """Prepare.

        Parameters
        ----------
        schedule
            Decides; is told of every end.
        context
            The run.
        listener
            Is told everything.
        pools
            Machines that may be added.
        provisioner
            Who adds them; None for Ray's autoscaler.
        idle_s
            After so long without work a machine is given back.
        separate_trainings
            Each training gets a Ray Train worker of its own, on any node; otherwise it is fitted in a process that
            goes on to the next one, which spares a miniature the start of five processes and the imports of nnU-Net.
        """
        self._schedule = schedule
        self._context = context
        self._shared_place = ray.put(context)
        self._listener = listener
        self._pools = pools
        self._capacity_requests = CapacityRequests()
        self._provisioner = provisioner
        self._idle_s = idle_s
        self._idle_since_s: dict[str, float] = {}
        self._told_waiting: Mapping[str, int] = {}
        self._missing: Counter[Resources] = Counter()
        self._separate_trainings = separate_trainings
        if separate_trainings:
            settle_coordinator()
        self._running: dict[Any, _Running] = {}
        self._nodes_seen_s = time.monotonic()

    def execute(self) -> None:
        """Go on until nothing can be started any more; an interruption lets trainings save one more checkpoint."""
        try:
            self._drive()
        except KeyboardInterrupt:
            self._wind_down()
            raise

    def _drive(self) -> None:
        while not self._schedule.is_over:
            now_s = time.monotonic()
            while (start := self._schedule.start_next(now_s)) is not None:
                self._submit(start)
            self._ask_to_stop(now_s)
            self._ask_for_machines()
            self._wait()
            self._look_at_nodes()
            self._listener.tick(self._schedule)

    def _wait(self) -> None:
        """Wait a little for something to end, and tell what has."""
        waiting = [*self._running, *self._capacity_requests.references]
        if not waiting:
            time.sleep(POLL_S)
            return
        finished, _ = ray.wait(waiting, num_returns=1, timeout=POLL_S)
        for reference in finished:
            if reference in self._running:
                self._settle(self._running.pop(reference), reference=reference)
            else:
                self._capacity_requests.ended(reference)
                self._nodes_seen_s = float("-inf")

    def _submit(self, start: Start) -> None:
        stage = start.stage
        separate = self._separate_trainings and stage.kind is StageKind.TRAIN
        node = self._schedule.processors.node(start.node)
        share = self._schedule.need(stage).share_of(node)
        assert share is not None, stage.id
        if stage.kind is StageKind.TRAIN and stage.training is not None:
            # An old request that cannot be removed costs one more start.
            with suppress(StorageError):
                forget_request(self._context.storage, training_id=stage.training.id)
        self._listener.stage_started(stage, attempt=start.attempt, node=node, gpus=share.gpus)
        selector = label_selector(
            node, nodes=self._schedule.processors.nodes.values(), quarantined=self._schedule.records.quarantined
        )
        reference = submit(
            stage, context=self._shared_place, node_id=node.id, share=share, separate=separate, selector=selector
        )
        self._running[reference] = _Running(stage=stage, started_s=time.monotonic())

    def _ask_to_stop(self, now_s: float) -> None:
        for stage_id in self._schedule.requests_to_stop(now_s):
            stage = self._schedule.graph[stage_id]
            assert stage.training is not None, stage_id
            reason = "preempted for a training with a longer way to go"
            # It goes on to its end otherwise, which costs time and nothing else.
            with suppress(StorageError):
                ask_to_stop(self._context.storage, training_id=stage.training.id, reason=reason)
            self._listener.stage_asked_to_stop(stage)

    def _settle(self, running: _Running, *, reference: Any) -> None:
        """Tell the schedule and the listener how a stage has ended."""
        stage, now_s = running.stage, time.monotonic()
        try:
            ended: Ended | None = ray.get(reference)
        except RayError as error:
            kind = classify(error)
            lost = self._lost(stage) if kind in MAY_LACK_A_FILE else ()
            where = node_of(error) or node_at(address_of(error), found=ray.nodes())
            decision = self._schedule.fail(stage.id, kind=kind, now_s=now_s, node=where, lost=lost)
            cause = innermost(error)
            self._listener.stage_failed(
                stage, error=cause if isinstance(cause, Exception) else error, decision=decision
            )
            for stage_id in self._schedule.take_revived():
                self._listener.stage_revived(self._schedule.graph[stage_id])
        else:
            self._schedule.finish(stage.id, now_s=now_s, node=ended.node if ended else None)
            self._schedule.expectations.measured(stage.id, voxels=ended.voxels if ended else 0)
            self._listener.stage_finished(stage, elapsed_s=now_s - running.started_s)

    def _lost(self, stage: Stage) -> Sequence[str]:
        """Return the stages whose products a failed stage cannot have found; none where that cannot be seen now."""
        with suppress(StorageError):
            return lost_stages(self._schedule.graph, self._context.storage, stage_id=stage.id)
        return ()

    def _look_at_nodes(self) -> None:
        """Tell the schedule which nodes have come and gone; what ran on those ends with an error of Ray."""
        now_s = time.monotonic()
        if now_s - self._nodes_seen_s < NODES_INTERVAL_S:
            return
        self._nodes_seen_s = now_s
        if self._separate_trainings:
            free_reserved_places()
        found = {node.id: node for node in nodes_of(ray.nodes())}
        processors = self._schedule.processors
        known = set(processors.nodes) | {node.id for node in processors.closed}
        for node_id in known - found.keys():
            self._schedule.remove_node(node_id, now_s=now_s)
        for node_id in found.keys() - known:
            self._schedule.add_node(found[node_id], now_s=now_s)
        for node_id in draining_nodes() & set(processors.nodes):
            self._schedule.drain_node(node_id, now_s=now_s)
        self._give_back_idle(now_s)

    def _ask_for_machines(self) -> None:
        """Let the autoscaler know what is missing for what could run now."""
        if not self._pools:
            return
        processors = self._schedule.processors
        missing = missing_machines(
            self._pools,
            present=processors.nodes.values(),
            useless=processors.closed,
            need=self._schedule.training_need,
            demand=self._schedule.demand(),
        )
        if self._provisioner is None:
            self._capacity_requests.send(missing, quarantined=self._schedule.records.quarantined)
        else:
            self._ask(self._provisioner, missing)
        if missing != self._missing:
            self._missing = missing
            self._listener.machines_missing(missing)

    def _ask(self, provisioner: Provisioner, missing: Mapping[Resources, int]) -> None:
        processors = self._schedule.processors
        there = Counter(node.offered for node in (*processors.nodes.values(), *processors.closed))
        provisioner.ask(
            {(size.cpus, size.gpus): number for size, number in missing.items()},
            present={(size.cpus, size.gpus): number for size, number in there.items()},
        )
        waiting = provisioner.waiting()
        if waiting != self._told_waiting:
            self._told_waiting = waiting
            self._listener.machines_waiting(waiting)

    def _give_back_idle(self, now_s: float) -> None:
        """Let machines go on which nothing has run for a while; Ray refuses where something does after all."""
        idle = self._schedule.processors.idle
        self._idle_since_s = {node_id: self._idle_since_s.get(node_id, now_s) for node_id in idle}
        for node_id, since_s in self._idle_since_s.items():
            if now_s - since_s > self._idle_s:
                drain_idle(node_id)

    def _wind_down(self) -> None:
        """Ask all trainings to stop and wait for them; a second interruption ends the waiting."""
        trainings = {
            reference: item.stage.training.id
            for reference, item in self._running.items()
            if item.stage.kind is StageKind.TRAIN and item.stage.training is not None
        }
        for training_id in trainings.values():
            # Without it the training goes on from the checkpoint before.
            with suppress(StorageError):
                ask_to_stop(self._context.storage, training_id=training_id, reason="the driver was interrupted")
        if trainings:
            ray.wait(list(trainings), num_returns=len(trainings), timeout=WIND_DOWN_S)
