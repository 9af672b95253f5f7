"""Plays the real schedule against an imagined cluster: no Ray, no clock, the same trace for the same seed."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from orchestrator.cluster.node_pool import NodePool
from orchestrator.scheduling.autoscaling import missing_machines
from orchestrator.scheduling.ended import FailureKind
from orchestrator.scheduling.placement import Start
from orchestrator.scheduling.resources import Node, node_of
from orchestrator.scheduling.scheduler import RESTART_S, Schedule
from orchestrator.simulation.queue import Queue
from orchestrator.workflow.keys import StageKey, StageKind

ASK_EVERY_S = 10.0
"""Time between two looks at what machines are missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What the imagined world is like."""

    seed: int = 0
    """Of interruptions."""
    start_training_s: float = RESTART_S
    """From the start of a training, or its going on, until it fits: imports, checkpoint, patches."""
    stop_s: float = 15.0
    """From a request to stop until the training has ended."""
    progress_s: float = 1800.0
    """Time between two reports of a training."""
    checkpoint_s: float = 600.0
    """Work that is done again after an interruption without warning is less than this."""
    is_warned: bool = True
    """Whether trainings hear of an interruption in time to save a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Occupation:
    """A stage on a node."""

    pool: str
    """Name of the pool of the node."""
    start_s: float
    end_s: float
    cpus: float
    gpus: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeLifetime:
    """The time of one machine, from its order, or from the end of its queue, to its end."""

    pool: str
    """Name of its pool."""
    start_s: float
    end_s: float
    num_gpus: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What has happened."""

    makespan_s: float
    occupations: tuple[Occupation, ...]
    lifetimes: tuple[NodeLifetime, ...]
    num_requests_to_stop: int
    num_interruptions: int

    @property
    def gpu_hours(self) -> float:
        """Hours in which GPUs were taken by stages."""
        return sum((one.end_s - one.start_s) * one.gpus for one in self.occupations) / 3600

    @property
    def held_gpu_hours(self) -> float:
        """Hours in which machines held GPUs, those in which they waited or were idle included."""
        return sum((lifetime.end_s - lifetime.start_s) * lifetime.num_gpus for lifetime in self.lifetimes) / 3600


@dataclass(kw_only=True, slots=True)
class _RunningStage:
    """A stage under way."""

    start: Start
    start_s: float
    speed: float

    def occupation(self, *, until_s: float) -> Occupation:
        """Return what it has taken, and for how long."""
        return Occupation(
            pool=self.start.node.rpartition("-")[0],
            start_s=self.start_s,
            end_s=until_s,
            cpus=self.start.share.cpus,
            gpus=self.start.share.gpus,
        )


@dataclass(kw_only=True, slots=True)
class _Machine:
    pool: NodePool
    node: Node
    start_s: float
    last_used_s: float
    is_up: bool = False


@dataclass(kw_only=True)
class Simulation:
    """One simulated run."""

    schedule: Schedule
    """Without any nodes but those of `pools`."""
    pools: tuple[NodePool, ...]
    true_s: Mapping[StageKey, float]
    """Seconds of each stage on a GPU of speed 1, which the schedule does not know; otherwise what is expected."""
    conditions: Conditions = field(default_factory=Conditions)
    idle_s: float = 600.0
    """After so long without work a machine is given back."""
    is_growing: bool = False
    """Whether machines are ordered as they are missing, by the code that asks in a real run; otherwise all at once."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.conditions.seed)
        self._queue = Queue(self.conditions.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._num_events = 0
        self._now_s = 0.0
        self._under_way: dict[StageKey, _RunningStage] = {}
        self._on_node: dict[str, dict[StageKey, None]] = {}
        self._done_s: dict[StageKey, float] = {}
        self._up: dict[str, _Machine] = {}
        self._num_nodes = self._num_requests = self._num_interruptions = 0
        self._occupations: list[Occupation] = []
        self._lifetimes: list[NodeLifetime] = []
        self._wake_s = float("inf")
        self._next_ask_s = 0.0
        self._will_ask = False
        self._changes_asked_for: tuple[int, ...] = ()

    def run(self) -> Trace:
        """Play until nothing can be started any more."""
        for pool in self.pools:
            if not self.is_growing:
                self._order_all(pool)
        self._order_missing()
        while not self.schedule.is_over:
            if not self._events:
                raise RuntimeError("the simulated run waits for something that never comes")
            self._now_s = self._events[0][0]
            while self._events and self._events[0][0] == self._now_s:
                _, _, happen = heapq.heappop(self._events)
                happen()
            self._decide()
        for machine in list(self._up.values()):
            self._end_lifetime(machine, end_s=max(self._now_s, machine.start_s))
        return Trace(
            makespan_s=self._now_s,
            occupations=tuple(self._occupations),
            lifetimes=tuple(self._lifetimes),
            num_requests_to_stop=self._num_requests,
            num_interruptions=self._num_interruptions,
        )

    def _decide(self) -> None:
        self._start_all()
        for key in self.schedule.requests_to_stop(self._now_s):
            self._num_requests += 1
            attempt = self._under_way[key].start.attempt
            self._push(self._now_s + self.conditions.stop_s, partial(self._on_stopped, key, attempt))
        # A place that was idle may be kept for a training that moves.
        self._start_all()
        wake_s = self.schedule.next_wake_s()
        if self._now_s < wake_s < float("inf") and wake_s != self._wake_s:
            self._wake_s = wake_s
            self._push(wake_s, self._on_wake)
        self._order_missing()

    def _order_missing(self) -> None:
        changes = (self._num_nodes, len(self._up), len(self._occupations), len(self._under_way))
        if not self.is_growing or changes == self._changes_asked_for:
            return
        if self._now_s < self._next_ask_s:
            if not self._will_ask:
                self._will_ask = True
                self._push(self._next_ask_s, self._on_wake)
            return
        self._will_ask = False
        self._next_ask_s, self._changes_asked_for = self._now_s + ASK_EVERY_S, changes
        processors = self.schedule.processors
        missing = missing_machines(
            self.pools,
            present=processors.nodes.values(),
            useless=processors.closed,
            need=self.schedule.needs.one,
            demand=self.schedule.demand(),
        )
        missing -= Counter(machine.node.offered for machine in self._up.values() if not machine.is_up)
        there = Counter(machine.pool.name for machine in self._up.values())
        for pool in sorted(self.pools, key=lambda pool: -pool.gpu.speed):
            offered = pool.offered
            for _ in range(min(missing[offered], pool.max_nodes - there[pool.name])):
                missing[offered] -= 1
                self._order(pool)

    def _start_all(self) -> None:
        while (start := self.schedule.start_next(self._now_s)) is not None:
            self._begin(start)

    def _begin(self, start: Start) -> None:
        stage, share, node = start.stage, start.share, self.schedule.processors.node(start.node)
        is_training = stage.kind is StageKind.TRAIN
        speed = (node.speed if share.gpus else 1.0) * self.schedule.needs.of(stage).pace_with(share)
        under = _RunningStage(start=start, start_s=self._now_s, speed=speed)
        self._under_way[stage.key] = under
        self._on_node.setdefault(start.node, {})[stage.key] = None
        left_s = (self._whole_s(stage.key) - stage.expected_core_s - self._done_s.get(stage.key, 0.0)) / speed
        left_s += stage.expected_core_s
        end_s = self._now_s + left_s + (self.conditions.start_training_s if is_training else 0.0)
        self._push(end_s, partial(self._on_end, stage.key, start.attempt))
        if is_training:
            self._report_later(under, end_s=end_s)

    def _report_later(self, under: _RunningStage, *, end_s: float) -> None:
        report_s = self._now_s + self.conditions.progress_s
        if report_s < end_s:
            key, attempt = under.start.stage.key, under.start.attempt
            self._push(report_s, partial(self._on_report, key, attempt, end_s=end_s))

    def _on_report(self, key: StageKey, attempt: int, *, end_s: float) -> None:
        under = self._found(key, attempt)
        if under is None:
            return
        self._tell_progress(under, done_s=self._fitted_s(under, key))
        self._report_later(under, end_s=end_s)

    def _on_end(self, key: StageKey, attempt: int) -> None:
        under = self._found(key, attempt)
        if under is not None:
            self._leave(under)
            self.schedule.finish(key, now_s=self._now_s)

    def _on_stopped(self, key: StageKey, attempt: int) -> None:
        under = self._found(key, attempt)
        if under is not None:
            self._interrupt(under, loses_s=0.0)

    def _on_wake(self) -> None:
        """Time has passed: the schedule is asked after every event anyway."""

    def _on_up(self, machine: _Machine) -> None:
        self.schedule.add_node(machine.node, now_s=self._now_s)
        machine.is_up = True
        machine.last_used_s = self._now_s
        if self.is_growing:
            self._push(self._now_s + self.idle_s, partial(self._on_idle, machine))
        if machine.pool.lasts_s < float("inf"):
            self._push(self._now_s + machine.pool.lasts_s, partial(self._on_limit, machine))
        rate = machine.pool.interruptions_per_hour
        if rate:
            self._push(self._now_s + self._random.expovariate(rate / 3600), partial(self._on_taken, machine))

    def _on_taken(self, machine: _Machine) -> None:
        if machine.node.id not in self._up:
            return
        if self._idle_since(machine) + self.idle_s < self._now_s:
            # It was given back before, and nothing would have been ordered in its place.
            self.schedule.remove_node(machine.node.id, now_s=self._now_s)
            self._end_lifetime(machine, end_s=self._idle_since(machine) + self.idle_s)
            return
        self._num_interruptions += 1
        self._take_away(machine, is_warned=self.conditions.is_warned)
        if not self.is_growing:
            self._order(machine.pool)

    def _on_limit(self, machine: _Machine) -> None:
        if machine.node.id not in self._up:
            return
        pool = machine.pool
        self._take_away(machine, is_warned=True)
        if self.is_growing:
            return
        if not pool.come_together:
            self._order(pool)
        elif all(other.pool is not pool for other in self._up.values()):
            self._order_all(pool)

    def _take_away(self, machine: _Machine, *, is_warned: bool) -> None:
        for key in self.schedule.remove_node(machine.node.id, now_s=self._now_s):
            under = self._under_way[key]
            fits_s = max(0.0, self._now_s - under.start_s - self.conditions.start_training_s)
            loses_s = 0.0 if is_warned else fits_s % self.conditions.checkpoint_s
            self._interrupt(under, loses_s=loses_s * under.speed)
        self._end_lifetime(machine, end_s=self._now_s)

    def _on_idle(self, machine: _Machine) -> None:
        if machine.node.id not in self._up:
            return
        end_s = self._idle_since(machine) + self.idle_s
        if end_s > self._now_s:
            self._push(end_s, partial(self._on_idle, machine))
            return
        self.schedule.remove_node(machine.node.id, now_s=self._now_s)
        self._end_lifetime(machine, end_s=self._now_s)

    def _interrupt(self, under: _RunningStage, *, loses_s: float) -> None:
        stage = under.start.stage
        if stage.kind is StageKind.TRAIN:
            before_s = self._done_s.get(stage.key, 0.0)
            self._done_s[stage.key] = max(before_s, self._fitted_s(under, stage.key) - loses_s)
            self._tell_progress(under, done_s=self._done_s[stage.key])
        self._leave(under)
        self.schedule.fail(stage.key, kind=FailureKind.PREEMPTION, now_s=self._now_s)

    def _tell_progress(self, under: _RunningStage, *, done_s: float) -> None:
        key = under.start.stage.key
        whole_s = self._whole_s(key)
        self.schedule.progress(key, fraction=done_s / whole_s, whole_s=whole_s / under.speed, now_s=self._now_s)

    def _leave(self, under: _RunningStage) -> None:
        stage, node_id = under.start.stage, under.start.node
        del self._under_way[stage.key]
        del self._on_node[node_id][stage.key]
        machine = self._up.get(node_id)
        if machine is not None:
            machine.last_used_s = self._now_s
        self._occupations.append(under.occupation(until_s=self._now_s))

    def _order_all(self, pool: NodePool) -> None:
        wait_s = self._queue.all_s(pool) if pool.come_together else None
        for _ in range(pool.max_nodes):
            self._order(pool, wait_s=wait_s)

    def _order(self, pool: NodePool, *, wait_s: float | None = None) -> None:
        self._num_nodes += 1
        named = replace(node_of(pool), id=f"{pool.name}-{self._num_nodes}")
        # Nothing is paid for, or held, as long as a job waits in a queue.
        start_s = self._now_s + (self._queue.one_s(pool) if wait_s is None else wait_s)
        machine = _Machine(pool=pool, node=named, start_s=start_s, last_used_s=start_s)
        self._up[named.id] = machine
        self._push(start_s + pool.start_s, partial(self._on_up, machine))

    def _idle_since(self, machine: _Machine) -> float:
        return self._now_s if self._on_node.get(machine.node.id) else machine.last_used_s

    def _end_lifetime(self, machine: _Machine, *, end_s: float) -> None:
        del self._up[machine.node.id]
        # Of an allocation no machine is given back before the others.
        idle_end_s = float("inf") if machine.pool.come_together else self._idle_since(machine) + self.idle_s
        self._lifetimes.append(
            NodeLifetime(
                pool=machine.pool.name,
                start_s=machine.start_s,
                end_s=min(end_s, idle_end_s),
                num_gpus=machine.node.offered.gpus,
            )
        )

    def _found(self, key: StageKey, attempt: int) -> _RunningStage | None:
        """Return a stage under way; None if that attempt has ended meanwhile."""
        under = self._under_way.get(key)
        return under if under is not None and under.start.attempt == attempt else None

    def _fitted_s(self, under: _RunningStage, key: StageKey) -> float:
        fits_s = max(0.0, self._now_s - under.start_s - self.conditions.start_training_s)
        return self._done_s.get(key, 0.0) + fits_s * under.speed

    def _whole_s(self, key: StageKey) -> float:
        return self.true_s.get(key, self.schedule.graph[key].expected_s)

    def _push(self, at_s: float, happen: Callable[[], None]) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (at_s, self._num_events, happen))
