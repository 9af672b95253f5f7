"""Scores of submissions as the same table as those of trainings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from orchestrator.benchmark.definition import Case, FurtherMetric
from orchestrator.report.scores_frame import volume_error

if TYPE_CHECKING:
    import pandas as pd

EVERYTHING = "all"
"""Evaluation set of submissions that are scored without a run."""
_NUMBERS = ("dsc", "nsd", "hd95_mm", "assd_mm")


def submitted_frame(
    rows: pa.Table,
    *,
    patients: Mapping[Case, str],
    first_order: int = 0,
    further: Sequence[FurtherMetric] = (),
) -> "pd.DataFrame":
    """Return rows of submissions with the columns of `scores_frame` that statistics need.

    Parameters
    ----------
    rows
        Of `KeptScores.rows`, perhaps with a column `evaluation_set`.
    patients
        Name for the patient of each case whose patient has several.
    first_order
        Place of the first method among the groups of a run.
    further
        Metrics that the study asks for besides.
    """
    frame = rows.to_pandas().rename(columns={"method": "group"})
    frame["training_id"] = frame["group"]
    frame["fold"] = 0
    if "evaluation_set" not in frame:
        frame["evaluation_set"] = EVERYTHING
    for name in (*_NUMBERS, *(metric.field for metric in further)):
        # As in the results store: no number where a mask is empty.
        frame[name] = frame[name].where(np.isfinite(frame[name])) if name in frame else np.nan
    voxel_ml = frame["spacing_z_mm"] * frame["spacing_y_mm"] * frame["spacing_x_mm"] / 1000
    frame["reference_ml"] = frame["num_reference_voxels"] * voxel_ml
    frame["predicted_ml"] = frame["num_predicted_voxels"] * voxel_ml
    frame["volume_error"] = volume_error(frame)
    split = frame["case"].str.rpartition("/")
    frame["dataset"], frame["case"] = split[0], split[2]
    names = {
        case: patients.get(Case(dataset=case[0], name=case[1]), "/".join(filter(None, case)))
        for case in set(zip(frame["dataset"], frame["case"], strict=True))
    }
    frame["patient"] = [names[case] for case in zip(frame["dataset"], frame["case"], strict=True)]
    places = {name: first_order + place for place, name in enumerate(dict.fromkeys(frame["group"]))}
    frame["order"] = frame["group"].map(places)
    # The same case may have been scored against label maps of two kinds: the first is that of the submission's own.
    keys = ["order", "evaluation_set", "structure", "dataset", "case"]
    return frame.drop_duplicates(keys).sort_values(keys, kind="stable")
