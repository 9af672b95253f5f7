"""The stage that scores the predictions of a training and commits its rows."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import STUDY_METRICS, Case, EvaluationSet, LabelSet, Training
from orchestrator.benchmark.study import split_sha256
from orchestrator.errors import IntegrityError
from orchestrator.results.records import Provenance, ResultRow, ScoreStatus
from orchestrator.results.store import ResultsStore
from orchestrator.stages.context import RunContext
from orchestrator.stages.records.cases import digests_of, has_phantoms
from orchestrator.stages.records.ensembles import model_record
from orchestrator.stages.records.predictions import read_prediction_record
from orchestrator.stages.records.scores import is_scored_otherwise
from orchestrator.storage import run_paths
from orchestrator.storage.copies import keeping_copies
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.workflow.graph import used_label_sets

if TYPE_CHECKING:
    from orchestrator.scoring.structures import ScoredStructure


def score(context: RunContext, training: Training) -> None:
    """Score the predictions of one training and commit all of its rows at once, in place of those scored otherwise."""
    storage = context.storage
    predictions = read_prediction_record(storage, training.id, model=model_record(training))
    provenance = _provenance(context, training, checkpoint_sha256=predictions.checkpoint_sha256)
    rows = [
        row
        for evaluation in training.evaluation_sets
        for case in evaluation.cases
        for row in _score_case(
            context, training, evaluation=evaluation, case=case, failures=predictions.failures, provenance=provenance
        )
    ]
    key = run_paths.results(training.id)
    if storage.exists(key) and is_scored_otherwise(storage, training, metrics=context.metrics):
        storage.delete(key)
    ResultsStore(storage).commit(training.id, rows)


@keeping_copies()
def _score_case(
    context: RunContext,
    training: Training,
    *,
    evaluation: EvaluationSet,
    case: Case,
    failures: Mapping[str, str],
    provenance: Provenance,
) -> list[ResultRow]:
    """Return one row a structure of one prediction."""
    from orchestrator.scoring.folders import metric_value
    from orchestrator.scoring.score import NoPrediction, score_files

    storage = context.storage
    references, predicted = context.label_sets[evaluation.label_set], context.label_sets[training.label_set]
    reason = failures.get(case.id)
    (scores,) = score_files(
        storage.fetch(run_paths.case_labels(case, label_set=evaluation.label_set)),
        [_fetch_prediction(storage, training, case) if reason is None else NoPrediction(reason=reason)],
        structures=_structures(evaluation, references=references, predicted=predicted),
        metrics=(*STUDY_METRICS, *(metric.name for metric in context.metrics)),
        dimension=None,
        ignored_label=references.ignored_label,
    )
    if reason is None and scores[0].status is ScoreStatus.MISSING:
        # It was predicted, so what is wrong with its file says nothing about the model.
        raise _not_there(storage, training, case, problem=scores[0].message.rstrip("."))
    return [
        ResultRow(
            training_id=training.id,
            group=training.group,
            fold=training.fold,
            configuration=training.model.configuration,
            facets=training.facets,
            evaluation_set=evaluation.name,
            dataset=case.dataset,
            case=case.name,
            score=score,
            further={metric.field: metric_value(score, metric.name) for metric in context.metrics},
            provenance=provenance,
        )
        for score in scores
    ]


def _structures(evaluation: EvaluationSet, *, references: LabelSet, predicted: LabelSet) -> "list[ScoredStructure]":
    from orchestrator.scoring.structures import ScoredStructure

    return [
        ScoredStructure(
            name=name,
            reference_labels=references.structure(name).labels,
            prediction_labels=predicted.structure(name).labels,
            tolerance_mm=references.structure(name).tolerance_mm,
        )
        for name in evaluation.structures
    ]


def _fetch_prediction(storage: Storage, training: Training, case: Case) -> Path:
    key = run_paths.prediction(training.id, case)
    if not storage.exists(key):
        raise _not_there(storage, training, case, problem="missing")
    return storage.fetch(key)


def _not_there(storage: Storage, training: Training, case: Case, *, problem: str) -> IntegrityError:
    key, record = run_paths.prediction(training.id, case), run_paths.prediction_record(training.id)
    return IntegrityError(
        f"{storage.location}/{key}: {problem}, though {record} says that it is there. Remove it, and the same command "
        "predicts this case again"
    )


def _provenance(context: RunContext, training: Training, *, checkpoint_sha256: str) -> Provenance:
    """Gather what the rows of a training say about their origin."""
    storage = context.storage
    used = used_label_sets(training)
    digests = digests_of(storage, used)
    record = read_json(storage, model_record(training), {"elapsed_s": (int, float)})
    return Provenance(
        preset=context.preset.name,
        seed=context.seed,
        versions=json.dumps(_in_their_order(record.get("environments", ()))),
        data_sha256=_sha256(json.dumps(digests, sort_keys=True).encode()),
        split_sha256=split_sha256(training),
        plan_sha256=record["plan_sha256"],
        checkpoint_sha256=checkpoint_sha256,
        # Phantoms can come as data, too: written by the command of that name and named like any data sets.
        phantoms=context.data is None or has_phantoms(storage, [case for case, _ in used]),
        is_capped=training.is_capped,
        train_elapsed_s=record["elapsed_s"],
    )


_ONCE = {"workers": "1"}
"""What a training ran with as long as that was not kept, since it could not be otherwise."""


def _in_their_order(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return what a training ran with, by name; where an attempt went on with something else, one after the other."""
    names = dict.fromkeys(name for environment in environments for name in environment)
    return {
        name: ", then ".join(dict.fromkeys(one.get(name, _ONCE.get(name, "unknown")) for one in environments))
        for name in names
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
