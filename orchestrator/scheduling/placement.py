"""Where running stages are: where the schedule has put them, until they tell."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.scheduling.rebalancing import Work
from orchestrator.scheduling.reservations import Reservations
from orchestrator.scheduling.resources import Processors, ResourceRequest
from orchestrator.workflow.keys import StageKey


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


def reconcile_placement(
    node: str, attempt: Attempt, *, running: Mapping[StageKey, Attempt], processors: Processors
) -> None:
    """Take note that a running stage is on a node; where that is full, who was believed there is where it was.

    Parameters
    ----------
    node
        Where it says that it is; a node that is gone is not believed.
    attempt
        Of the stage.
    running
        All stages that run.
    processors
        On which both are accounted for.
    """
    if not processors.has(node):
        return
    if node != attempt.node:
        if not processors.has_room(node, attempt.need):
            for other in running.values():
                if other.node == node and other.need == attempt.need and not other.has_told:
                    other.node, attempt.node = attempt.node, node
                    break
        if attempt.node != node:
            processors.release(attempt.node, attempt.need)
            processors.take(node, attempt.need)
            attempt.node = node
    attempt.has_told = True


def places(processors: Processors, *, need: ResourceRequest, predicting: Sequence[str]) -> list[str]:
    """Return the node of each place on which a training can run; predictions take some, one for each node named."""
    return [
        node_id
        for node_id, node in processors.nodes.items()
        for _ in range(need.num_on(node) - predicting.count(node_id))
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What is looked at before somebody is preempted."""

    places: Sequence[str]
    """The node of each place on which a training can run."""
    running: Mapping[StageKey, Attempt]
    reservations: Reservations
    """Who was asked to stop, and for whom a place is kept."""
    can_start: Callable[[StageKey], bool]
    """Whether only a place is missing to a training."""
    is_settled: Callable[[Attempt], bool]
    """Whether an attempt has run long enough to be stopped again."""
    remaining_s: Callable[[StageKey], float]
    """What is expected of a training."""
    margin: Callable[[StageKey], float]
    """By which share it may turn out to be longer."""

    def works(self, keys: Iterable[StageKey]) -> list[Work]:
        """Return trainings that are not done as rebalancing sees them; their places are indices of `places`."""
        free_of: dict[str, list[int]] = {}
        for index, node_id in enumerate(self.places):
            free_of.setdefault(node_id, []).append(index)
        return [self._work(key, free_of) for key in keys]

    def _work(self, key: StageKey, free_of: Mapping[str, list[int]]) -> Work:
        """Return one training; its place is taken from those that are free."""
        attempt, held = self.running.get(key), self.reservations.node_of(key)
        is_stopping = key in self.reservations.stopping
        is_leaving = attempt is None or (is_stopping and self.reservations.is_awaited(attempt.node))
        where = held or (attempt.node if attempt and not is_leaving else None)
        there = free_of.get(where, []) if where else []
        left_s = self.remaining_s(key)
        return Work(
            id=key,
            remaining_s=left_s,
            margin_s=0.0 if attempt else left_s * self.margin(key),
            place=there.pop() if there else None,
            can_start=self.can_start(key) and held is None,
            can_stop=attempt is not None and self.is_settled(attempt) and not is_stopping and held is None,
        )
