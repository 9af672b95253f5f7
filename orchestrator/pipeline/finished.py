"""Which stages of a graph are done, as the files of an output location tell."""

from collections.abc import Collection, Mapping

from orchestrator.pipeline.prediction_record import has_current_predictions
from orchestrator.pipeline.stages import Stage, StageKind
from orchestrator.storage.interface import Storage


def finished_stages(graph: Mapping[str, Stage], storage: Storage) -> set[str]:
    """Return the ids of the stages whose products exist; predictions of another checkpoint are none."""
    existing = set(storage.list_keys())
    finished = {stage.id for stage in graph.values() if existing.issuperset(stage.products)}
    return {stage_id for stage_id in finished if not _is_outdated(graph[stage_id], storage, finished=finished)}


def _is_outdated(stage: Stage, storage: Storage, *, finished: Collection[str]) -> bool:
    """Whether a stage has predicted with another checkpoint than the one that is there, and is not scored yet."""
    if stage.kind is not StageKind.PREDICT or stage.training is None or f"score {stage.training.id}" in finished:
        return False
    return not has_current_predictions(storage, stage.training.id)
