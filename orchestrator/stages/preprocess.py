"""The stage that writes the patch file of one case for one training."""

from orchestrator.benchmark.definition import Case, Training
from orchestrator.stages.cases import fetch_images
from orchestrator.stages.context import RunContext
from orchestrator.stages.plan import read_plan
from orchestrator.storage import run_paths


def preprocess(context: RunContext, training: Training, *, case: Case) -> None:
    """Preprocess one case with the plans of one training and write its Arrow patch file."""
    from orchestrator.patches.record import PatchRecord
    from orchestrator.patches.writer import write_patches
    from orchestrator.training.nnunet.preprocessing import preprocess_case

    storage = context.storage
    preprocessed = preprocess_case(
        fetch_images(context, case),
        storage.fetch(run_paths.case_labels(case, label_set=training.label_set)),
        read_plan(storage, training.id),
    )
    key = run_paths.patches(training.id, case)
    with storage.writing(key) as path:
        write_patches(path, data=preprocessed.data, seg=preprocessed.seg, properties=preprocessed.properties)
        storage.write_bytes(run_paths.record_of_patches(key), PatchRecord.of_file(path).to_bytes())
