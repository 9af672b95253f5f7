"""Which function carries out which stage.

Each leaves its products in the output location, every one written atomically, and the one that says "done" last. A
stage may therefore be killed at any moment and carried out again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import Case, Training
from orchestrator.stages.cases import fingerprint, generate_download, ingest, ingest_labels
from orchestrator.stages.context import RunContext
from orchestrator.stages.ensemble import settle, validate
from orchestrator.stages.plan import plan
from orchestrator.stages.predict import predict
from orchestrator.stages.preprocess import preprocess
from orchestrator.stages.score import score
from orchestrator.stages.train import train
from orchestrator.storage.copies import keeping_copies
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKind

if TYPE_CHECKING:
    from orchestrator.training.stop_request import Watch
    from orchestrator.training.workers import Worker


_WHOLE_TRAINING_STAGES: Mapping[StageKind, Callable[[RunContext, Training], None]] = {
    StageKind.PLAN: plan,
    StageKind.VALIDATE: validate,
    StageKind.ENSEMBLE: settle,
    StageKind.PREDICT: predict,
    StageKind.SCORE: score,
}
"""What is done for a training, or an ensemble, as a whole."""
_WITHOUT_TORCH = {StageKind.DOWNLOAD, StageKind.INGEST, StageKind.LABELS, StageKind.ENSEMBLE, StageKind.SCORE}


def carry_out(
    context: RunContext,
    stage: Stage,
    *,
    watches: Sequence["Watch"] = (),
    gpus: float = 1.0,
    node: str = "",
    worker: "Worker | None" = None,
) -> int:
    """Carry out one stage; raises the OrchestratorError or whatever else it failed with.

    Parameters
    ----------
    context, stage
        What is done.
    watches
        A training looks at them besides its own, to know whether it must stop.
    gpus
        Share of a GPU that a prediction or a worker of a training has; below 1 it keeps to that share of the memory.
    node
        Id of this machine in its cluster: a training tells with its epochs where it runs.
    worker
        Which of several processes this is, each of which carries out this training; None for the only one.

    Returns
    -------
    int
        Voxels of the image that an ingest has made; 0 of any other stage.
    """
    if stage.kind not in _WITHOUT_TORCH:
        from orchestrator.training.threads import limit_threads

        limit_threads(context.num_threads if stage.kind.uses_network else 1)
    if context.device == "cuda" and stage.kind.uses_network:
        from orchestrator.training.gpu import working_gpu

        with working_gpu(share=gpus):
            return _carry_out(context, stage, watches=watches, node=node, worker=worker)
    return _carry_out(context, stage, watches=watches, node=node, worker=worker)


@keeping_copies()
def _carry_out(
    context: RunContext, stage: Stage, *, watches: Sequence["Watch"], node: str, worker: "Worker | None"
) -> int:
    match stage.kind:
        case StageKind.DOWNLOAD:
            generate_download(context, stage.key.download)
        case StageKind.INGEST:
            return ingest(context, _case(stage))
        case StageKind.LABELS:
            ingest_labels(context, _case(stage), label_set=stage.key.label_set)
        case StageKind.FINGERPRINT:
            fingerprint(context, _case(stage), label_set=stage.key.label_set)
        case StageKind.PREPROCESS:
            preprocess(context, _training(stage), case=_case(stage))
        case StageKind.TRAIN:
            train(context, _training(stage), watches=watches, node=node, worker=worker)
        case kind:
            _WHOLE_TRAINING_STAGES[kind](context, _training(stage))
    return 0


def _case(stage: Stage) -> Case:
    assert stage.case is not None, stage.key
    return stage.case


def _training(stage: Stage) -> Training:
    assert stage.training is not None, stage.key
    return stage.training
