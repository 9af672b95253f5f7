"""Which stages of a graph are done, as the files of an output location tell."""

from collections.abc import Callable

from orchestrator.benchmark.definition import Training
from orchestrator.errors import IntegrityError
from orchestrator.stages.records.predictions import read_prediction_record
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.workflow.graph import Graph, Stage, evaluated_cases
from orchestrator.workflow.keys import StageKey, StageKind


def finished_stages(graph: Graph, storage: Storage) -> set[StageKey]:
    """Return the stages whose products exist.

    Where a training is not scored yet, predictions of another checkpoint are none, and neither are those of which one
    is lost.
    """
    existing = {key for folder in run_paths.OF_STAGES for key in storage.list_keys(folder)}
    scored = {
        stage.training.id
        for stage in graph.values()
        if stage.kind is StageKind.SCORE and stage.training is not None and existing.issuperset(stage.products)
    }
    return {
        stage.key
        for stage in graph.values()
        if existing.issuperset(stage.products)
        and (
            (stage.training is not None and stage.training.id in scored)
            or _is_whole(stage, storage, existing.__contains__)
        )
    }


def lost_stages(graph: Graph, storage: Storage, *, key: StageKey) -> list[StageKey]:
    """Return, in graph order, the stages that must be carried out again before one of them finds all that it reads."""
    lost: set[StageKey] = set()
    open_keys = [key]
    while open_keys:
        for need in graph[open_keys.pop()].dependencies:
            products = graph[need].products
            is_there = all(map(storage.exists, products)) and _is_whole(graph[need], storage, storage.exists)
            if need not in lost and not is_there:
                lost.add(need)
                open_keys.append(need)
    return [one for one in graph if one in lost]


def _is_whole(stage: Stage, storage: Storage, exists: Callable[[str], bool]) -> bool:
    """Whether a stage whose products exist has also left the files of which these tell."""
    if stage.kind is StageKind.DOWNLOAD:
        return _has_generated(stage.download, storage, exists)
    if stage.kind is StageKind.PREDICT and stage.training is not None:
        return has_predicted(stage.training, storage, exists)
    return True


def _has_generated(download: str, storage: Storage, exists: Callable[[str], bool]) -> bool:
    try:
        return all(map(exists, read_json(storage, run_paths.phantom_listing(download), {"files": list})["files"]))
    except (IntegrityError, KeyError, TypeError):
        return False


def has_predicted(training: Training, storage: Storage, exists: Callable[[str], bool]) -> bool:
    """Whether all predictions are there, of the checkpoint that a training has left."""
    if not all(map(exists, (run_paths.prediction_record(training.id), run_paths.training_record(training.id)))):
        return False
    try:
        failures = read_prediction_record(storage, training.id).failures
    except IntegrityError:
        return False
    cases = (case for case in evaluated_cases(training) if case.id not in failures)
    return all(exists(run_paths.prediction(training.id, case)) for case in cases)
