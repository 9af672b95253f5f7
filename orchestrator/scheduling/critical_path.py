"""Which stages of a graph are needed, and how long the way from each to the end is."""

from collections.abc import Mapping

from orchestrator.workflow.graph import Stage, StageKind


def needed_stages(graph: Mapping[str, Stage], *, done: set[str]) -> list[str]:
    """Return, in graph order, the stages that lead to a result that is not there yet."""
    needed: set[str] = set()
    has_dependents = {need for stage in graph.values() for need in stage.dependencies}
    open_ids = [stage_id for stage_id in graph if stage_id not in has_dependents and stage_id not in done]
    while open_ids:
        stage_id = open_ids.pop()
        if stage_id not in needed:
            needed.add(stage_id)
            open_ids.extend(need for need in graph[stage_id].dependencies if need not in done)
    return [stage_id for stage_id in graph if stage_id in needed]


def critical_path_s(graph: Mapping[str, Stage], *, dependents: Mapping[str, list[str]]) -> dict[str, float]:
    """Return for each stage its expected duration plus the longest chain of what waits for it."""
    lengths_s: dict[str, float] = {}
    for stage_id in reversed(list(graph)):
        after = max((lengths_s[dependent] for dependent in dependents[stage_id]), default=0.0)
        lengths_s[stage_id] = graph[stage_id].expected_s + after
    return lengths_s


def stages_up_to_training(graph: Mapping[str, Stage]) -> frozenset[str]:
    """Return the trainings and all that any training waits for, directly or not."""
    found: set[str] = set()
    open_ids = [stage.id for stage in graph.values() if stage.kind is StageKind.TRAIN]
    while open_ids:
        stage_id = open_ids.pop()
        if stage_id not in found:
            found.add(stage_id)
            open_ids.extend(graph[stage_id].dependencies)
    return frozenset(found)
