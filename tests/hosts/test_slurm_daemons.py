"""Runs below Slurm's own daemons: short time limits, jobs and nodes that are lost, one allocation for everything.

The long version of this is `python -m bench.slurm`.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from test_preemption import DRIVER

from bench.slurm.hosts import slurm_hosts, why_not
from orchestrator.events import read_events
from orchestrator.results.store import ResultsStore
from orchestrator.storage.filesystem import open_storage

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "Slurm is there"),
]
TRAININGS = ("T1-infection-fold0", "T1-infection-fold1")
END_S = 10.0
"""Longest time from the end of a command to that of the last job."""


@pytest.fixture(scope="module")
def hosts():
    folder = tempfile.TemporaryDirectory(prefix="slurm-", dir="/var/tmp", ignore_cleanup_errors=True)
    with folder as base, slurm_hosts(Path(base)) as found:
        yield found


@pytest.fixture(scope="module")
def alone(hosts):
    """The scores of a run on one host without Slurm."""
    cluster = write(hosts, "local", {"kind": "local", "num_cpus": 2, "num_gpus": 0})
    ended(start(hosts, cluster, output="local"), log=hosts.base / "local.log")
    return scores(hosts, "local")


def write(hosts, name, content):
    path = hosts.base / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def on_slurm(hosts, name, *, pool, **values):
    pools = {"cores": {"number": 2, "cpus": 1, "memory_gib": 4, "drain_s": 40} | pool}
    return write(hosts, name, {"kind": "slurm", "look_every_s": 2, "idle_s": 20, "pools": pools, **values})


def start(hosts, cluster, *, output):
    program = hosts.base / "driver.py"
    # On a fast machine, too, a training takes longer than a job may.
    program.write_text(DRIVER.replace("num_epochs=80", "num_epochs=2000"))
    only = [word for training in TRAININGS[:2] for word in ("--only", training)]
    words = [sys.executable, str(program), "--preset", "tiny", "--cluster", str(cluster), *only]
    return hosts.start([*words, "--output", str(hosts.base / output)], log=hosts.base / f"{output}.log")


def ended(process, *, log, code=0):
    try:
        assert process.wait(timeout=2400) == code, log.read_text()
    finally:
        process.kill()
        process.wait()


def running(hosts, pool):
    return [job for job, state, name, _ in hosts.jobs() if state == "RUNNING" and name.endswith(f"-{pool}")]


def wait_until(condition, *, limit_s=900):
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.5)


def scores(hosts, output):
    table = ResultsStore(open_storage(str(hosts.base / output))).read()
    keys = ["training_id", "evaluation_set", "dataset", "case", "structure", "dsc", "nsd"]
    return sorted(map(str, table.select(keys).to_pylist()))


def checkpoints(hosts, output):
    return list((hosts.base / output / "trainings").glob("*/checkpoint_*"))


def test_trainings_outlive_the_time_limits_of_their_jobs_and_one_that_is_cancelled(hosts, alone):
    """Two minutes for a job, more for a training; what comes out is what one machine alone makes."""
    cluster = on_slurm(hosts, "elastic", pool={"time_limit_minutes": 2, "partition": "short", "drain_s": 30})
    at_work = start(hosts, cluster, output="elastic")
    wait_until(lambda: checkpoints(hosts, "elastic") or at_work.poll() is not None)
    for job in running(hosts, "cores")[:1]:
        hosts.call("scancel", job)
    ended(at_work, log=hosts.base / "elastic.log")
    wait_until(lambda: hosts.jobs() == [], limit_s=60)
    events = read_events(open_storage(str(hosts.base / "elastic")))
    assert any(event["kind"] == "attempt_ended" and event["is_preemption"] for event in events)
    assert not [event for event in events if event["kind"] == "stage_failed" and event["final"]]
    assert scores(hosts, "elastic") == alone


def smoke(hosts, cluster, *, output):
    words = [sys.executable, "-m", "orchestrator.run_all", "--output", str(hosts.base / output)]
    words += ["--cluster", str(cluster), "--only", "T1-lung-fold0"]
    return hosts.start(words, log=hosts.base / f"{output}.log")


def status(hosts, cluster, *, output):
    words = [sys.executable, "-m", "orchestrator.status", "--output", str(hosts.base / output)]
    inside = hosts.login.inside([*words, "--cluster", str(cluster)])
    ran = subprocess.run(inside, env=dict(hosts.environment()), capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr


def test_a_driver_that_is_a_job_is_killed_a_node_is_lost_and_the_same_command_goes_on(hosts):
    head = {"cpus": 1, "memory_gib": 3, "partition": "long", "time_limit_minutes": 60}
    cluster = on_slurm(hosts, "head", pool={"time_limit_minutes": 30, "partition": "long"}, head=head)
    log, output = hosts.base / "head.log", "head"
    first = smoke(hosts, cluster, output=output)
    wait_until(lambda: checkpoints(hosts, output) or first.poll() is not None)
    (driver,) = running(hosts, "driver")
    hosts.call("scancel", "--signal=KILL", "--full", driver)
    ended(first, log=log, code=1)
    assert "The same command goes on" in log.read_text()
    # Its workers have ended by themselves.
    wait_until(lambda: hosts.jobs() == [], limit_s=120)
    hosts.call("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    second = smoke(hosts, cluster, output=output)
    try:
        wait_until(lambda: running(hosts, "cores") or second.poll() is not None)
        assert {node for *_, node in hosts.jobs() if node} == {"n1"}
        told = status(hosts, cluster, output=output)
        assert "machines ordered: 1 x cores: there\nmachines ordered: 1 x driver: there" in told
    finally:
        hosts.call("scontrol", "update", "nodename=n2", "state=resume")
    ended(second, log=log)
    assert "1 of 1 trainings done" in log.read_text()
    wait_until(lambda: hosts.jobs() == [], limit_s=60)


def test_a_whole_run_is_one_job_of_two_machines_and_ends_with_its_driver(hosts):
    cluster = on_slurm(hosts, "whole", pool={"time_limit_minutes": 30, "partition": "long"}, form="allocation")
    log = hosts.base / "whole.log"
    ended(smoke(hosts, cluster, output="whole"), log=log)
    # The last steps are completed by Slurm itself.
    wait_until(lambda: hosts.jobs() == [], limit_s=END_S)
    assert "submitted as orchestrator-" in log.read_text()
    assert "1 of 1 trainings done" in log.read_text()
