"""What the results store holds: one row a structure of a scored case."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ScoreStatus(StrEnum):
    """How a score came about."""

    SCORED = "scored"
    """Both masks hold the structure."""
    BOTH_EMPTY = "both_empty"
    """Neither mask holds it: DSC and NSD are NaN, and counted apart."""
    REFERENCE_EMPTY = "reference_empty"
    """Only the prediction holds it: both scores are 0."""
    PREDICTION_EMPTY = "prediction_empty"
    """Only the reference holds it: both scores are 0."""
    MISSING = "missing"
    """There is no prediction file, or it cannot be read or compared: scores are NaN and `message` says why."""


ONE_EMPTY = (ScoreStatus.REFERENCE_EMPTY, ScoreStatus.PREDICTION_EMPTY)
"""One of both masks lacks the structure, so that there is no distance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseScore:
    """Scores of one structure of one case."""

    structure: str
    """Name of the structure."""
    status: ScoreStatus
    """How the scores came about."""
    dsc: float
    """Dice similarity coefficient, 0 to 1, or NaN."""
    nsd: float
    """Normalised surface Dice at `tolerance_mm`, 0 to 1, or NaN."""
    tolerance_mm: float
    """Tolerance of the NSD."""
    spacing_mm: tuple[float, float, float]
    """(z, y, x) of the reference mask; NaN where there is none."""
    num_reference_voxels: int
    """Voxels of the structure in the reference."""
    num_predicted_voxels: int
    """Voxels of the structure in the prediction."""
    message: str = ""
    """Reason of a missing score."""
    hd95_mm: float = math.nan
    """95 % Hausdorff distance; NaN unless asked for, infinite if one mask is empty."""
    assd_mm: float = math.nan
    """Average symmetric surface distance; as `hd95_mm`, and so are the following."""
    hd95_voxel_mm: float = math.nan
    """95 % Hausdorff distance of the voxels at surfaces, the larger of both directions."""
    hd95_voxel_pooled_mm: float = math.nan
    """95 % Hausdorff distance of the voxels at surfaces, both directions together."""
    assd_voxel_mm: float = math.nan
    """Average symmetric distance of the voxels at surfaces."""
    masd_voxel_mm: float = math.nan
    """Mean of both directions' average distances of the voxels at surfaces."""
    further: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Of metrics that files of their own define, by field, if they were asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where the rows of a training come from; the same on each of its rows."""

    preset: str
    """Name of the preset."""
    seed: int
    """Seed of the run, from which each training derives its own."""
    versions: str
    """JSON object of what the model was trained with: package name to version, `device` to `cpu` or the GPU's name,
    `workers` to how many fitted it together; `2.0, then 2.1` where an attempt went on with another version, `unknown`
    where nothing was kept."""
    data_sha256: str
    """Digest over the digests of every case of the training."""
    split_sha256: str
    """Digest over the names of its train, val and test cases."""
    plan_sha256: str
    """Digest of its nnU-Net plans."""
    checkpoint_sha256: str
    """Digest of the final checkpoint."""
    phantoms: bool
    """Whether the data are generated phantoms."""
    is_capped: bool
    """Whether the preset left out cases of the published split."""
    train_elapsed_s: float
    """Seconds of training, all attempts that led to the checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """One row of the results store."""

    training_id: str
    group: str
    """Of the training: the trainings that differ in their fold alone."""
    fold: int
    configuration: str
    """Of nnU-Net."""
    facets: Mapping[str, str | int]
    """Of the training; each is a column."""
    evaluation_set: str
    dataset: str
    case: str
    score: CaseScore
    provenance: Provenance
    further: Mapping[str, float] = field(default_factory=dict)
    """Scores that the study asks for besides, by field; each is a column."""
