"""The one door to Ray: carries out stages as its tasks, and brings back what became of them."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from orchestrator.cluster.config import EmbeddedRay
from orchestrator.cluster.node_pool import NodePool, Resources
from orchestrator.errors import ClusterError, OrchestratorError
from orchestrator.progress import Snapshot
from orchestrator.ray_backend.capacity import CapacityRequests
from orchestrator.ray_backend.connect import Connection
from orchestrator.ray_backend.draining import drain_idle, draining_nodes
from orchestrator.ray_backend.errors import failure_of
from orchestrator.ray_backend.launch_failures import LaunchFailures, log_of_autoscaler
from orchestrator.ray_backend.leftovers import remove_orphaned_placement_groups
from orchestrator.ray_backend.metrics import RayMetrics
from orchestrator.ray_backend.nodes import label_selector, nodes_here, nodes_of, time_left
from orchestrator.ray_backend.tasks import submit
from orchestrator.scheduling.ended import Done, Ended, Failed
from orchestrator.scheduling.placement import Start
from orchestrator.scheduling.resources import Node, NodesSeen
from orchestrator.stages.context import RunContext
from orchestrator.workflow.keys import StageKey, StageKind

T = TypeVar("T")

NODES_INTERVAL_S = 10.0
"""Time between two looks at the nodes."""


_TRIES = 3
"""Of a task whose process dies. Ray itself would try one that takes too much memory without end."""
_DEATHS = (WorkerCrashedError, OutOfMemoryError, NodeDiedError, ObjectLostError)
"""Of a process or its machine: nothing that other tasks need is gone."""


def map_unordered(
    function: Callable[[str], T], items: Sequence[str], *, name: str, lost: Callable[[str], T]
) -> Iterator[T]:
    """Call a function for each item as Ray tasks of one CPU and yield what they return, as it comes.

    What `lost` returns is yielded for an item whose process dies each time. What the function raises comes as it is;
    ClusterError is raised if the cluster does not do its part.
    """

    def call(item: str) -> T:
        return function(item)

    task = ray.remote(num_cpus=1, max_retries=0)(call)

    def start(item: str) -> "ray.ObjectRef[T]":
        # Ray's names are UTF-8, file names need not be.
        return task.options(name=f"{name} {item}".encode(errors="replace").decode()).remote(item)

    waiting = {start(item): item for item in items}
    tries = Counter(waiting.values())
    while waiting:
        (finished, *_), _ = ray.wait(list(waiting), num_returns=1)
        item = waiting.pop(finished)
        try:
            found = ray.get(finished)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, OrchestratorError) else error) from error
        except _DEATHS:
            if tries[item] < _TRIES:
                tries[item] += 1
                waiting[start(item)] = item
                continue
            found = lost(item)
        except RayError as error:
            raise ClusterError(f"a task of the cluster was lost: {error}") from error
        yield found


class RayBackend:
    """A run's connection to a Ray: what it decides is started there."""

    def __init__(self, connection: Connection, *, pools: tuple[NodePool, ...]) -> None:
        """Use a connection; `pools` are machines that may be added."""
        self._provisioner = connection.ray.provisioner
        self._context: ray.ObjectRef[RunContext] | None = None
        self._separate_trainings = False
        self._has_divided = False
        # With the machine, where that is known.
        self._running: dict[ray.ObjectRef[Ended], tuple[StageKey, str]] = {}
        self._capacity_requests = CapacityRequests()
        self._failures = LaunchFailures(log_of_autoscaler())
        self._metrics = RayMetrics()
        self._nodes_seen_s = time.monotonic()
        self.pools = pools
        self.dashboard = connection.dashboard
        self.is_embedded = isinstance(connection.ray, EmbeddedRay)
        self.idle_s = connection.ray.idle_s

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Machines on which stages can be placed now."""
        return (nodes_here if self.is_embedded else nodes_of)(ray.nodes())

    def begin(self, context: RunContext, *, separate_trainings: bool) -> None:
        """Prepare to carry out stages of a run; separate trainings get a process each."""
        self._context = ray.put(context)
        self._separate_trainings = separate_trainings

    def start(self, start: Start, *, nodes: Collection[Node], quarantined: Collection[str]) -> None:
        """Start a stage: on a machine like the one that was chosen, of these, and on none that is quarantined."""
        stage = start.stage
        node = next(node for node in nodes if node.id == start.node)
        reference, place = submit(
            start,
            context=self._context,
            is_separate=self._separate_trainings and stage.kind is StageKind.TRAIN,
            selector=label_selector(node, nodes=nodes, quarantined=quarantined),
        )
        self._running[reference] = stage.key, place
        self._has_divided |= start.num_workers > 1

    def wait(self, *, timeout_s: float) -> Sequence[tuple[StageKey, Ended]]:
        """Return what has ended, as soon as anything has, and nothing after that time."""
        waiting = [*self._running, *self._capacity_requests.references]
        if not waiting:
            time.sleep(timeout_s)
            return ()
        finished, _ = ray.wait(waiting, num_returns=1, timeout=timeout_s)
        for reference in finished:
            if reference not in self._running:
                self._capacity_requests.ended(reference)
                self._nodes_seen_s = float("-inf")
        ended = [self._end_of(one) for one in finished if one in self._running]
        if any(isinstance(end, Failed) for _, end in ended):
            # Its machine may be about to leave: what is tried again would be waited for there.
            self._nodes_seen_s = float("-inf")
        return ended

    def await_all(self, keys: Collection[StageKey], *, timeout_s: float) -> None:
        """Return when all of these have ended, or after that time."""
        references = [reference for reference, (key, _) in self._running.items() if key in keys]
        ray.wait(references, num_returns=len(references), timeout=timeout_s)

    def look_at_nodes(self) -> NodesSeen | None:
        """Return the machines that are there now; None if that was told a moment ago."""
        if time.monotonic() - self._nodes_seen_s < NODES_INTERVAL_S:
            return None
        self._nodes_seen_s = time.monotonic()
        if self._has_divided:
            remove_orphaned_placement_groups()
        found = ray.nodes()
        left_s = time_left(found, now_s=time.time())
        return NodesSeen(present=nodes_of(found), draining=draining_nodes(), left_s=left_s)

    def ask_for(
        self, missing: Mapping[Resources, int], *, there: Collection[Node], quarantined: Collection[str]
    ) -> None:
        """Let Ray's autoscaler, or who else starts machines, know how many of each size are missing."""
        if self._provisioner is None:
            self._capacity_requests.send(missing, quarantined=quarantined)
            return
        self._provisioner.ask(missing, present=Counter(node.offered for node in there))

    def waiting(self) -> Mapping[str, int]:
        """Return how many machines wait in a queue, or could not be started just now, by pool and reason."""
        return (self._provisioner.waiting if self._provisioner else self._failures.recent)()

    def give_back(self, node_id: str) -> None:
        """Let a machine go on which nothing has run for a while; Ray refuses where something does after all."""
        drain_idle(node_id)

    def publish(self, snapshot: Snapshot, stage_seconds: Mapping[StageKind, float]) -> None:
        """Set the metrics of the Ray cluster."""
        self._metrics.publish(snapshot, stage_seconds)

    def _end_of(self, reference: "ray.ObjectRef[Ended]") -> tuple[StageKey, Ended]:
        key, node = self._running.pop(reference)
        try:
            # A training of several workers tells nothing at its end.
            return key, ray.get(reference) or Done()
        except RayError as error:
            failed = failure_of(error)
            return key, replace(failed, node=failed.node or node)
