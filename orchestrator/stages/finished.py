"""Which stages of a graph are done, as the files of an output location tell."""

from collections.abc import Callable, Sequence

from orchestrator.benchmark.definition import FurtherMetric, Training
from orchestrator.errors import IntegrityError
from orchestrator.stages.records.ensembles import is_declared, is_of_models, model_record
from orchestrator.stages.records.predictions import read_prediction_record
from orchestrator.stages.records.scores import is_scored_otherwise
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.workflow.graph import Graph, Stage, evaluated_cases
from orchestrator.workflow.keys import StageKey, StageKind

_OF_ENSEMBLES = {StageKind.VALIDATE, StageKind.ENSEMBLE}
_INVALIDATED_BY_NEW_MEMBERS = {StageKind.ENSEMBLE, StageKind.PREDICT, StageKind.SCORE}
"""What is to be done again where an ensemble is of other models."""


def finished_stages(graph: Graph, storage: Storage, *, metrics: Sequence[FurtherMetric] = ()) -> set[StageKey]:
    """Return the stages whose products exist.

    Where a training is not scored yet, predictions of another checkpoint are none, and neither are those of which one
    is lost. Predictions and scores of an ensemble are none if the study says something else of it by now. Scores that
    lack one of `metrics`, or are of other facets, are none where all that was predicted is there to be scored again.
    """
    existing = {key for folder in run_paths.OF_STAGES for key in storage.list_keys(folder)}
    scored = {
        stage.training.id
        for stage in graph.values()
        if stage.kind is StageKind.SCORE and stage.training is not None and existing.issuperset(stage.products)
    }
    other = {
        stage.training.id
        for stage in graph.values()
        if stage.kind is StageKind.ENSEMBLE and stage.training is not None and existing.issuperset(stage.products)
        if not _is_settled(stage, stage.training, storage, is_scored=stage.training.id in scored)
    }
    scored -= other
    again = {key for key in map(StageKey.score_of, scored) if _is_to_score_again(graph[key], storage, metrics=metrics)}

    def is_done(stage: Stage) -> bool:
        if not existing.issuperset(stage.products) or stage.key in again:
            return False
        training_id = stage.training.id if stage.training is not None else ""
        if training_id in other and stage.kind in _INVALIDATED_BY_NEW_MEMBERS:
            return False
        return training_id in scored or _is_whole(stage, storage, existing.__contains__)

    return {stage.key for stage in graph.values() if is_done(stage)}


def _is_to_score_again(stage: Stage, storage: Storage, *, metrics: Sequence[FurtherMetric]) -> bool:
    training = stage.training
    return (
        training is not None
        and is_scored_otherwise(storage, training, metrics=metrics)
        # Nothing is trained for a further metric.
        and has_predicted(training, storage, storage.exists)
    )


def _is_settled(stage: Stage, ensemble: Training, storage: Storage, *, is_scored: bool) -> bool:
    """Whether the record that a stage has left of an ensemble is of what the study says, and of the models it has."""
    (key,) = stage.products
    members = {member.id for member in ensemble.members}
    return is_declared(storage, ensemble, key=key) and (is_scored or is_of_models(storage, key=key, among=members))


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
        return _has_generated(stage.key.download, storage, exists)
    if stage.kind in _OF_ENSEMBLES and stage.training is not None:
        return _is_settled(stage, stage.training, storage, is_scored=False)
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
    if not all(map(exists, (run_paths.prediction_record(training.id), model_record(training)))):
        return False
    try:
        failures = read_prediction_record(storage, training.id, model=model_record(training)).failures
    except IntegrityError:
        return False
    cases = (case for case in evaluated_cases(training) if case.id not in failures)
    return all(exists(run_paths.prediction(training.id, case)) for case in cases)
