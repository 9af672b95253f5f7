"""Runs below Slurm's own daemons: short time limits, a worker that is cancelled, one allocation for everything."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from slurm_daemons import command, slurm, why_not
from test_preemption import DRIVER

from orchestrator.events import read_events
from orchestrator.results.store import ResultsStore
from orchestrator.storage.filesystem import open_storage

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "Slurm is there"),
]
TRAININGS = ("T1-infection-fold0", "T1-infection-fold1")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with slurm(tmp_path / "slurm", monkeypatch):
        yield tmp_path


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


def on_slurm(folder, name, *, pool, **values):
    pools = {"cores": {"number": 2, "cpus": 1, "drain_s": 40} | pool}
    base = {"kind": "slurm", "folder": str(folder / "shared"), "look_every_s": 2, "idle_s": 10}
    return write(folder / f"{name}.yaml", {**base, "pools": pools, **values})


def start(folder, output, words):
    with (folder / f"{output}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, *words, "--output", str(folder / output)], stdout=log, stderr=log)


def run(folder, cluster, *, output):
    driver = DRIVER.replace("num_epochs=80", "num_epochs=150")
    words = ["-c", driver, "--preset", "tiny", "--cluster", str(cluster)]
    return start(folder, output, [*words, *(word for training in TRAININGS for word in ("--only", training))])


def ended(process, *, log):
    try:
        assert process.wait(timeout=1800) == 0, log.read_text()
    finally:
        process.kill()


def jobs():
    return [line.split("|") for line in command("squeue", "-h", "-o", "%i|%T|%j").splitlines()]


def wait_until(condition, *, limit_s=300):
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.5)


def scores(folder, output):
    table = ResultsStore(open_storage(str(folder / output))).read()
    keys = ["training_id", "evaluation_set", "dataset", "case", "structure", "dsc", "nsd"]
    return sorted(map(str, table.select(keys).to_pylist()))


def test_trainings_outlive_the_time_limits_of_their_jobs_and_one_that_is_cancelled(home):
    """Three minutes for a job, more for a training; what comes out is what this machine alone makes."""
    cluster = on_slurm(home, "elastic", pool={"time_limit_minutes": 3, "partition": "short"})
    at_work = run(home, cluster, output="elastic")
    wait_until(lambda: list((home / "elastic" / "trainings").glob("*/*")) or at_work.poll() is not None, limit_s=900)
    running = [job for job, state, _ in jobs() if state == "RUNNING"]
    if running:
        command("scancel", running[0])
    ended(at_work, log=home / "elastic.log")
    wait_until(lambda: jobs() == [], limit_s=60)
    events = read_events(open_storage(str(home / "elastic")))
    assert any(event["kind"] == "attempt_ended" and event["is_preemption"] for event in events)
    assert not [event for event in events if event["kind"] == "stage_failed" and event["final"]]
    local = write(home / "local.yaml", {"kind": "local", "num_cpus": 2, "num_gpus": 0})
    ended(run(home, local, output="local"), log=home / "local.log")
    assert scores(home, "elastic") == scores(home, "local")


def test_a_whole_run_is_one_job_of_two_machines_and_ends_with_its_driver(home):
    cluster = on_slurm(home, "whole", pool={"time_limit_minutes": 30, "partition": "long"}, form="allocation")
    words = ["-m", "orchestrator.run_all", "--only", "T1-lung-fold0", "--cluster", str(cluster)]
    ended(start(home, "whole", words), log=home / "whole.log")
    wait_until(lambda: jobs() == [], limit_s=20)
    text = (home / "whole.log").read_text()
    assert "submitted as orchestrator-" in text
    assert "1 of 1 trainings done" in text
