"""Where stages are put, and where running ones are: where the schedule has put them, until they tell."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cluster.node_pool import Resources
from orchestrator.scheduling.expectations import Expectations
from orchestrator.scheduling.rebalancing import OpenTraining
from orchestrator.scheduling.reservations import Reservations
from orchestrator.scheduling.resources import Node, Processors, ResourceRequest
from orchestrator.scheduling.training_need import Needs
from orchestrator.workflow.graph import Graph, Stage
from orchestrator.workflow.keys import StageKey, StageKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Start a stage."""

    stage: Stage
    node: str
    """Id of the node."""
    attempt: int
    """Number of the attempt, from 1."""
    share: Resources
    """What it takes of that node."""
    num_workers: int = 1
    """Processes that carry it out together."""

    @property
    def share_of_worker(self) -> Resources:
        """What each of its workers takes of that node."""
        return Resources(cpus=self.share.cpus / self.num_workers, gpus=self.share.gpus / self.num_workers)


@dataclass(kw_only=True, slots=True)
class Attempt:
    """A stage that runs."""

    node: str
    need: ResourceRequest
    remaining_s: float
    """Of a training, on a GPU of speed 1, at `at_s`."""
    at_s: float
    since_s: float
    has_told: bool = False
    """Whether it is known to be on this node: of machines of one kind the cluster takes any that has room."""


class Running(dict[StageKey, Attempt]):
    """The stages that run, by key, and what is expected of them; trainings on a GPU of speed 1 with one worker."""

    def __init__(self, graph: Graph, *, processors: Processors, expectations: Expectations) -> None:
        """Begin with nothing that runs.

        Parameters
        ----------
        graph
            Stages by key.
        processors
            On which those that run are accounted for.
        expectations
            Of all stages.
        """
        super().__init__()
        self._graph = graph
        self._processors = processors
        self._expectations = expectations

    def node(self, node_id: str) -> Node | None:
        """Return a node; None if it may not be used."""
        return self._processors.node(node_id) if self._processors.has(node_id) else None

    def speed(self, node_id: str) -> float:
        """Return the speed of the GPUs of a node as far as it has shown."""
        node = self.node(node_id)
        return self._expectations.speed(node) if node else 1.0

    def pace(self, key: StageKey) -> float:
        """Return the seconds of its expected time that a stage does in one."""
        if self._graph[key].kind is not StageKind.TRAIN:
            return 1.0
        return self.speed(self[key].node) * self[key].need.pace

    def remaining_s(self, key: StageKey, *, now_s: float) -> float:
        """Return what a stage still needs, whether it runs or not."""
        attempt = self.get(key)
        if attempt is None:
            return self._expectations.remaining_s(key)
        return max(0.0, attempt.remaining_s - (now_s - attempt.at_s) * self.pace(key))

    def beside(self, needs: Needs) -> list[Attempt]:
        """Return what runs with a network and is not preempted for others."""
        stages = [(self._graph[key], attempt) for key, attempt in self.items()]
        return [one for stage, one in stages if stage.kind.uses_network and not needs.may_move(stage)]

    def reconcile(self, node: str, attempt: Attempt) -> None:
        """Take note that a running stage is on a node; where that is full, who was believed there is where it was.

        A node that is gone is not believed.
        """
        processors = self._processors
        if not processors.has(node):
            return
        if node != attempt.node:
            if not processors.has_room(node, attempt.need):
                for other in self.values():
                    if other.node == node and other.need == attempt.need and not other.has_told:
                        other.node, attempt.node = attempt.node, node
                        break
            if attempt.node != node:
                processors.release(attempt.node, attempt.need)
                processors.take(node, attempt.need)
                attempt.node = node
        attempt.has_told = True

    def first_with_room(self, need: ResourceRequest) -> str | None:
        """Return the node that is the first to have room for a need if nothing more is started there; None for none."""
        by_node: dict[str, list[tuple[float, Attempt]]] = {node_id: [] for node_id in self._processors.nodes}
        for key, attempt in self.items():
            if attempt.node in by_node:
                by_node[attempt.node].append((attempt.at_s + attempt.remaining_s / self.pace(key), attempt))
        room_s = {}
        for node_id, node in self._processors.nodes.items():
            from_s = _room_from_s(need, node, free=self._processors.free_on(node_id), running=by_node[node_id])
            if from_s is not None:
                room_s[node_id] = from_s
        return min(room_s, key=lambda node_id: (room_s[node_id], node_id), default=None)


def _room_from_s(
    need: ResourceRequest, node: Node, *, free: Resources, running: Iterable[tuple[float, Attempt]]
) -> float | None:
    """Return when a need finds room on a node as what runs there ends, 0 for now; None if it never does."""
    share = need.share_of(node)
    if share is None:
        return None
    from_s = 0.0
    for end_s, attempt in sorted(running, key=lambda one: one[0]):
        if share.fits_in(free):
            break
        from_s, free = end_s, free + (attempt.need.share_of(node) or Resources(cpus=0.0))
    return from_s


def slots(processors: Processors, *, need: ResourceRequest, others: Iterable[Attempt]) -> list[str]:
    """Return the node of each slot for a training with that need; other running stages with a network take some."""
    on_node: dict[str, float] = {}
    for attempt in others:
        if processors.has(attempt.node):
            taken = _in_slots(attempt.need, need, node=processors.node(attempt.node))
            on_node[attempt.node] = on_node.get(attempt.node, 0.0) + taken
    return [
        node_id
        for node_id, node in processors.nodes.items()
        for _ in range(need.num_on(node) - math.ceil(on_node.get(node_id, 0.0)))
    ]


def _in_slots(other: ResourceRequest, need: ResourceRequest, *, node: Node) -> float:
    """Return how many slots for one need another need takes of a node."""
    share, taken = need.share_of(node), other.share_of(node)
    if share is None or taken is None:
        return 0.0
    return taken.gpus / share.gpus if share.gpus else taken.cpus / share.cpus


def expansions(
    running: Iterable[tuple[Stage, Attempt, float]],
    *,
    processors: Processors,
    needs: Needs,
    min_gain_s: float,
) -> list[tuple[Stage, int]]:
    """Return the trainings that end earlier with more workers on idle GPUs of their machines, and with how many.

    Parameters
    ----------
    running
        Trainings, with how long each still needs as it is.
    processors
        What is idle.
    needs
        How many workers each may have.
    min_gain_s
        By how much less it must need.
    """
    free = {node_id: processors.free_on(node_id) for node_id in processors.nodes}
    found = []
    for stage, attempt, remaining_s in sorted(running, key=lambda one: -one[2]):
        share = attempt.need.share_of(processors.node(attempt.node)) if attempt.node in free else None
        if share is None:
            continue
        for number in range(needs.most.get(stage.key.training, 1), attempt.need.num_workers, -1):
            wider = needs.together(number)
            wanted, there = wider.share_of(processors.node(attempt.node)), free[attempt.node] + share
            gain_s = remaining_s * (1 - attempt.need.pace / wider.pace)
            if wanted is not None and wanted.fits_in(there) and gain_s > min_gain_s:
                free[attempt.node] = there - wanted
                found.append((stage, number))
                break
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What is looked at before somebody is preempted."""

    slots: Sequence[str]
    """The node of each slot on which a training can run."""
    running: Mapping[StageKey, Attempt]
    reservations: Reservations
    """Who was asked to stop, and for whom a slot is kept."""
    can_start: Callable[[StageKey], bool]
    """Whether only a slot is missing to a training."""
    is_settled: Callable[[Attempt], bool]
    """Whether an attempt has run long enough to be stopped again."""
    remaining_s: Callable[[StageKey], float]
    """What is expected of a training."""
    margin: Callable[[StageKey], float]
    """By which share it may turn out to be longer."""

    def open_trainings(self, keys: Iterable[StageKey]) -> list[OpenTraining]:
        """Return trainings that are not done as rebalancing sees them; their slots are indices of `slots`."""
        free_of: dict[str, list[int]] = {}
        for index, node_id in enumerate(self.slots):
            free_of.setdefault(node_id, []).append(index)
        return [self._open_training(key, free_of) for key in keys]

    def _open_training(self, key: StageKey, free_of: Mapping[str, list[int]]) -> OpenTraining:
        """Return one training; its slot is taken from those that are free."""
        attempt, kept = self.running.get(key), self.reservations.node_of(key)
        is_stopping = key in self.reservations.stopping
        is_leaving = attempt is None or (is_stopping and self.reservations.is_awaited(attempt.node))
        where = kept or (attempt.node if attempt and not is_leaving else None)
        there = free_of.get(where, []) if where else []
        left_s = self.remaining_s(key)
        return OpenTraining(
            id=key,
            remaining_s=left_s,
            margin_s=0.0 if attempt else left_s * self.margin(key),
            slot=there.pop() if there else None,
            can_start=self.can_start(key) and kept is None,
            can_stop=attempt is not None and self.is_settled(attempt) and not is_stopping and kept is None,
        )
