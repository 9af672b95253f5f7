"""A run on a cluster that has no machines yet: Ray's autoscaler, in earnest, starts as many as are asked for."""

import subprocess
import sys

import pytest
from growing_cluster import growing_cluster
from test_preemption import DRIVER, TRAININGS

from orchestrator.events import read_events
from orchestrator.storage.filesystem import open_storage

pytestmark = pytest.mark.timeout(1800)


def test_machines_come_as_they_are_missing_and_the_run_ends(tmp_path):
    with growing_cluster(tmp_path, {"one core": (2, 1)}) as (address, environment):
        cluster = tmp_path / "cluster.yaml"
        cluster.write_text(
            f"kind: existing\naddress: {address}\nauth_token: {environment['RAY_AUTH_TOKEN_PATH']}\n"
            "may_start:\n  one core: {number: 2, cpus: 1}\n"
        )
        driver = DRIVER.replace("num_epochs=80", "num_epochs=2")
        command = [sys.executable, "-c", driver, "--preset", "tiny", "--cluster", str(cluster)]
        command += ["--only", TRAININGS[0], "--output", str(tmp_path / "run")]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    events = read_events(open_storage(str(tmp_path / "run")))
    # Two downloads are generated at first, one core each; nothing can start before the first machine is there.
    asked = [event["machines"] for event in events if event["kind"] == "machines_missing"]
    assert asked[0] == 2
    assert asked[-1] == 0
    kinds = [event["kind"] for event in events]
    assert kinds.index("machines_missing") < kinds.index("stage_started")
