"""A few trainings through real Ray and real nnU-Net, from generated downloads to tables."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import SimpleITK as sitk

import orchestrator
from orchestrator.benchmark.presets import find_preset
from orchestrator.events import read_events
from orchestrator.results.store import ResultsStore
from orchestrator.storage.filesystem import open_storage

ONLY = ("T1-infection-fold0", "T2-infection-structseg-fold0")
pytestmark = pytest.mark.timeout(1800)


def run_all(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.run_all", "--output", str(output), *arguments]
    for pattern in ONLY:
        command += ["--only", pattern]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    first = run_all(output)
    assert first.returncode == 0, first.stdout + first.stderr
    return output


def test_every_prediction_is_scored_and_every_row_says_where_it_comes_from(finished):
    rows = ResultsStore(open_storage(str(finished))).read().to_pylist()
    assert {row["training_id"] for row in rows} == set(ONLY)
    # Task 1: 4 COVID-19-CT-Seg + 2 MosMed cases; task 2: 2 of its own domain as well.
    assert len(rows) == 6 + 8
    assert {row["status"] for row in rows} <= {"scored", "prediction_empty"}
    assert all(row["phantoms"] and row["is_capped"] and row["preset"] == "smoke" for row in rows)
    for name in ("data_sha256", "split_sha256", "plan_sha256", "checkpoint_sha256"):
        assert {len(row[name]) for row in rows} == {64}
    versions = json.loads(rows[0]["versions"])
    assert versions["nnunetv2"].startswith("2.8")
    assert versions["device"]


def test_predictions_lie_on_the_grid_of_the_file_of_their_owner(finished):
    (owned,) = (finished / "downloads/mosmed").rglob("study_0255.nii.gz")
    image = sitk.ReadImage(str(owned))
    predicted = sitk.ReadImage(str(finished / f"predictions/{ONLY[0]}/mosmed/study_0255.nii.gz"))
    assert predicted.GetSize() == image.GetSize()
    assert predicted.GetSpacing() == pytest.approx(image.GetSpacing())
    assert predicted.GetOrigin() == pytest.approx(image.GetOrigin())
    assert predicted.GetDirection() == pytest.approx(image.GetDirection())
    assert predicted.GetPixelID() == sitk.sitkUInt8


def test_task_1_learns_and_task_2_is_worse_on_covid(finished):
    means = ResultsStore(open_storage(str(finished))).query(
        "SELECT task, avg(dsc) AS dsc FROM scores WHERE evaluation_set = 'test' GROUP BY task ORDER BY task"
    )
    task_1, task_2 = means["dsc"].to_pylist()
    assert task_1 > 0.3
    assert task_2 < task_1


def test_task_2_takes_patch_size_and_network_from_task_1(finished):
    plans = [json.loads((finished / f"plans/{name}.json").read_text())["plans"] for name in ONLY]
    first, second = (plan["configurations"]["3d_fullres"] for plan in plans)
    for key in ("patch_size", "batch_size", "architecture"):
        assert first[key] == second[key]
    assert (
        plans[0]["foreground_intensity_properties_per_channel"]
        != plans[1]["foreground_intensity_properties_per_channel"]
    )


def test_tables_say_that_they_are_of_phantoms_and_capped(finished):
    text = (finished / "tables/table_VI.md").read_text(encoding="utf-8")
    assert "generated phantoms" in text
    assert "Capped" in text
    assert "T2-infection-structseg" in text


def test_the_report_shows_scores_and_the_worst_median_and_best_case(finished):
    page = (finished / "report/index.html").read_text(encoding="utf-8")
    assert "Whole: all 2 trainings have scores." in page
    assert page.count("<img ") == 3
    assert all(f"infection, {name} DSC: " in page for name in ("worst", "median", "best"))
    assert "Learning curves" in page
    assert "<script" not in page


def test_the_report_is_written_anew_on_demand(finished):
    (finished / "report/index.html").unlink()
    location = orchestrator.write_report(finished)
    assert location == f"{finished}/report/index.html"
    assert (finished / "report/index.html").exists()
    with pytest.raises(orchestrator.errors.ConfigError, match="no run has been started"):
        orchestrator.write_report(finished / "tables")


def test_the_same_command_again_trains_nothing(finished):
    started_s = time.monotonic()
    second = run_all(finished)
    assert second.returncode == 0
    assert time.monotonic() - started_s < 120
    assert "2 of 2 trainings done" in second.stdout
    trained = [
        e for e in read_events(open_storage(str(finished))) if e["kind"] == "stage_started" and "train " in e["stage"]
    ]
    assert len(trained) == 2


def test_another_preset_in_the_same_output_is_refused(finished):
    refused = run_all(finished, "--seed", "7")
    assert refused.returncode == 2
    assert "holds a run with another seed" in refused.stderr


def test_each_training_has_a_log(finished):
    log = (finished / f"logs/{ONLY[0]}.log").read_text()
    assert "No validation cases" in log
    num_epochs = find_preset("smoke").num_epochs
    assert f"epoch {num_epochs}/{num_epochs}: " in log


def test_a_program_finds_the_run_done_and_reads_its_scores(finished):
    study = orchestrator.load_study().select(*ONLY)
    told = io.StringIO()
    outcome = orchestrator.run(study, output=finished, progress=told)
    assert (outcome.num_done, outcome.failures, outcome.lost_trainings) == (2, {}, ())
    assert "Ray" not in told.getvalue()
    scores = orchestrator.open_results(finished).to_pandas()
    assert set(scores["training_id"]) == set(ONLY)
    assert scores.groupby("task")["dsc"].mean()[1] > 0.3
