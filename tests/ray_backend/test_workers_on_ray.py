"""Two workers of one training on a real Ray: killed, gone on with, and told of in the results."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.events import read_events
from orchestrator.results.store import ResultsStore
from orchestrator.storage.filesystem import open_storage

TRAINING = "T1-infection-fold0"
DRIVER = """
import sys
from dataclasses import replace
from orchestrator import run_all
from orchestrator.benchmark.presets import PRESETS
from orchestrator.scheduling import scheduler

scheduler.RESTART_S = 1.0
PRESETS["tiny"] = replace(
    PRESETS["smoke"],
    name="tiny",
    workers=int(sys.argv[1]),
    num_epochs=30,
    num_iterations_per_epoch=12,
    num_val_iterations_per_epoch=1,
    checkpoint_every_s=0.0,
    max_patch_voxels=16**3,
    case_limits={"train": 2, "val": 1, "test": 1},
)
sys.exit(run_all.main(sys.argv[2:]))
"""
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def command(folder, *, workers, **cluster):
    file = folder / "cluster.yaml"
    file.write_text(json.dumps({"kind": "local", "num_cpus": 2, "num_gpus": 0, **cluster}))
    started = [sys.executable, "-c", DRIVER, str(workers), "--preset", "tiny", "--cluster", str(file)]
    return [*started, "--only", TRAINING, "--output", str(folder / "run")]


def saved(folder):
    """What the checkpoints so far have told."""
    events = read_events(open_storage(str(folder / "run")))
    return [event for event in events if event["kind"] == "checkpoint_saved"]


def children_of(pid):
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def other_workers(first):
    """Pids of the workers beside the first one, which writes the checkpoints: children of the same Ray."""
    parent = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children_of(parent)}
    return [pid for pid, name in names.items() if b"RayTrainWorker" in name and pid != first]


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory):
    """A run of two workers of which the second is killed while they train."""
    folder = tmp_path_factory.mktemp("killed")
    running = subprocess.Popen(command(folder, workers=2), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until_s = time.monotonic() + 900
    while len(told := saved(folder)) < 20:
        assert running.poll() is None, running.stdout.read()
        assert time.monotonic() < until_s
        time.sleep(0.2)
    (victim,) = other_workers(told[-1]["pid"])
    os.kill(victim, signal.SIGKILL)
    text, _ = running.communicate(timeout=900)
    assert running.returncode == 0, text
    return folder


def test_a_killed_worker_costs_no_more_than_what_came_after_the_last_checkpoint(killed_once):
    events = read_events(open_storage(str(killed_once / "run")))
    (failed,) = [event for event in events if event["kind"] == "stage_failed"]
    assert failed["stage"] == f"train {TRAINING}"
    attempts = [event for event in events if event["kind"] == "attempt_started"]
    assert len(attempts) == 2
    place = (attempts[1]["epoch"], attempts[1]["iteration"])
    before = [one for one in events[: events.index(attempts[1])] if one["kind"] == "checkpoint_saved"]
    told = (before[-1]["epoch"], before[-1]["iteration"])
    # A worker that hears the other one no more may have written a checkpoint of which it cannot tell any more.
    assert (0, 0) < told <= place
    assert place[0] - told[0] <= 1


def test_rows_say_how_many_workers_have_trained(killed_once):
    rows = ResultsStore(open_storage(str(killed_once / "run"))).read().to_pylist()
    assert {json.loads(row["versions"])["workers"] for row in rows} == {"2"}
    log = (killed_once / "run" / "logs" / f"{TRAINING}.log").read_text()
    assert "epoch 30/30" in log


def test_more_workers_than_patches_of_a_batch_are_refused_by_the_plan_before_anything_is_preprocessed(tmp_path):
    ran = subprocess.run(
        command(tmp_path, workers=1, num_cpus=3, workers_per_training=3), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert f"{TRAINING}: 3 workers for batches of 2 patches; expected at most 2" in " ".join(ran.stdout.split())
    assert not (tmp_path / "run" / "patches").exists()


def test_a_training_takes_the_idle_core_beside_it_where_that_is_switched_on(tmp_path):
    ran = subprocess.run(
        command(tmp_path, workers=1, workers_at_end=2, min_preemption_gain_s=2),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"train {TRAINING}: more workers are to go on with it" in " ".join(ran.stdout.split())
    rows = ResultsStore(open_storage(str(tmp_path / "run"))).read().to_pylist()
    assert {json.loads(row["versions"])["workers"] for row in rows} == {"1, then 2"}
