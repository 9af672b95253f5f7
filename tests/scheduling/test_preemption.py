"""A training is preempted for another on a real Ray, and nothing of what comes out is different."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestrator.events import read_events
from orchestrator.results.store import ResultsStore
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.checkpoint import CheckpointStore

TRAININGS = tuple(f"T1-infection-fold{fold}" for fold in range(3))
DRIVER = """
import sys
from dataclasses import replace
from orchestrator import run_all
from orchestrator.benchmark.presets import PRESETS

PRESETS["tiny"] = replace(
    PRESETS["smoke"],
    name="tiny",
    num_epochs=80,
    num_iterations_per_epoch=12,
    num_val_iterations_per_epoch=1,
    checkpoint_every_s=600.0,
    max_patch_voxels=16**3,
    case_limits={"train": 2, "val": 1, "test": 1},
)
sys.exit(run_all.main(sys.argv[1:]))
"""
MADE_BY_TRAININGS = ("trainings", "predictions", "results", "tables", "events", "logs", "ray_train", "drivers")

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def run(folder, *, min_gain_s):
    """Carry out three trainings on two cores: the bound is one and a half, so the third must not wait for the first."""
    cluster = folder / "cluster.yaml"
    cluster.write_text(f"kind: local\nnum_cpus: 2\nnum_gpus: 0\nmin_preemption_gain_s: {min_gain_s}\n")
    command = [sys.executable, "-c", DRIVER, "--preset", "tiny", "--cluster", str(cluster)]
    command += [part for training in TRAININGS for part in ("--only", training)]
    ran = subprocess.run([*command, "--output", str(folder / "run")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One run in which trainings may be preempted after seconds, and one from the same patches in which none does."""
    gave_way, undisturbed = (tmp_path_factory.mktemp(name) for name in ("gave_way", "undisturbed"))
    assert "preempted for a training" in run(gave_way, min_gain_s=3)
    made = shutil.ignore_patterns(*MADE_BY_TRAININGS)
    shutil.copytree(gave_way / "run", undisturbed / "run", ignore=made)
    assert "preempted for a training" not in run(undisturbed, min_gain_s=600)
    return gave_way / "run", undisturbed / "run"


def test_a_training_saves_its_place_and_the_one_that_waited_takes_it(folders):
    events = read_events(open_storage(str(folders[0])))
    asked = next(event["stage"] for event in events if event["kind"] == "stage_asked_to_stop")
    told = [(event["kind"], event["stage"]) for event in events if "train " in event.get("stage", "")]
    stopped = told.index(("stage_failed", asked))
    _, successor = told[stopped + 1]
    assert told[stopped + 1][0] == "stage_started"
    assert told.count(("stage_started", successor)) >= 1
    assert successor not in {stage for _, stage in told[:stopped]}
    assert ("stage_started", asked) in told[stopped + 2 :]

    own = [event for event in events if event.get("training") == asked.removeprefix("train ")]
    ended = next(index for index, event in enumerate(own) if event["kind"] == "attempt_ended")
    assert own[ended]["is_preemption"]
    saved = own[ended - 1]
    assert (saved["kind"], saved["reason"]) == ("checkpoint_saved", "preempted for a training with a longer way to go")
    went_on = next(event for event in own[ended:] if event["kind"] == "attempt_started")
    assert (went_on["epoch"], went_on["iteration"]) == (saved["epoch"], saved["iteration"])


def test_weights_and_results_are_those_of_a_run_in_which_nobody_gave_way(folders):
    storages = [open_storage(str(folder)) for folder in folders]
    for training in TRAININGS:
        found, expected = (
            CheckpointStore(storage, training_id=training).load_final().state["network_weights"] for storage in storages
        )
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), training
    differing = {"checkpoint_sha256", "train_elapsed_s"}  # a checkpoint says how long its training took
    rows = [ResultsStore(storage).read().to_pylist() for storage in storages]
    found, expected = ([{k: v for k, v in row.items() if k not in differing} for row in part] for part in rows)
    assert found == expected
    names = sorted(path.name for path in (Path(folders[0]) / "tables").iterdir())
    assert names == sorted(path.name for path in (Path(folders[1]) / "tables").iterdir())
    for name in names:
        assert (folders[0] / "tables" / name).read_bytes() == (folders[1] / "tables" / name).read_bytes()
