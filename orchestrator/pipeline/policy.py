"""What to start next, when to try again, when to give up: decisions only, without Ray, files or a clock."""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.pipeline.stages import Stage, StageKind

MAX_ATTEMPTS = 3
"""Tries of a stage whose error says that a retry can help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Processors, of a cluster or of one stage."""

    cpus: float
    gpus: float = 0.0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(cpus=self.cpus + other.cpus, gpus=self.gpus + other.gpus)

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(cpus=self.cpus - other.cpus, gpus=self.gpus - other.gpus)

    def fits_in(self, free: "Resources") -> bool:
        """Whether `free` holds at least this much."""
        return self.cpus <= free.cpus and self.gpus <= free.gpus


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Try the stage again."""

    attempt: int
    """Number of the next attempt, from 2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GiveUp:
    """The stage has failed for good, and with it all that needs it."""

    blocked: tuple[str, ...]
    """Ids of the stages that can no longer be done."""


class Schedule:
    """The state of a run and its decisions: of all stages that can start, the one with the longest way to go is next.

    The length of the way is the expected duration of the stage and of the longest chain that waits for it, so long
    trainings start first and what feeds them goes before what does not. Only predictions and scores go before them.
    """

    def __init__(
        self,
        graph: Mapping[str, Stage],
        *,
        done: Iterable[str],
        capacity: Resources,
        training_share: Resources,
    ) -> None:
        """Begin with the stages of `done`; every other stage on which nothing depends will be carried out.

        Parameters
        ----------
        graph
            Stages by id.
        done
            Ids of the stages whose products exist.
        capacity
            What the cluster offers.
        training_share
            What one training or prediction takes; every other stage takes one CPU.
        """
        if not training_share.fits_in(capacity):
            raise ConfigError(
                f"a training needs {training_share.cpus:g} CPUs and {training_share.gpus:g} GPUs; the cluster has "
                f"{capacity.cpus:g} CPUs and {capacity.gpus:g} GPUs. Lower cpus_per_training or gpus_per_training"
            )
        self.graph = graph
        self.capacity = capacity
        self.free = capacity
        self.done = set(done)
        self.running: set[str] = set()
        self.failed: set[str] = set()
        self.blocked: set[str] = set()
        self.attempts: dict[str, int] = {}
        self._training_share = training_share
        self._needed = _needed_stages(graph, done=self.done)
        self._dependents: dict[str, list[str]] = {stage_id: [] for stage_id in graph}
        self._num_open_needs: dict[str, int] = {}
        for stage_id in self._needed:
            for need in graph[stage_id].needs:
                self._dependents[need].append(stage_id)
            self._num_open_needs[stage_id] = sum(need not in self.done for need in graph[stage_id].needs)
        self._priority = _remaining_s(graph, dependents=self._dependents)
        self._ready = [self._entry(stage_id) for stage_id, number in self._num_open_needs.items() if number == 0]
        heapq.heapify(self._ready)

    def share(self, stage: Stage) -> Resources:
        """Return what a stage takes while it runs."""
        return self._training_share if stage.kind in {StageKind.TRAIN, StageKind.PREDICT} else Resources(cpus=1)

    def start_next(self) -> Stage | None:
        """Return the most urgent stage that can start and fits, marked as running; None if there is none now."""
        set_aside = []
        chosen = None
        while self._ready and chosen is None:
            entry = heapq.heappop(self._ready)
            if entry[-1] in self.blocked:
                continue
            if self.share(self.graph[entry[-1]]).fits_in(self.free):
                chosen = self.graph[entry[-1]]
            else:
                set_aside.append(entry)
        for entry in set_aside:
            heapq.heappush(self._ready, entry)
        if chosen is not None:
            self.running.add(chosen.id)
            self.free -= self.share(chosen)
            self.attempts[chosen.id] = self.attempts.get(chosen.id, 0) + 1
        return chosen

    def finish(self, stage_id: str) -> None:
        """Take note that a running stage is done."""
        self._release(stage_id)
        self.done.add(stage_id)
        for dependent in self._dependents[stage_id]:
            self._num_open_needs[dependent] -= 1
            if self._num_open_needs[dependent] == 0:
                heapq.heappush(self._ready, self._entry(dependent))

    def fail(self, stage_id: str, *, can_retry: bool) -> Retry | GiveUp:
        """Take note that a running stage has failed and decide what follows."""
        self._release(stage_id)
        if can_retry and self.attempts[stage_id] < MAX_ATTEMPTS:
            heapq.heappush(self._ready, self._entry(stage_id))
            return Retry(attempt=self.attempts[stage_id] + 1)
        self.failed.add(stage_id)
        newly_blocked = []
        open_ids = [stage_id]
        while open_ids:
            for dependent in self._dependents[open_ids.pop()]:
                if dependent not in self.blocked:
                    self.blocked.add(dependent)
                    newly_blocked.append(dependent)
                    open_ids.append(dependent)
        return GiveUp(blocked=tuple(newly_blocked))

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing can be started any more."""
        return not self.running and not any(stage_id not in self.blocked for *_, stage_id in self._ready)

    @property
    def num_needed(self) -> int:
        """Number of stages that had to be carried out when the run began."""
        return len(self._needed)

    def remaining(self) -> list[Stage]:
        """Stages that are neither done nor failed nor blocked, those that run included."""
        over = self.done | self.failed | self.blocked
        return [self.graph[stage_id] for stage_id in self._needed if stage_id not in over]

    def _release(self, stage_id: str) -> None:
        self.running.remove(stage_id)
        self.free += self.share(self.graph[stage_id])

    def _entry(self, stage_id: str) -> tuple[bool, float, str]:
        # A trained model is short of its result by minutes: what is committed early cannot be lost any more.
        is_trained = self.graph[stage_id].kind in {StageKind.PREDICT, StageKind.SCORE}
        return (not is_trained, -self._priority[stage_id], stage_id)


def estimate_remaining_s(schedule: Schedule, *, observed_s: Mapping[StageKind, float]) -> float:
    """Return the seconds that a run still needs if its slots are kept busy.

    Parameters
    ----------
    schedule
        The run.
    observed_s
        Mean duration of the finished stages of each kind; kinds without one count with their expected duration.
    """
    training_slots = max(1.0, _slots(schedule))
    seconds = dict.fromkeys(("training", "other"), 0.0)
    longest = 0.0
    for stage in schedule.remaining():
        duration = observed_s.get(stage.kind, stage.expected_s)
        is_training = stage.kind in {StageKind.TRAIN, StageKind.PREDICT}
        seconds["training" if is_training else "other"] += duration
        longest = max(longest, duration)
    return max(longest, seconds["training"] / training_slots + seconds["other"] / max(1.0, schedule.capacity.cpus))


def _slots(schedule: Schedule) -> float:
    share = schedule.share(Stage(id="", kind=StageKind.TRAIN, needs=(), products=(), expected_s=0.0))
    by_cpu = schedule.capacity.cpus // share.cpus if share.cpus else float("inf")
    return min(by_cpu, schedule.capacity.gpus // share.gpus) if share.gpus else by_cpu


def _needed_stages(graph: Mapping[str, Stage], *, done: set[str]) -> list[str]:
    """Return, in graph order, the stages that lead to a result that is not there yet."""
    needed: set[str] = set()
    has_dependents = {need for stage in graph.values() for need in stage.needs}
    open_ids = [stage_id for stage_id in graph if stage_id not in has_dependents and stage_id not in done]
    while open_ids:
        stage_id = open_ids.pop()
        if stage_id not in needed:
            needed.add(stage_id)
            open_ids.extend(need for need in graph[stage_id].needs if need not in done)
    return [stage_id for stage_id in graph if stage_id in needed]


def _remaining_s(graph: Mapping[str, Stage], *, dependents: Mapping[str, list[str]]) -> dict[str, float]:
    """Return for each stage its expected duration plus the longest chain of what waits for it."""
    remaining: dict[str, float] = {}
    for stage_id in reversed(list(graph)):
        after = max((remaining[dependent] for dependent in dependents[stage_id]), default=0.0)
        remaining[stage_id] = graph[stage_id].expected_s + after
    return remaining
