"""Of which cases there are pictures, and what is said below them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from bench.report.scores import all_drawn_rows
from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.tables import load_tables
from orchestrator.report.pictures import pictures
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import scores_frame
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import to_table
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

STUDY = load_study()
(TRAINING,) = STUDY.trainings(only=("T1-infection-fold0",), preset=PRESETS["paper"])
ROWS = [row for row in all_drawn_rows([TRAINING], study=STUDY)[TRAINING.id] if row.evaluation_set == "test"][:5]


def captions(folder, *, scores, spacing_mm=1.0):
    """Return what stands below the pictures of five cases with the given status and DSC."""
    rows = []
    for row, (status, dsc) in zip(ROWS, scores, strict=True):
        rows.append(replace(row, score=replace(row.score, status=status, dsc=dsc, nsd=dsc)))
        case = Case(dataset=row.dataset, name=row.case)
        labels = np.zeros((6, 20, 20), np.uint8)
        labels[1:4, 5:15, 5:15] = 1
        empty = {ScoreStatus.REFERENCE_EMPTY: "reference", ScoreStatus.PREDICTION_EMPTY: "prediction"}.get(status)
        for key, voxels in (
            (run_paths.case_image(case), np.arange(labels.size, dtype=np.int16).reshape(labels.shape)),
            (run_paths.case_labels(case, label_set="infection"), labels * (empty != "reference")),
            (run_paths.prediction(TRAINING.id, case), labels * (empty != "prediction")),
        ):
            image = sitk.GetImageFromArray(voxels)
            image.SetSpacing((spacing_mm,) * 3)
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(folder / key))
    about = Reported(study=STUDY, trainings=(TRAINING,), table=to_table(rows), layout=load_tables(STUDY))
    found = pictures(scores_frame(about), reported=about, storage=open_storage(str(folder)))
    return [one.caption for one in found]


def test_the_worst_case_is_the_one_in_which_nothing_was_found(tmp_path):
    scored, missed = ScoreStatus.SCORED, ScoreStatus.PREDICTION_EMPTY
    worst, median, best = captions(
        tmp_path,
        scores=[(scored, 0.9), (missed, 0.0), (ScoreStatus.BOTH_EMPTY, math.nan), (missed, 0.0), (scored, 0.4)],
    )
    assert "worst DSC" in worst
    assert f"{ROWS[1].case}, DSC 0.000, NSD 0.000 at 3 mm, prediction empty. Reference" in worst
    # Two of the four that have a DSC are 0: the middle is the third.
    assert f"{ROWS[4].case}, DSC 0.400" in median
    assert f"{ROWS[0].case}, DSC 0.900, NSD 0.900 at 3 mm. Reference" in best


def test_equal_scores_are_told_apart_by_how_they_came_about(tmp_path):
    scored, missed, added = ScoreStatus.SCORED, ScoreStatus.PREDICTION_EMPTY, ScoreStatus.REFERENCE_EMPTY
    worst, median, _ = captions(
        tmp_path, scores=[(scored, 0.0), (added, 0.0), (added, 0.0), (missed, 0.0), (scored, 0.9)]
    )
    assert f"{ROWS[3].case}, DSC 0.000, NSD 0.000 at 3 mm, prediction empty" in worst
    assert ", reference empty" in median


@pytest.mark.parametrize(("spacing_mm", "has_bar"), [(1.0, False), (5.0, True)])
def test_a_bar_is_named_where_one_is_drawn(tmp_path, spacing_mm, has_bar):
    # Slices are 20 voxels wide.
    found = captions(tmp_path, scores=[(ScoreStatus.SCORED, 0.1 * place) for place in range(5)], spacing_mm=spacing_mm)
    assert ["; bar 50 mm." in one for one in found] == [has_bar] * 3
