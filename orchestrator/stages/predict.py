"""The stage that predicts every evaluation case of a training."""

from orchestrator.benchmark.definition import Training
from orchestrator.errors import DataError
from orchestrator.stages.cases import fetch_images
from orchestrator.stages.context import RunContext
from orchestrator.stages.plan import read_plan
from orchestrator.stages.records.cases import original_grid
from orchestrator.stages.records.predictions import PredictionRecord, write_prediction_record
from orchestrator.storage import run_paths
from orchestrator.workflow.graph import evaluated_cases


def predict(context: RunContext, training: Training) -> None:
    """Predict every evaluation case with the final checkpoint; what it has predicted already is kept.

    Each prediction names its checkpoint in its header; one of another checkpoint is predicted again. A case whose
    image cannot be read is noted with its reason and the others go on: its score will be a row that says so. If that
    is every case, the stage fails with the first reason. Whatever else fails (storage, GPU, memory, the network) says
    nothing about a case and ends the stage; what is predicted is kept for the next attempt.
    """
    from orchestrator.training.checkpoint import CheckpointStore
    from orchestrator.training.nnunet.prediction import description_of, load_predictor

    storage = context.storage
    final = CheckpointStore(storage, training_id=training.id).load_final()
    predictor = load_predictor(
        final.state, plan=read_plan(storage, training.id), preset=context.preset, device=context.device
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
                images, grid = fetch_images(context, case), original_grid(storage, case)
                predictor.predict(images, path, grid=grid, description=description)
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
