"""The stage that predicts every evaluation case of a training, or of an ensemble."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import Training
from orchestrator.errors import DataError, IntegrityError
from orchestrator.stages.cases import fetch_images
from orchestrator.stages.context import RunContext
from orchestrator.stages.plan import read_plan
from orchestrator.stages.records.cases import original_grid
from orchestrator.stages.records.ensembles import read_members, sha256_of
from orchestrator.stages.records.predictions import PredictionRecord, write_prediction_record
from orchestrator.storage import run_paths
from orchestrator.storage.copies import keeping_copies
from orchestrator.workflow.graph import evaluated_cases

if TYPE_CHECKING:
    from orchestrator.training.nnunet.prediction import Predictor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedModel:
    """The model of a training."""

    predictor: "Predictor"
    sha256: str
    """Digest of its checkpoint."""


def loaded_model(context: RunContext, training: Training) -> LoadedModel:
    """Return the model that a training has left."""
    from orchestrator.training.checkpoint import CheckpointStore
    from orchestrator.training.nnunet.prediction import load_predictor

    final = CheckpointStore(context.storage, training_id=training.id).load_final()
    plan = read_plan(context.storage, training.id)
    predictor = load_predictor(final.state, plan=plan, preset=context.preset, device=context.device)
    return LoadedModel(predictor=predictor, sha256=final.sha256)


def predict(context: RunContext, training: Training) -> None:
    """Predict every evaluation case with the final checkpoint; what it has predicted already is kept.

    Each prediction names its checkpoint in its header; one of another checkpoint is predicted again. A case whose
    image cannot be read is noted with its reason and the others go on: its score will be a row that says so. If that
    is every case, the stage fails with the first reason. Whatever else fails (storage, GPU, memory, the network) says
    nothing about a case and ends the stage; what is predicted is kept for the next attempt.
    """
    from orchestrator.training.nnunet.prediction import description_of

    storage = context.storage
    predict_case, sha256 = _model(context, training)
    description = f"checkpoint {sha256}"
    errors: dict[str, DataError] = {}
    cases = evaluated_cases(training)
    for case in cases:
        key = run_paths.prediction(training.id, case)
        with keeping_copies():
            if storage.exists(key) and description_of(storage.fetch(key)) == description:
                continue
        try:
            with keeping_copies(), storage.writing(key) as path:
                images, grid = fetch_images(context, case), original_grid(storage, case)
                predict_case(images, path, grid=grid, description=description)
        except DataError as error:
            errors[case.id] = error
            storage.delete(key)  # that of another checkpoint
        except Exception as error:
            error.add_note(f"while {case.id} was predicted")
            raise
    if errors and len(errors) == len(cases):
        raise next(iter(errors.values()))
    failures = {case_id: f"{type(error).__name__}: {error}" for case_id, error in errors.items()}
    record = PredictionRecord(checkpoint_sha256=sha256, failures=failures)
    write_prediction_record(storage, training.id, record)


def _model(context: RunContext, training: Training) -> tuple[Callable[..., None], str]:
    """Return what predicts a case, as `ModelEnsemble.predict_onto` does, and the digest of what it predicts with."""
    from orchestrator.training.nnunet.ensembles.averaged_prediction import ModelEnsemble

    if not training.members:
        model = loaded_model(context, training)
        return ModelEnsemble([model.predictor]).predict_onto, model.sha256
    members, sha256 = read_members(context.storage, training)
    models = [loaded_model(context, member) for member in members]
    if sha256_of([model.sha256 for model in models]) != sha256:
        raise IntegrityError(
            f"{training.id}: the models of {', '.join(member.id for member in members)} are others than those that it "
            "was made of; the same command makes it of these"
        )
    return ModelEnsemble([model.predictor for model in models]).predict_onto, sha256
