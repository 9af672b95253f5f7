"""Nodes, what a stage takes of them, and where it is placed: fast GPUs first, and nothing that starves a neighbour."""

import heapq
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.benchmark.costs import pace_of_workers
from orchestrator.cluster.node_pool import ROUNDING, NodePool, Resources

_RAY_UNITS = 10_000
"""Ray counts resources in this many parts of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One machine of a cluster."""

    id: str
    """Unique, also over time: a machine that comes back is another node."""
    offered: Resources
    """All of its processors."""
    kind: str = ""
    """Kind of its GPUs, empty if that does not matter."""
    speed: float = 1.0
    """Training speed of one of its GPUs, of an A100 = 1; of its cores where there is no GPU."""
    gpu_memory_gib: float = float("inf")
    """Of each GPU; infinite where it is not known."""
    memory_gib: float = float("inf")
    """Of its processors, for all that runs there; infinite where it is not known."""


class MachineState(StrEnum):
    """What a machine of a cluster does."""

    BUSY = "busy"
    IDLE = "idle"
    DRAINED = "drained"
    """It is about to leave: what runs there may end, nothing more is started."""
    QUARANTINED = "quarantined"
    """Everything has failed there: it gets nothing for a while."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodesSeen:
    """The machines of a cluster at one moment."""

    present: tuple[Node, ...]
    draining: frozenset[str]
    """Ids of those that are about to leave."""
    left_s: Mapping[str, float] = field(default_factory=dict)
    """Id to the seconds until it will be drained, where its end is known."""


def node_of(pool: NodePool) -> Node:
    """Return what one machine of a pool is to the schedule, under the name of the pool."""
    return Node(
        id=pool.name,
        offered=pool.offered,
        kind=pool.gpu.name,
        speed=pool.gpu.speed,
        gpu_memory_gib=pool.gpu.memory_gib,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceRequest:
    """What a stage takes, wherever it runs: all fields but the last are of one worker."""

    cpus: float
    """CPUs; they are its own, so that a neighbour cannot slow it down."""
    gpus: float = 0.0
    """The least share of a GPU."""
    gpu_load: float = 0.0
    """Share of a GPU that it keeps busy when it is alone."""
    gpu_memory_gib: float = 0.0
    """Memory of the GPU; a small GPU gives a larger share of itself for it."""
    gpus_of_unknown: float = 0.0
    """The least share of a GPU whose memory is not known."""
    memory_gib: float = 0.0
    """Memory of the node, roughly. A node that has less takes such a stage alone."""
    num_workers: int = 1
    """Processes of one training, all on one node; two of them share no GPU."""

    @property
    def pace(self) -> float:
        """How much faster than a single worker all are together."""
        return pace_of_workers(self.num_workers)

    def share_of(self, node: Node) -> Resources | None:
        """Return what it takes of a node, None if it can never run there.

        A share of a GPU is a whole half, third, quarter, ...: several of them fill one GPU, and none lies across two.
        """
        gpus = self.gpus
        if gpus:
            by_memory = self.gpu_memory_gib / node.gpu_memory_gib
            if by_memory > 1 + ROUNDING:
                return None
            least = 1.0 if self.num_workers > 1 else gpus
            gpus = max(least, by_memory, self.gpus_of_unknown if math.isinf(node.gpu_memory_gib) else 0.0)
        if 0 < gpus < 1:
            # Rounded down: Ray would round a sixth up, and six of them would no longer fit.
            gpus = math.floor(_RAY_UNITS / int(1 / gpus + ROUNDING)) / _RAY_UNITS
        share = Resources(cpus=self.cpus * self.num_workers, gpus=gpus * self.num_workers)
        return share if share.fits_in(node.offered) else None

    def num_on(self, node: Node) -> int:
        """Return how many stages with this need a node has room for when it is empty."""
        share = self.share_of(node)
        if share is None:
            return 0
        number = _times(share, node.offered)
        memory_gib = self.memory_gib * self.num_workers
        by_memory = max(1.0, node.memory_gib / memory_gib) if memory_gib else float("inf")
        return int(min(number, by_memory))

    def memory_of(self, node: Node) -> float:
        """Return the memory that it takes of a node, in GiB."""
        return min(self.memory_gib * self.num_workers, node.memory_gib)

    def pace_with(self, share: Resources) -> float:
        """Return its speed with a share of GPUs whose other shares are taken as well, of one worker alone there = 1."""
        of_each = min(1.0, share.gpus / self.num_workers / self.gpu_load) if self.gpu_load else 1.0
        return of_each * self.pace


@dataclass(kw_only=True, slots=True)
class _State:
    node: Node
    free: Resources
    free_gib: float
    order: int
    num_taken: int = 0


@dataclass(kw_only=True, slots=True)
class _Candidates:
    """Nodes that may have room for one need, the best first; those that have none are dropped when they come up."""

    heap: list[tuple[tuple[float, float, int], str]] = field(default_factory=list)
    members: set[str] = field(default_factory=set)


class Processors:
    """All nodes of a cluster and what is free on each."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        """Begin with nodes on which nothing runs."""
        self._states: dict[str, _State] = {}
        self._closed: set[str] = set()
        self._num_added = 0
        self._candidates: dict[tuple[ResourceRequest, ResourceRequest | None], _Candidates] = {}
        for node in nodes:
            self.add(node)

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Every node that may be used, by id."""
        return {node_id: state.node for node_id, state in self._states.items() if node_id not in self._closed}

    @property
    def closed(self) -> tuple[Node, ...]:
        """Nodes that are there and get nothing now."""
        return tuple(self._states[node_id].node for node_id in sorted(self._closed))

    @property
    def idle(self) -> tuple[str, ...]:
        """Ids of the nodes of which nothing is taken, those included that get nothing now."""
        return tuple(node_id for node_id, state in self._states.items() if not state.num_taken)

    def states(self, *, quarantined: Collection[str]) -> Mapping[str, MachineState]:
        """Return what every node that is there does, by id."""
        idle = set(self.idle)
        states = {}
        for node_id in self._states:
            if node_id in self._closed:
                states[node_id] = MachineState.QUARANTINED if node_id in quarantined else MachineState.DRAINED
            else:
                states[node_id] = MachineState.IDLE if node_id in idle else MachineState.BUSY
        return states

    @property
    def offered(self) -> Resources:
        """All processors of the nodes that may be used."""
        return _total(node.offered for node in self.nodes.values())

    def node(self, node_id: str) -> Node:
        """Return a node that has not been removed."""
        return self._states[node_id].node

    def free_on(self, node_id: str) -> Resources:
        """Return what nothing has taken of a node."""
        return self._states[node_id].free

    def has(self, node_id: str) -> bool:
        """Whether a node is there and may be used."""
        return node_id in self._states and node_id not in self._closed

    def add(self, node: Node) -> None:
        """Use one more node."""
        self._states[node.id] = _State(node=node, free=node.offered, free_gib=node.memory_gib, order=self._num_added)
        self._num_added += 1
        self._offer(node.id)

    def remove(self, node_id: str) -> None:
        """Forget a node that is gone, with all that was taken of it."""
        self._states.pop(node_id, None)
        self._closed.discard(node_id)

    def close(self, node_id: str) -> None:
        """Place nothing more on a node until it is reopened; what runs there goes on."""
        if node_id in self._states:
            self._closed.add(node_id)

    def reopen(self, node_id: str) -> bool:
        """Place stages on a closed node again; returns False if it is gone."""
        self._closed.discard(node_id)
        if node_id not in self._states:
            return False
        self._offer(node_id)
        return True

    def allocate(self, need: ResourceRequest, *, keep_for: ResourceRequest | None = None) -> str | None:
        """Choose the best node with room and take the share of it.

        Parameters
        ----------
        need
            What is taken.
        keep_for
            Leave enough CPUs and memory on each node for its free GPUs to be used by such a stage: a stream of small
            stages would otherwise keep a training from its GPU for ever.

        Returns
        -------
        str or None
            The node; None if there is room nowhere.
        """
        key = (need, keep_for)
        if key not in self._candidates:
            self._candidates[key] = _Candidates()
            for node_id in self._states:
                self._offer_for(key, node_id)
        candidates = self._candidates[key]
        while candidates.heap:
            node_id = candidates.heap[0][1]
            if self.has_room(node_id, need, keep_for=keep_for):
                self.take(node_id, need)
                return node_id
            heapq.heappop(candidates.heap)
            candidates.members.discard(node_id)
        return None

    def has_room(self, node_id: str, need: ResourceRequest, *, keep_for: ResourceRequest | None = None) -> bool:
        """Whether a node has room now; with `keep_for`, beside what that needs of it for the GPUs that are free."""
        if not self.has(node_id):
            return False
        state = self._states[node_id]
        share, memory_gib = need.share_of(state.node), need.memory_of(state.node)
        if share is None or not share.fits_in(state.free) or memory_gib > state.free_gib + ROUNDING:
            return False
        if keep_for is None or not keep_for.gpus:
            return True
        kept = keep_for.share_of(state.node)
        if kept is None:
            return True
        # Where memory or cores do not suffice for all of its GPUs, nothing is kept for those that stay idle.
        num_taken = round((state.node.offered.gpus - state.free.gpus) / kept.gpus)
        num_free = int((state.free.gpus + ROUNDING) / kept.gpus)
        num_slots = min(num_free, max(0, keep_for.num_on(state.node) - num_taken))
        left_cpus, left_gib = state.free.cpus - share.cpus, state.free_gib - memory_gib
        has_cpus = left_cpus + ROUNDING >= num_slots * kept.cpus
        return has_cpus and left_gib + ROUNDING >= num_slots * keep_for.memory_of(state.node)

    def take(self, node_id: str, need: ResourceRequest) -> None:
        """Take the share of a need from a node; one that has no room for it has less than nothing left."""
        state = self._states[node_id]
        share = need.share_of(state.node)
        assert share is not None, node_id
        state.free -= share
        state.free_gib -= need.memory_of(state.node)
        state.num_taken += 1

    def release(self, node_id: str, need: ResourceRequest) -> None:
        """Give back what was taken; nothing if the node is gone."""
        state = self._states.get(node_id)
        if state is None:
            return
        share = need.share_of(state.node)
        assert share is not None, node_id
        state.num_taken -= 1
        state.free = state.free + share if state.num_taken else state.node.offered
        state.free_gib = state.free_gib + need.memory_of(state.node) if state.num_taken else state.node.memory_gib
        self._offer(node_id)

    def _offer(self, node_id: str) -> None:
        for key in self._candidates:
            self._offer_for(key, node_id)

    def _offer_for(self, key: tuple[ResourceRequest, ResourceRequest | None], node_id: str) -> None:
        candidates, (need, keep_for) = self._candidates[key], key
        if node_id in candidates.members or not self.has_room(node_id, need, keep_for=keep_for):
            return
        state = self._states[node_id]
        # Fast GPUs for who needs one; who needs none goes where its memory is, and leaves machines with GPUs to others.
        if need.gpus:
            rank = (-state.node.speed, state.node.offered.gpus)
        else:
            rank = (need.memory_gib - need.memory_of(state.node), state.node.offered.gpus)
        heapq.heappush(candidates.heap, ((*rank, state.order), node_id))
        candidates.members.add(node_id)


def _times(share: Resources, offered: Resources) -> int:
    counts = [
        int((there + ROUNDING) / part)
        for part, there in ((share.cpus, offered.cpus), (share.gpus, offered.gpus))
        if part > 0
    ]
    return min(counts) if counts else 0


def _total(parts: Iterable[Resources]) -> Resources:
    cpus = gpus = 0.0
    for part in parts:
        cpus += part.cpus
        gpus += part.gpus
    return Resources(cpus=cpus, gpus=gpus)
