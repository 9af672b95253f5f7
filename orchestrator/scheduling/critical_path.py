"""Which stages of a graph are needed, and how long the way from each to the end is."""

from collections.abc import Mapping

from orchestrator.workflow.graph import Graph
from orchestrator.workflow.keys import StageKey, StageKind


def needed_stages(graph: Graph, *, done: set[StageKey]) -> list[StageKey]:
    """Return, in graph order, the stages that lead to a result that is not there yet."""
    needed: set[StageKey] = set()
    has_dependents = {need for stage in graph.values() for need in stage.dependencies}
    open_keys = [key for key in graph if key not in has_dependents and key not in done]
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


def stages_up_to_training(graph: Graph) -> frozenset[StageKey]:
    """Return the trainings and all that any training waits for, directly or not."""
    found: set[StageKey] = set()
    open_keys = [stage.key for stage in graph.values() if stage.kind is StageKind.TRAIN]
    while open_keys:
        key = open_keys.pop()
        if key not in found:
            found.add(key)
            open_keys.extend(graph[key].dependencies)
    return frozenset(found)
