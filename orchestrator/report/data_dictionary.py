"""What each column of the exported scores is."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from kernels import FIELDS, METRICS, TITLES
from orchestrator.benchmark.definition import TRAINING_SEED, VALIDATION, FurtherMetric
from orchestrator.report.texts.escaping import table_line

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
    "spacing_mm": "distance of the voxels of the reference along (z, y, x), in mm (scores.parquet only)",
    **{
        f"spacing_{axis}_mm": f"distance of the voxels of the reference along {axis}, in mm (scores.csv only)"
        for axis in "zyx"
    },
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


_NO_DISTANCE = "infinite where one mask is empty, none where both are or there is no label map"
_OF_SUBMISSIONS: Mapping[str, str] = {
    "method": "name of the submission",
    "case": "label map of the reference",
    "structure": COLUMNS["structure"],
    "status": COLUMNS["status"],
    "message": COLUMNS["message"],
    "num_reference_voxels": COLUMNS["num_reference_voxels"],
    "num_predicted_voxels": COLUMNS["num_predicted_voxels"],
    "dsc": COLUMNS["dsc"],
    "nsd": COLUMNS["nsd"],
    **{FIELDS[name]: f"{TITLES[name]}; {_NO_DISTANCE}" for name in METRICS if name not in {"dsc", "nsd"}},
    "hd95_mm": f"95 % Hausdorff distance by surface area, in mm; {_NO_DISTANCE}",
    "assd_mm": f"average symmetric surface distance by surface area, in mm; {_NO_DISTANCE}",
    "tolerance_mm": COLUMNS["tolerance_mm"],
    **{f"spacing_{axis}_mm": f"distance of the voxels of the reference along {axis}, in mm" for axis in "zyx"},
}


def data_dictionary(
    columns: Sequence[str],
    *,
    further: Sequence[FurtherMetric] = (),
    set_titles: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return what each column of the exported scores is, as a Markdown table.

    `columns` are those of scores.parquet and of scores.csv, each once, `set_titles` of evaluation sets.
    """
    none = "none if a mask is empty, there is no number, or the training was scored before the study asked for it"
    others = "".join(f"; `{name}` is {title}" for name, title in set_titles.items() if name != VALIDATION)
    sets = {"evaluation_set": f"{COLUMNS['evaluation_set']}{others}"}
    known = {**COLUMNS, **sets, **{one.field: f"{one.title}; {none}" for one in further}}
    return _table([(name, known.get(name, _FACET)) for name in columns])


def dictionary_of_submissions(columns: Sequence[str]) -> str:
    """Return what each column of the scores of submissions is, as a Markdown table."""
    return _table([(name, _OF_SUBMISSIONS[name]) for name in columns])


def _table(found: Sequence[tuple[str, str]]) -> str:
    lines = ["# Columns of scores.csv and scores.parquet", "", "| column | what it is |", "|---|---|"]
    return "\n".join([*lines, *map(table_line, found)]) + "\n"
