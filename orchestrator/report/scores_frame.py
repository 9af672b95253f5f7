"""Committed rows as a table that is grouped and compared: one line a structure of a case."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.study import Study
from orchestrator.report.reported import Reported
from orchestrator.results.store import to_frame

if TYPE_CHECKING:
    import pandas as pd


def scores_frame(reported: Reported) -> "pd.DataFrame":
    """Return the rows of the trainings of a report with what statistics need beside them.

    Added are `patient` (the case, or the first case of a patient with several), `volume_error` (predicted less
    reference volume as a share of the reference) and `order` (place of the training's group in the study).
    """
    places = {training.group: place for place, training in reversed(list(enumerate(reported.trainings)))}
    rows = to_frame(reported.of_trainings)
    patients = patient_of_case(reported.study)
    cases = [Case(dataset=dataset, name=name) for dataset, name in zip(rows["dataset"], rows["case"], strict=True)]
    rows["patient"] = [patients.get(case, case.id) for case in cases]
    rows["volume_error"] = volume_error(rows)
    rows["order"] = rows["group"].map(places)
    return rows.sort_values(["order", "evaluation_set", "structure", "fold", "dataset", "case"], kind="stable")


def as_csv(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows of `scores_frame` as a file of text has them: the spacing of each axis in a column of its own."""
    found = rows.drop(columns=["order"])
    place = found.columns.get_loc("spacing_mm")
    spacings_mm = found.pop("spacing_mm")
    for number, axis in enumerate("zyx"):
        found.insert(place + number, f"spacing_{axis}_mm", [float(one[number]) for one in spacings_mm])
    return found


def volume_error(rows: "pd.DataFrame") -> "pd.Series[float]":
    """Return predicted less reference volume as a share of the reference; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (rows["predicted_ml"] - rows["reference_ml"]) / rows["reference_ml"]
    found: pd.Series[float] = error.where((rows["reference_ml"] > 0) & (rows["status"] != "missing"))
    return found


def patient_of_case(study: Study) -> Mapping[Case, str]:
    """Return a name for the patient of each case whose patient has several."""
    return {scan: scans[0].id for scans in study.patients_with_several_scans for scan in scans}
