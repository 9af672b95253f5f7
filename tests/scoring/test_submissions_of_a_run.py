"""Submissions beside the trainings of a run: scored on what those are tested on, compared and ranked with them."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from bench.report.scores import all_drawn_rows
from kernels import FIELDS, TITLES
from orchestrator.benchmark.definition import FurtherMetric
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.study import Study
from orchestrator.benchmark.tables import load_tables
from orchestrator.errors import ConfigError
from orchestrator.report.reported import Reported
from orchestrator.report.write import write_report
from orchestrator.results.store import to_table
from orchestrator.scoring.submissions import submissions_of
from orchestrator.scoring.submitted import check_label_set, check_names, record_submissions, references_of
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

STUDY = load_study()
TRAININGS = STUDY.trainings(only=("T1-infection",), preset=PRESETS["paper"])
CASES = sorted({case for training in TRAININGS for found in training.evaluation_sets for case in found.cases})


def write(path: Path, *, last: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((4, 12, 12), np.uint8)
    array[1:3, 2:10, 2:last] = 1
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for case in CASES:
        write(tmp_path / "run" / run_paths.case_labels(case, label_set="infection"), last=10)
        # One in folders of data sets, one without: 8 of 8 columns, and 7 of 8.
        write(tmp_path / "exact" / f"{case.id}.nii.gz", last=10)
        write(tmp_path / "near" / f"{case.name}.nrrd", last=9)
    return tmp_path


def scored(folder: Path, *names: str, study: Study = STUDY):
    storage = open_storage(str(folder / "run"))
    submissions = submissions_of([f"{name}={folder / name}" for name in names])
    record_submissions(storage, submissions, label_set="infection")
    (found,) = references_of(storage, study=study, trainings=TRAININGS, submissions=submissions, label_set="infection")
    return storage, found, [one for case in found.cases for one in found.scores.score(case)]


def test_submissions_are_scored_on_what_trainings_are_tested_on(run: Path):
    (run / "near" / f"{CASES[0].name}.nrrd").unlink()
    storage, found, unusable = scored(run, "exact", "near")
    assert found.cases == tuple(case.id for case in CASES)
    assert found.num_absent == 0
    assert [(one.method, one.case) for one in unusable] == [("near", CASES[0].id)]
    rows = all_drawn_rows(TRAININGS, study=STUDY)
    table = to_table([row for some in rows.values() for row in some])
    reported = Reported(study=STUDY, trainings=TRAININGS, table=table, layout=load_tables(STUDY))
    write_report(storage, reported=reported, failures={})
    report = run / "run/report"
    summary = json.loads((report / "summary.json").read_text())
    by_group = {(row["group"], row["evaluation_set"]): row for row in summary["scores"]}
    assert by_group["exact", "test"]["dsc"]["mean"] == 1.0
    assert by_group["near", "test"]["num_missing"] == 1
    # 2 x 7 of 7 + 8 columns.
    assert by_group["near", "test"]["dsc"]["mean"] == pytest.approx(14 / 15)
    # One of the twenty patients of the first set has two scans.
    assert by_group["exact", "test"]["dsc"]["num_clusters"] == 19
    boards = {one["title"]: one for one in summary["ranks"]}
    first, *_ = boards["infection, COVID-19-CT-Seg"]["standings"]
    assert (first["method"], first["rank"], boards["infection, COVID-19-CT-Seg"]["num_cases"]) == ("exact", 1, 19)
    questions = {one["question"]: one for one in summary["answers"]}
    # One question, so that the correction is over the tests of both: two evaluation sets and two metrics each.
    found = questions["Submissions against the trainings"]
    assert found["num_tests"] == 2 * 2 * 2
    against = found["differences"]
    assert {(one["baseline"], one["against"]) for one in against} == {
        ("T1-infection", "exact"),
        ("T1-infection", "near"),
    }
    assert {one["verdict"] for one in against if one["against"] == "exact"} == {"higher"}
    page = (report / "index.html").read_text()
    assert "Submitted and not trained here: exact, near." in page
    with (report / "submitted_scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * len(CASES)


def test_a_further_metric_of_the_study_is_one_of_submissions(run: Path):
    metric = FurtherMetric(name="hd95-voxel", field=FIELDS["hd95-voxel"], title=TITLES["hd95-voxel"])
    study = replace(STUDY, metrics=(metric,))
    storage, *_ = scored(run, "near", study=study)
    rows = [row for some in all_drawn_rows(TRAININGS, study=STUDY).values() for row in some]
    rows = [replace(row, score=replace(row.score, **{metric.field: 7.0}), further={metric.field: 7.0}) for row in rows]
    reported = Reported(study=study, trainings=TRAININGS, table=to_table(rows), layout=load_tables(study))
    write_report(storage, reported=reported, failures={})
    scores = json.loads((run / "run/report/summary.json").read_text())["scores"]
    medians = {row["group"]: row["further"][metric.field]["median"] for row in scores}
    # A column of eight lacks: 1 voxel of 1 mm.
    assert (medians["near"], medians["T1-infection"]) == (1.0, 7.0)


def test_nothing_submitted_is_nothing_said(run: Path):
    storage = open_storage(str(run / "run"))
    reported = Reported(study=STUDY, trainings=TRAININGS, table=to_table(
        all_drawn_rows(TRAININGS, study=STUDY)["T1-infection-fold0"]), layout=load_tables(STUDY))  # fmt: skip
    write_report(storage, reported=reported, failures={})
    assert "Submitted" not in (run / "run/report/index.html").read_text()
    assert not (run / "run/report/submitted_scores.csv").exists()


def test_the_label_set_is_the_one_that_is_scored_or_must_be_said():
    assert check_label_set(None, trainings=TRAININGS) == "infection"
    both = STUDY.trainings(only=("T1-infection", "T1-lung"), preset=PRESETS["paper"])
    with pytest.raises(ConfigError, match=r"expected --label-set .* one of lung, infection"):
        check_label_set(None, trainings=both)


def test_a_submission_is_not_named_like_trainings(run: Path):
    check_names(submissions_of([f"exact={run / 'exact'}"]), trainings=TRAININGS)
    with pytest.raises(ConfigError, match="T1-infection: the name of trainings of this study"):
        check_names(submissions_of([f"T1-infection={run / 'exact'}"]), trainings=TRAININGS)
