"""`run_all --cluster aws.yaml` as a user gives it, on an AWS that is played in network namespaces."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from aws_hosts import filled_in, keys_of, played_aws, start_machine, why_not

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "hosts can be started"),
]
OUTPUT = "runs/first"
TRAININGS = ("T1-lung-fold0", "T1-lung-fold1")


@pytest.fixture
def aws():
    folder = tempfile.TemporaryDirectory(prefix="aws-", dir="/var/tmp", ignore_cleanup_errors=True)
    with folder as base, played_aws(Path(base)) as found:
        yield found


def command(aws, *words):
    only = [word for training in TRAININGS for word in ("--only", training)]
    words = [sys.executable, "-m", "orchestrator.run_all", "--cluster", "aws.yaml", *only, *words]
    return ["bash", "-c", f'cd {aws.base}/home && exec "$@"', "run", *words]


def start(aws, *words, name="run", answer=b""):
    with (aws.base / f"{name}.log").open("wb") as log:
        inside = aws.laptop.inside(command(aws, *words))
        process = subprocess.Popen(
            inside, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=dict(aws.environment())
        )
    process.stdin.write(answer)
    process.stdin.close()
    return process


def wait_until(condition, process, *, log, limit_s=1200):
    until_s = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until_s, log.read_text()
        time.sleep(2.0)


def workers(aws):
    return [machine for machine in aws.machines() if machine.get("InstanceLifecycle") == "spot"]


def reached_by_ssh(aws):
    reach = ["bash", "-c", "exec 3<>/dev/tcp/10.77.0.4/22; head -c 7 <&3"]
    said = subprocess.run(aws.laptop.inside(reach), capture_output=True, text=True, check=False, timeout=60)
    return said.stdout or said.stderr


def test_machines_are_hosts_as_long_as_aws_gives_them(aws):
    """What the other test relies on."""
    filled_in(aws)
    machine_id = aws.asked(lambda: start_machine("x"))
    until_s = time.monotonic() + 120
    while machine_id not in aws.hosts:
        assert time.monotonic() < until_s
        time.sleep(0.5)
    # A machine is known before its SSH server listens.
    while (said := reached_by_ssh(aws)) != "SSH-2.0":
        assert time.monotonic() < until_s, said
        time.sleep(0.5)
    aws.terminate(machine_id)
    while machine_id in aws.hosts:
        assert time.monotonic() < until_s
        time.sleep(0.5)
    assert aws.machines() == []


def test_one_command_from_the_question_to_the_tables_with_a_spot_worker_taken_away(aws):
    filled_in(aws)
    log = aws.base / "run.log"
    process = start(aws, answer=b"y\n")
    try:
        wait_until(lambda: keys_of(aws, f"{OUTPUT}/trainings/"), process, log=log)
        first = workers(aws)[0]
        assert first["InstanceType"] == "m7i.4xlarge"
        told = subprocess.run(
            aws.laptop.inside(command(aws, "--status")),
            capture_output=True,
            text=True,
            check=False,
            env=dict(aws.environment()),
        )
        assert "machines ordered: 1 x head: there\n" in told.stdout, told.stdout + told.stderr
        aws.terminate(str(first["InstanceId"]))
        assert process.wait(timeout=1800) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    told = log.read_text()
    assert "Start it? [y/N]" in told
    assert "2 of 2 trainings done" in told
    # The head, the worker that was taken away, and at least one in its place.
    assert len(aws.ever) >= 3
    (folder,) = (aws.base / "homes" / "laptop" / "runs").iterdir()
    assert list((folder / "tables").glob("*.md"))
    assert aws.machines() == []
