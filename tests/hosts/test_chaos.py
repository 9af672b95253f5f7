"""What is killed or cut off loses nothing: the long version of this is `python -m bench.chaos`."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from bench.chaos.cluster import TRAINS, title
from bench.chaos.events import RunEvents
from bench.chaos.hosts import host_cluster
from bench.instruments import network_hosts
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.cluster.registry import load_cluster
from orchestrator.driver import run as driver
from orchestrator.driver.claim import claim_output
from orchestrator.driver.request import RunRequest, identity_of
from orchestrator.driver.results.shown import shown_of
from orchestrator.errors import PreemptedError
from orchestrator.events import read_events
from orchestrator.report.study_tables.tables import write_tables
from orchestrator.results.store import ResultsStore
from orchestrator.scheduling.resources import ResourceRequest
from orchestrator.stages.carry_out import carry_out
from orchestrator.stages.context import RunContext
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.stop_request import Watch
from orchestrator.workflow.graph import build_graph
from orchestrator.workflow.keys import StageKind

TRAINING = "T1-infection-fold0"
ROOT = Path(__file__).resolve().parents[2]
CHANGES = {
    "name": "tiny",
    "num_epochs": 40,
    "num_iterations_per_epoch": 12,
    "num_val_iterations_per_epoch": 1,
    "checkpoint_every_s": 0.0,
    "max_patch_voxels": 16 * 16 * 16,
    "case_limits": {"train": 2, "val": 1, "test": 1},
}
MOMENTS = ("stage_finished preprocess", "checkpoint_saved", "stage_started score")
"""Events at which a driver dies by its own hand, alone: a training outlives it by seconds."""
DRIVER = """
import os, signal, sys, threading, time
from pathlib import Path
from orchestrator import run_all
from orchestrator.benchmark.presets import PRESETS
from orchestrator.events import EventLog
from dataclasses import replace

moment, changes, append = sys.argv[1], eval(sys.argv[2]), EventLog.append

def append_and_die(log, kind, **fields):
    append(log, kind, **fields)
    if f"{kind} {fields.get('stage_kind', '')}".strip() == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def die_with_a_checkpoint(events):
    while not any("checkpoint_saved" in path.read_text() for path in events.glob("[!.]*")):
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)

EventLog.append = append_and_die
if moment == "checkpoint_saved":
    events = Path(sys.argv[sys.argv.index("--output") + 1]) / "events" / "trainings"
    threading.Thread(target=die_with_a_checkpoint, args=(events,), daemon=True).start()
PRESETS["tiny"] = replace(PRESETS["smoke"], **changes)
sys.exit(run_all.main(sys.argv[3:]))
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture
def mark():
    """A value in the environment of all that a test starts; whatever lives at its end is killed."""
    value = uuid.uuid4().hex
    yield value
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if value.encode() in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Serial:
    """The stages of the training, to be carried out one after the other in this process."""

    request: RunRequest
    graph: dict
    context: RunContext

    def carry_out(self, kinds, **options):
        before = torch.get_num_threads()
        for stage in self.graph.values():
            if stage.kind in kinds:
                carry_out(self.context, stage, **options)
        torch.set_num_threads(before)

    def write_tables(self):
        storage = open_storage(self.context.output)
        asked_for = [training.id for training in self.request.trainings]
        shown = shown_of(self.request, storage, table=ResultsStore(storage).read(), asked_for=asked_for)
        write_tables(storage, shown)


def serial(output):
    study = load_study()
    preset = replace(PRESETS["smoke"], **CHANGES)
    request = RunRequest(
        study=study,
        trainings=study.trainings(only=(TRAINING,), preset=preset),
        preset=preset,
        seed=0,
        data=None,
        output=str(output),
        cluster=load_cluster(ROOT / "clusters" / "local.yaml"),
    )
    datasets = {dataset.name: dataset for dataset in study.datasets}
    graph = build_graph(request.trainings, donors={}, datasets=datasets, preset=preset, phantoms=True)
    return Serial(request=request, graph=graph, context=driver._run_context(request, ResourceRequest(cpus=1)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same run without Ray and without a driver."""
    run = serial(tmp_path_factory.mktemp("undisturbed"))
    storage = open_storage(run.context.output)
    claim_output(storage, identity=identity_of(run.request), trainings=[TRAINING])
    run.carry_out(StageKind)
    run.write_tables()
    return Path(run.context.output)


def weights(output):
    return CheckpointStore(open_storage(output), training_id=TRAINING).load_final().state["network_weights"]


def assert_same_weights(output, expected):
    found, wanted = weights(output), weights(expected)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def drive(output, *, moment, mark):
    command = [sys.executable, "-c", DRIVER, moment, repr(CHANGES), "--preset", "tiny", "--only", TRAINING]
    environment = os.environ | {"CHAOS_MARK": mark}
    ran = subprocess.run(
        [*command, "--output", str(output)], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    return ran.returncode, ran.stdout + ran.stderr


def tables(output):
    return {path.name: path.read_bytes() for path in (output / "tables").iterdir()}


def test_a_run_whose_driver_is_killed_three_times_ends_with_the_tables_of_an_undisturbed_one(
    tmp_path, mark, undisturbed
):
    output = tmp_path / "killed"
    for moment in MOMENTS:
        code, text = drive(output, moment=moment, mark=mark)
        assert code == -signal.SIGKILL, text
    code, text = drive(output, moment="never", mark=mark)
    assert code == 0, text

    assert tables(output) == tables(undisturbed)
    storages = [open_storage(folder) for folder in (output, undisturbed)]
    rows = [ResultsStore(storage).read().to_pylist() for storage in storages]
    differing = {"checkpoint_sha256", "train_elapsed_s"}  # a checkpoint says how long its training took
    comparable = [[{k: v for k, v in row.items() if k not in differing} for row in part] for part in rows]
    assert comparable[0] == comparable[1]
    assert_same_weights(output, undisturbed)

    attempts = [event for event in read_events(storages[0]) if event["kind"] == "attempt_started"]
    places = [(event["epoch"], event["iteration"]) for event in attempts]
    # The second attempt goes on from a checkpoint of the first and not from the beginning.
    assert len(places) == 2
    assert places[0] == (0, 0) < places[1]


def test_a_stage_that_is_asked_to_stop_says_so_and_a_damaged_patch_file_is_made_again(tmp_path, undisturbed):
    output = tmp_path / "asked"
    shutil.copytree(undisturbed, output)
    shutil.rmtree(output / "trainings")
    shutil.rmtree(output / "events")
    patch_file = next((output / "patches" / TRAINING).glob("*.arrow"))
    whole = patch_file.read_bytes()
    patch_file.write_bytes(
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    )

    run = serial(output)
    asked = threading.Event()

    def look():
        asked.set()
        return "its node is drained"

    with pytest.raises(PreemptedError, match="its node is drained"):
        run.carry_out({StageKind.TRAIN}, watches=[Watch(look=look, every_s=60.0)])
    assert asked.is_set()
    assert patch_file.read_bytes() == whole
    assert "is preprocessed again" in (output / "logs" / f"{TRAINING}.log").read_text()
    events = read_events(open_storage(output))
    assert [event["kind"] for event in events][-2:] == ["checkpoint_saved", "attempt_ended"]
    assert (events[-2]["reason"], events[-1]["is_preemption"]) == ("its node is drained", True)

    run.carry_out({StageKind.TRAIN})
    assert_same_weights(output, undisturbed)


def wait_for(what, *, cluster, within_s=300.0):
    until_s = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < until_s, f"not within {within_s} s"
        assert cluster.driver.poll() is None, f"the driver has ended with {cluster.driver.poll()}"
        time.sleep(0.05)
    return found


@pytest.mark.skipif(bool(reason := network_hosts.missing()), reason=reason)
def test_a_host_that_is_cut_off_does_no_harm_once_its_training_goes_on_elsewhere(tmp_path, undisturbed):
    output = tmp_path / "cut"
    events = RunEvents(output=output)

    def of_kind(kind, *, host=None):
        return [e for e in events.of_trainings() if e["kind"] == kind and e.get("host") != host]

    with host_cluster(tmp_path) as cluster:
        arguments = ["--preset", "tiny", "--only", TRAINING, "--output", str(output)]
        cluster.start_driver(arguments, program=("-c", DRIVER, "never", repr(CHANGES)))
        place = wait_for(lambda: of_kind("checkpoint_saved"), cluster=cluster)[0]
        (host,) = [host for host in cluster.workers if host.name == place["host"]]
        (trainer,) = [pid for pid in host.pids() if title(pid).startswith(TRAINS)]
        # Held up as well, it wakes when it has been replaced: at its worst moment, and not at its end.
        os.kill(trainer, signal.SIGSTOP)
        cluster.cut_off(host)
        cluster.repair()
        wait_for(lambda: of_kind("checkpoint_saved", host=host.name), cluster=cluster)
        os.kill(trainer, signal.SIGCONT)
        assert cluster.driver.wait(300) == 0, (tmp_path / "driver.log").read_text()

    assert tables(output) == tables(undisturbed)
    assert_same_weights(output, undisturbed)
    first, second = of_kind("attempt_started")
    assert (first["epoch"], first["iteration"]) == (0, 0) < (second["epoch"], second["iteration"])
    of_first = [event for event in events.of_trainings() if event["attempt"] == first["attempt"]]
    # It may have been held up between looking for a later attempt and writing.
    late = [e for e in of_first if e["kind"] == "checkpoint_saved" and e["time"] > second["time"]]
    assert len(late) <= 1
    ends = [event["error"].partition(":")[0] for event in of_first if event["kind"] == "attempt_ended"]
    assert ends in ([], ["SupersededError"])
