"""What each column of the exported scores is."""

from collections.abc import Mapping, Sequence

from orchestrator.benchmark.definition import TRAINING_SEED, FurtherMetric

_FACET = "a facet of the study: what its trainings are told apart by"
COLUMNS: Mapping[str, str] = {
    "training_id": "id of the training",
    "group": "the trainings that differ in nothing but their fold and seed",
    "fold": "from 0",
    "configuration": "configuration of nnU-Net",
    "evaluation_set": "name of the set of cases; `val` is of the training's own domain",
    "dataset": "data set of the case",
    "case": "name of the case in its data set",
    "structure": "what is segmented",
    "status": "scored; both_empty, reference_empty or prediction_empty where a mask lacks the structure; missing where "
    "there is no usable prediction",
    "dsc": "Dice similarity coefficient, 0 to 1; none if both masks are empty or there is no prediction",
    "nsd": "normalised surface Dice at tolerance_mm, 0 to 1; none as dsc",
    "hd95_mm": "95 % Hausdorff distance by surface area, in mm; none if a mask is empty",
    "assd_mm": "average symmetric surface distance by surface area, in mm; none if a mask is empty",
    "reference_ml": "volume of the structure in the reference, in ml",
    "predicted_ml": "volume of the structure in the prediction, in ml",
    "tolerance_mm": "tolerance of the NSD",
    "spacing_mm": "distance of the voxels of the reference along (z, y, x), in mm",
    "num_reference_voxels": "voxels of the structure in the reference",
    "num_predicted_voxels": "voxels of the structure in the prediction",
    "message": "why there is no score, or what was done to the files before scoring",
    "preset": "how much was trained",
    "seed": "of the run",
    TRAINING_SEED: "which of several seeds of its model the training has; none where there is one",
    "versions": "JSON: what the model was trained with",
    "data_sha256": "digest over the digests of all cases of the training",
    "split_sha256": "digest over the names of its training, validation and test cases",
    "plan_sha256": "digest of its plans",
    "checkpoint_sha256": "digest of its final checkpoint",
    "phantoms": "whether the data are generated",
    "is_capped": "whether the preset left out cases",
    "train_elapsed_s": "seconds of training",
    "patient": "whom statistics draw: the case, or the first case of a patient with several (scores.csv only)",
    "volume_error": "predicted less reference volume, as a share of the reference (scores.csv only)",
}


def data_dictionary(columns: Sequence[str], *, further: Sequence[FurtherMetric] = ()) -> str:
    """Return what each column of the exported scores is, as a Markdown table."""
    known = {**COLUMNS, **{one.field: f"{one.title}; none if a mask is empty or there is no number" for one in further}}
    lines = ["# Columns of scores.csv and scores.parquet", "", "| column | what it is |", "|---|---|"]
    names = [*columns, *(name for name in ("patient", "volume_error") if name not in columns)]
    lines += [f"| {name} | {known.get(name, _FACET)} |" for name in names]
    return "\n".join(lines) + "\n"
