"""What each stage does, as plain functions of a workplace and a stage: no Ray, no decisions.

Every function leaves its products in the output location, each written atomically, and the one that says "done" last.
A stage may therefore be killed at any moment and carried out again.
"""

import hashlib
import json
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import Case, EvaluationSet, Training
from orchestrator.benchmark.study import split_sha256
from orchestrator.errors import DataError, IntegrityError, StorageError
from orchestrator.results.records import Provenance, ResultRow, ScoreStatus
from orchestrator.results.store import ResultsStore
from orchestrator.stages.attempt import AttemptClaim, AttemptEvents, TrainingLog
from orchestrator.stages.case_records import digests_of, original_grid
from orchestrator.stages.cases import fingerprint, generate_download, ingest, ingest_labels
from orchestrator.stages.context import RunContext
from orchestrator.stages.latest_epoch import LatestEpoch, write_latest_epoch
from orchestrator.stages.prediction_record import PredictionRecord, read_prediction_record, write_prediction_record
from orchestrator.storage import run_paths
from orchestrator.storage.best_effort import best_effort
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.workflow.graph import Stage, StageKind, evaluated_cases, used_label_sets

if TYPE_CHECKING:
    from orchestrator.stages.repair import TrainingPatches
    from orchestrator.training.planning import Plan
    from orchestrator.training.reports import EpochReport
    from orchestrator.training.stop_request import Watch

logger = logging.getLogger(__name__)


def carry_out(
    context: RunContext, stage: Stage, *, watches: Sequence["Watch"] = (), gpus: float = 1.0, node: str = ""
) -> int:
    """Carry out one stage; raises the OrchestratorError or whatever else it failed with.

    Parameters
    ----------
    context, stage
        What is done.
    watches
        A training looks at them besides its own, to know whether it must stop.
    gpus
        Share of a GPU that a training or prediction has; below 1 it keeps to that share of the memory.
    node
        Id of this machine in its cluster: a training tells with its epochs where it runs.

    Returns
    -------
    int
        Voxels of the image that an ingest has made; 0 of any other stage.
    """
    if stage.kind not in {StageKind.DOWNLOAD, StageKind.INGEST, StageKind.LABELS, StageKind.SCORE}:
        from orchestrator.training.threads import limit_threads

        limit_threads(context.num_threads if stage.kind.uses_network else 1)
    if context.device == "cuda" and stage.kind.uses_network:
        from orchestrator.training.gpu import working_gpu

        with working_gpu(share=gpus):
            return _carry_out(context, stage, watches=watches, node=node)
    return _carry_out(context, stage, watches=watches, node=node)


def _carry_out(context: RunContext, stage: Stage, *, watches: Sequence["Watch"], node: str) -> int:
    match stage.kind:
        case StageKind.DOWNLOAD:
            generate_download(context, stage.download)
        case StageKind.INGEST:
            return ingest(context, _case(stage))
        case StageKind.LABELS:
            ingest_labels(context, _case(stage), label_set=stage.label_sets[0])
        case StageKind.FINGERPRINT:
            fingerprint(context, _case(stage), label_set=stage.label_sets[0])
        case StageKind.PLAN:
            plan(context, _training(stage))
        case StageKind.PREPROCESS:
            preprocess(context, _training(stage), case=_case(stage))
        case StageKind.TRAIN:
            train(context, _training(stage), watches=watches, node=node)
        case StageKind.PREDICT:
            predict(context, _training(stage))
        case StageKind.SCORE:
            score(context, _training(stage))
    return 0


def plan(context: RunContext, training: Training) -> None:
    """Make the nnU-Net plans of one training, with patch size and network of its donor if it has one."""
    from orchestrator.training.planning import CaseFingerprint, make_plan

    storage = context.storage
    measured = []
    for case in (*training.train, *training.val):
        with _naming(storage, run_paths.fingerprint(case, label_set=training.label_set)) as key:
            measured.append(CaseFingerprint.from_bytes(storage.read_bytes(key)))
    donor = _read_plan(storage, training.plans_from) if training.plans_from else None
    made = make_plan(
        measured,
        label_set=context.label_sets[training.label_set],
        configuration=training.model.configuration,
        preset=context.preset,
        donor=donor,
        name=training.id,
    )
    storage.write_bytes(run_paths.plan(training.id), made.to_bytes())


def preprocess(context: RunContext, training: Training, *, case: Case) -> None:
    """Preprocess one case with the plans of one training and write its Arrow patch file."""
    from orchestrator.patches.manifest import PatchRecord
    from orchestrator.patches.writer import write_patches
    from orchestrator.training.preprocessing import preprocess_case

    storage = context.storage
    preprocessed = preprocess_case(
        storage.fetch(run_paths.case_image(case)),
        storage.fetch(run_paths.case_labels(case, label_set=training.label_set)),
        _read_plan(storage, training.id),
    )
    key = run_paths.patches(training.id, case)
    with storage.writing(key) as path:
        write_patches(path, data=preprocessed.data, seg=preprocessed.seg, properties=preprocessed.properties)
        storage.write_bytes(run_paths.record_of_patches(key), PatchRecord.of_file(path).to_bytes())


def train(context: RunContext, training: Training, *, watches: Sequence["Watch"] = (), node: str = "") -> None:
    """Fit one model, from its latest checkpoint if there is one, and leave a progress record after every epoch.

    Raises PreemptedError, with a checkpoint saved, once a signal, the driver, the cloud or one of `watches` asks, and
    SupersededError, with nothing more saved, once another attempt has begun.
    """
    from orchestrator.stages.preemption import watch_marker, watch_spot_notices
    from orchestrator.training.checkpoint import CheckpointStore
    from orchestrator.training.stop_request import StopRequest
    from orchestrator.training.trainer import train as fit

    storage = context.storage
    claim = AttemptClaim(storage, training_id=training.id)
    # It may be of a final checkpoint that was deleted since, and must not say of the next one that it is done.
    storage.delete(run_paths.training_record(training.id))
    own_watches = [watch_marker(storage, training_id=training.id)]
    if context.cloud == "aws":
        own_watches.append(watch_spot_notices())
    with (
        StopRequest([*own_watches, *watches]) as stop_request,
        TrainingLog(storage, run_paths.log(training.id)) as log,
        AttemptEvents(storage, training_id=training.id) as events,
    ):

        def report(epoch: "EpochReport") -> None:
            latest = LatestEpoch(report=epoch, host=socket.gethostname(), node=node)
            with best_effort("progress of an epoch"):
                claim.check()
                log.flush()
                write_latest_epoch(storage, training.id, latest)

        plan = _read_plan(storage, training.id)
        patches = _training_patches(context, training)
        patches.repair(note=log.write)
        with patches.cache.gathered(storage, patches.write_manifest()) as folder:
            try:
                outcome = fit(
                    plan=plan,
                    preset=context.preset,
                    training_id=training.id,
                    train_cases=[_identifier(case) for case in training.train],
                    val_cases=[_identifier(case) for case in training.val],
                    patches=folder,
                    checkpoint=CheckpointStore(storage, training_id=training.id, check=claim.check),
                    log=log.write,
                    seed=_seed(context.seed, training.id),
                    device=context.device,
                    num_loader_processes=context.num_loader_processes,
                    on_epoch=report,
                    on_milestone=events.add,
                    stop_reason=stop_request.reason,
                )
            except IntegrityError as error:
                if not patches.repair(note=log.write):
                    raise
                raise StorageError(
                    f"{error}; it is written again, and the training goes on from its checkpoint"
                ) from error
    write_json(storage, run_paths.training_record(training.id), {**asdict(outcome), "plan_sha256": plan.sha256})


def _training_patches(context: RunContext, training: Training) -> "TrainingPatches":
    from orchestrator.patches.cache import PatchCache
    from orchestrator.stages.repair import TrainingPatches

    return TrainingPatches(
        storage=context.storage,
        training_id=training.id,
        cases=(*training.train, *training.val),
        cache=PatchCache(),
        write_again=lambda case: preprocess(context, training, case=case),
    )


def predict(context: RunContext, training: Training) -> None:
    """Predict every evaluation case with the final checkpoint; what it has predicted already is kept.

    Each prediction names its checkpoint in its header; one of another checkpoint is predicted again. A case whose
    image cannot be read is noted with its reason and the others go on: its score will be a row that says so. If that
    is every case, the stage fails with the first reason. Whatever else fails (storage, GPU, memory, the network) says
    nothing about a case and ends the stage; what is predicted is kept for the next attempt.
    """
    from orchestrator.training.checkpoint import CheckpointStore
    from orchestrator.training.prediction import description_of, load_predictor

    storage = context.storage
    final = CheckpointStore(storage, training_id=training.id).load_final()
    predictor = load_predictor(
        final.state, plan=_read_plan(storage, training.id), preset=context.preset, device=context.device
    )
    description = f"checkpoint {final.sha256}"
    errors: dict[str, DataError] = {}
    cases = evaluated_cases(training)
    for case in cases:
        key = run_paths.prediction(training.id, case)
        if storage.exists(key) and description_of(storage.fetch(key)) == description:
            continue
        try:
            with storage.writing(key) as path:
                image, grid = storage.fetch(run_paths.case_image(case)), original_grid(storage, case)
                predictor.predict(image, path, grid=grid, description=description)
        except DataError as error:
            errors[case.id] = error
            storage.delete(key)  # that of another checkpoint
        except Exception as error:
            error.add_note(f"while {case.id} was predicted")
            raise
    if errors and len(errors) == len(cases):
        raise next(iter(errors.values()))
    failures = {case_id: f"{type(error).__name__}: {error}" for case_id, error in errors.items()}
    record = PredictionRecord(checkpoint_sha256=final.sha256, failures=failures)
    write_prediction_record(storage, training.id, record)


def score(context: RunContext, training: Training) -> None:
    """Score the predictions of one training and commit all of its rows at once."""
    storage = context.storage
    predictions = read_prediction_record(storage, training.id)
    provenance = _provenance(context, training, checkpoint_sha256=predictions.checkpoint_sha256)
    rows = [
        row
        for evaluation in training.evaluation_sets
        for case in evaluation.cases
        for row in _score_case(
            context, training, evaluation=evaluation, case=case, failures=predictions.failures, provenance=provenance
        )
    ]
    ResultsStore(storage).commit(training.id, rows)


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
    from orchestrator.scoring.score import NoPrediction, ScoredStructure, score_files

    storage = context.storage
    references, predicted = context.label_sets[evaluation.label_set], context.label_sets[training.label_set]
    structures = [
        ScoredStructure(
            name=name,
            reference_label=references.structure(name).label,
            prediction_label=predicted.structure(name).label,
            tolerance_mm=references.structure(name).tolerance_mm,
        )
        for name in evaluation.structures
    ]
    reason = failures.get(case.id)
    (scores,) = score_files(
        storage.fetch(run_paths.case_labels(case, label_set=evaluation.label_set)),
        [_fetch_prediction(storage, training, case) if reason is None else NoPrediction(reason=reason)],
        structures=structures,
        metrics=("dsc", "nsd", "hd95", "assd"),
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
            score=case_score,
            provenance=provenance,
        )
        for case_score in scores
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
    digests = digests_of(storage, used_label_sets(training))
    record = read_json(storage, run_paths.training_record(training.id), {"elapsed_s": (int, float)})
    return Provenance(
        preset=context.preset.name,
        seed=context.seed,
        versions=json.dumps(_in_their_order(record.get("environments", ()))),
        data_sha256=_sha256(json.dumps(digests, sort_keys=True).encode()),
        split_sha256=split_sha256(training),
        plan_sha256=record["plan_sha256"],
        checkpoint_sha256=checkpoint_sha256,
        phantoms=context.data is None,
        is_capped=training.is_capped,
        train_elapsed_s=record["elapsed_s"],
    )


def _in_their_order(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return what a training ran with, by name; where an attempt went on with something else, one after the other."""
    names = dict.fromkeys(name for environment in environments for name in environment)
    return {
        name: ", then ".join(dict.fromkeys(environment.get(name, "unknown") for environment in environments))
        for name in names
    }


def _read_plan(storage: Storage, training_id: str) -> "Plan":
    from orchestrator.training.planning import Plan

    with _naming(storage, run_paths.plan(training_id)) as key:
        return Plan.from_bytes(storage.read_bytes(key))


@contextmanager
def _naming(storage: Storage, key: str) -> Iterator[str]:
    """Context with the key of a file; says of which file an IntegrityError is, and what to do."""
    try:
        yield key
    except IntegrityError as error:
        raise IntegrityError(
            f"{storage.location}/{key}: {error}. Delete it: the same command makes it again"
        ) from error


def _identifier(case: Case) -> str:
    """Return the name of a case within one nnU-Net data set."""
    return f"{case.dataset}--{case.name}"


def _seed(run_seed: int, training_id: str) -> int:
    """Return a seed of 32 bits that differs between trainings and is the same in every run."""
    return int.from_bytes(hashlib.sha256(f"{run_seed} {training_id}".encode()).digest()[:4], "big")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _case(stage: Stage) -> Case:
    assert stage.case is not None, stage.id
    return stage.case


def _training(stage: Stage) -> Training:
    assert stage.training is not None, stage.id
    return stage.training
