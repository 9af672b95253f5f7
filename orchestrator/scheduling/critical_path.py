"""Which stages of a graph are needed, how long the way from each to the end is, and which is urgent for that."""

from collections.abc import Callable, Collection, Mapping

from orchestrator.scheduling.queue import Urgency
from orchestrator.workflow.graph import Graph
from orchestrator.workflow.keys import StageKey, StageKind


def needed_stages(graph: Graph, *, done: set[StageKey], withheld: Collection[StageKey] = ()) -> list[StageKey]:
    """Return, in graph order, the stages that lead to a result that is not there yet, and is not withheld."""
    needed: set[StageKey] = set()
    has_dependents = {need for stage in graph.values() for need in stage.dependencies}
    open_keys = [key for key in graph if key not in has_dependents and key not in done and key not in withheld]
    while open_keys:
        key = open_keys.pop()
        if key not in needed:
            needed.add(key)
            open_keys.extend(need for need in graph[key].dependencies if need not in done)
    return [key for key in graph if key in needed]


def critical_path_s(graph: Graph, *, dependents: Mapping[StageKey, list[StageKey]]) -> dict[StageKey, float]:
    """Return for each stage its expected duration plus the longest chain of what waits for it."""
    lengths_s: dict[StageKey, float] = {}
    for key in reversed(list(graph)):
        after = max((lengths_s[dependent] for dependent in dependents[key]), default=0.0)
        lengths_s[key] = graph[key].expected_s + after
    return lengths_s


class CriticalPaths:
    """The critical paths of a graph: how urgent each stage is.

    What no training waits for, predictions above all, goes first: a trained model is short of its result by minutes,
    and what is committed early cannot be lost any more. What feeds trainings must be done anyway.
    """

    def __init__(self, graph: Graph, *, dependents: Mapping[StageKey, list[StageKey]]) -> None:
        self._graph = graph
        self._lengths_s = critical_path_s(graph, dependents=dependents)
        self.up_to_training = _stages_up_to_training(graph)
        """Trainings, and all that any of them waits for."""

    def urgency(self, key: StageKey, *, remaining_s: Callable[[], float]) -> Urgency:
        """Return where a stage stands in a queue; `remaining_s` is asked what a training still needs."""
        path_s = self._lengths_s[key]
        if self._graph[key].kind is StageKind.TRAIN:
            path_s += remaining_s() - self._graph[key].expected_s
        # Of equal ones, the first fold of every group goes before second folds: it tells how long those will take.
        training = self._graph[key].training
        return (self._rank(key), -path_s, training.fold if training else 0, key)

    def _rank(self, key: StageKey) -> int:
        if key not in self.up_to_training:
            return 0
        return 2 if self._graph[key].kind is StageKind.TRAIN else 1


def _stages_up_to_training(graph: Graph) -> frozenset[StageKey]:
    """Return the trainings and all that any training waits for, directly or not."""
    found: set[StageKey] = set()
    open_keys = [stage.key for stage in graph.values() if stage.kind is StageKind.TRAIN]
    while open_keys:
        key = open_keys.pop()
        if key not in found:
            found.add(key)
            open_keys.extend(graph[key].dependencies)
    return frozenset(found)
