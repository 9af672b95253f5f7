"""Trainings in tracking tools: their own settings, times and scores, nothing twice, and nothing of a machine."""

import json
import re
import socket
import sqlite3
import statistics
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.bundle.sealed_run import sealed_run
from orchestrator.cli.results.export_tracking import main
from orchestrator.errors import ConfigError
from orchestrator.results.store import ResultsStore, from_table
from orchestrator.storage.filesystem import open_storage
from orchestrator.tracking.tools import TOOLS, export_runs
from orchestrator.tracking.tracked import metric_names, runs_of

TRAINED = "lesion-fold0"
TELLING = (b"secret-host", b"10.1.2.3", b"secret-home")


@pytest.fixture(scope="module")
def request_(tmp_path_factory):
    return sealed_run(tmp_path_factory.mktemp("a place"))


@pytest.fixture(scope="module")
def runs(request_):
    return list(runs_of(request_, open_storage(request_.output)))


@pytest.fixture
def no_network(monkeypatch):
    """Let every connection to another machine fail."""

    def refuse(*_: object) -> None:
        raise AssertionError("asks for the network")

    real = socket.socket.connect

    def connect(self, address):
        if self.family == socket.AF_UNIX or address[0] in {"127.0.0.1", "localhost", "::1"}:
            return real(self, address)
        return refuse()

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_training_is_told_with_its_times_settings_and_scores(request_, runs):
    (run,) = runs
    assert (run.name, run.group, run.project) == (TRAINED, "lesion", "Lesions, twice")
    assert (run.start, run.end) == (
        datetime(2026, 11, 2, 10, tzinfo=UTC),
        datetime(2026, 11, 4, 10, tzinfo=UTC),
    )
    (epoch,) = run.epochs
    assert (epoch.number, epoch.time) == (0, datetime(2026, 11, 3, 10, tzinfo=UTC))
    assert epoch.metrics == {"train_loss": -0.1, "val_loss": -0.2, "pseudo_dice": 0.5, "elapsed_s": 3.0}
    assert run.params["facet_model"] == "3d"
    assert (run.params["num_epochs"], run.params["preset"], run.params["seed"]) == ("1000", "paper", "0")
    rows = [row for row in from_table(ResultsStore(open_storage(request_.output)).read())
            if row.training_id == TRAINED]  # fmt: skip
    scored = [row.score.dsc for row in rows if row.score.dsc == row.score.dsc]
    assert run.scores["val/lesion/dsc_mean"] == pytest.approx(statistics.fmean(scored))
    assert run.scores["val/lesion/num_cases"] == len(rows) == len(run.cases)
    assert {row["case"] for row in run.cases} == {row.case for row in rows}
    assert run.tags["study_sha256"] == request_.study.sha256
    assert run.tags["version_nnunetv2"] == "2.8.1"


def test_an_id_is_that_of_the_training_of_this_run(request_, runs, tmp_path: Path):
    again = list(runs_of(request_, open_storage(request_.output)))
    assert [run.id for run in again] == [run.id for run in runs]
    assert len(runs[0].id) == 32
    other = sealed_run(tmp_path)
    log = next(Path(other.output, "events").iterdir())
    log.write_text(log.read_text().replace("2026-11-01", "2026-10-01"))
    assert next(runs_of(other, open_storage(other.output))).id != runs[0].id


def test_names_of_metrics_are_what_all_tools_take_and_each_is_its_own():
    odd = "GTV-T (1) µ/x"
    assert metric_names([odd]) == {odd: "GTV-T__1____x"}
    found = metric_names([odd, "肝脏", "肾脏"])
    assert found[odd] == "GTV-T__1____x"
    assert re.fullmatch("__-[0-9a-f]{6}", found["肝脏"])
    assert len(set(found.values())) == 3
    assert metric_names(["肾脏", "肝脏", "val"])["肝脏"] == found["肝脏"]


def test_a_tool_that_is_not_there_is_one_line(request_, monkeypatch, tmp_path: Path, capsys):
    assert main(["--output", request_.output, "--study", str(request_.study.path), "--to", "x"]) == 2
    assert "--to x: unknown; expected one of mlflow, wandb, trackio" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb", None)
    options = ["--output", request_.output, "--study", str(request_.study.path), "--to", "wandb"]
    assert main([*options, "--folder", str(tmp_path / "x")]) == 2
    told = capsys.readouterr().err
    assert "expected pip install 'nnunet-orchestrator[wandb]'" in " ".join(told.split())
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_a_file_is_refused(runs, tmp_path: Path):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    (tmp_path / "x").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        export_runs(runs, to="mlflow", folder=tmp_path / "x")


@pytest.mark.parametrize("tool", TOOLS)
def test_nothing_of_a_machine_is_written_and_nothing_is_asked_for(tool, runs, request_, tmp_path: Path, no_network):
    pytest.importorskip(TOOLS[tool].package, reason=f"{tool} is not installed")
    told = []
    export_runs(runs, to=tool, folder=tmp_path / "there", told=told.append)
    assert told == runs
    place = Path(request_.output).parent
    telling = (*TELLING, str(place).encode(), str(tmp_path).encode(), socket.gethostname().encode(),
               str(Path.home()).encode() + b"/")  # fmt: skip
    # A short name of a machine is in any bytes by chance.
    telling = [word for word in telling if len(word) > 4]
    files = [path for path in (tmp_path / "there").rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert not [word for word in telling if word in content], path


def test_mlflow_reads_what_was_written_and_nothing_is_there_twice(runs, tmp_path: Path, no_network):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    for _ in range(2):
        export_runs(runs, to="mlflow", folder=tmp_path)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("Lesions, twice")
    assert experiment.artifact_location == f"./artifacts/{experiment.experiment_id}"
    (found,) = client.search_runs([experiment.experiment_id], run_view_type=mlflow.entities.ViewType.ALL)
    assert (found.info.run_name, found.info.status) == (TRAINED, "FINISHED")
    assert found.info.start_time == datetime(2026, 11, 2, 10, tzinfo=UTC).timestamp() * 1000
    assert found.info.end_time == datetime(2026, 11, 4, 10, tzinfo=UTC).timestamp() * 1000
    (loss,) = client.get_metric_history(found.info.run_id, "train_loss")
    assert (loss.value, loss.step) == (-0.1, 0)
    assert loss.timestamp == datetime(2026, 11, 3, 10, tzinfo=UTC).timestamp() * 1000
    assert found.data.params == dict(runs[0].params)
    assert found.data.metrics["val/lesion/dsc_mean"] == pytest.approx(runs[0].scores["val/lesion/dsc_mean"])
    (table,) = tmp_path.rglob("cases.json")
    assert table.parent == tmp_path / found.info.artifact_uri / ""
    assert len(json.loads(table.read_text())["data"]) == len(runs[0].cases)
    # A training that has gone on takes the place of what it was.
    export_runs([replace(runs[0], is_whole=False)], to="mlflow", folder=tmp_path)
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FAILED"
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("SELECT count(*) FROM experiments").fetchone() == (2,)


def test_trackio_has_each_value_once_at_its_time(runs, tmp_path: Path, no_network):
    pytest.importorskip("trackio", reason="trackio is not installed")
    for _ in range(2):
        export_runs(runs, to="trackio", folder=tmp_path)
    with sqlite3.connect(tmp_path / "Lesions-twice.db") as connection:
        rows = connection.execute("SELECT run_name, step, timestamp, metrics FROM metrics ORDER BY step").fetchall()
    assert [row[:3] for row in rows] == [
        (TRAINED, 0, "2026-11-03T10:00:00+00:00"),
        (TRAINED, 1, "2026-11-04T10:00:00+00:00"),
    ]
    assert json.loads(rows[0][3])["train_loss"] == -0.1
    last = json.loads(rows[1][3])
    assert last["val/lesion/dsc_mean"] == pytest.approx(runs[0].scores["val/lesion/dsc_mean"])
    assert len(last["cases"]["_value"]) == len(runs[0].cases)


def test_wandb_has_one_run_that_began_when_the_training_did(runs, tmp_path: Path, no_network):
    pytest.importorskip("wandb", reason="W&B is not installed")
    before = time.time()
    for _ in range(2):
        export_runs(runs, to="wandb", folder=tmp_path)
    assert time.time() >= before
    (place,) = (tmp_path / "wandb").iterdir()
    began = runs[0].start.astimezone().strftime("%Y%m%d_%H%M")
    assert place.name.startswith(f"offline-run-{began}")
    assert place.name.endswith(runs[0].id)
    (log,) = place.glob("run-*.wandb")
    # W&B's own process writes it, on a busy machine a moment after the run has ended.
    until_s = time.monotonic() + 20
    while b"train_loss" not in log.read_bytes():
        assert time.monotonic() < until_s
        time.sleep(0.05)
    table = (place / "files" / "cases.csv").read_text().splitlines()
    assert len(table) == len(runs[0].cases) + 1
    assert not (place / "files" / "wandb-metadata.json").exists()
