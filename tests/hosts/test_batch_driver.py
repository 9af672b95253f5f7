"""A driver that is a job: what its script does when it is warned or requeued, and what a watcher shows of it."""

import os
import signal
import subprocess
import time

import pytest

from orchestrator.cluster.batch import driver as batch_driver
from orchestrator.cluster.batch.driver import driver_lines, follow_job
from orchestrator.cluster.batch.system import Job
from orchestrator.errors import ClusterError

RUNS = Job(id="1", name="run-driver", reason="", is_waiting=False)
WAITS = Job(id="1", name="run-driver", reason="BeginTime", is_waiting=True)
INTERRUPTIBLE = "bash -c 'trap \"exit 130\" TERM; echo begun; while true; do sleep 0.05; done'"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(batch_driver, "LOOK_AT_LOG_S", 0.01)
    monkeypatch.setattr(batch_driver, "LATE_S", 0.2)
    monkeypatch.setattr(batch_driver, "PAUSES_S", (0, 0, 0, 0, 0))


def start(folder, command, *, submit_again="false"):
    script = folder / "driver.sh"
    script.write_text("\n".join(driver_lines(command, submit_again=submit_again, folder=folder)))
    return subprocess.Popen(["bash", str(script)], stdin=subprocess.DEVNULL, start_new_session=True)


def wait_for(path, text):
    until_s = time.monotonic() + 60
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def warned(folder, *, submit_again):
    """Return the exit code of a script that was warned once its driver had begun."""
    process = start(folder, INTERRUPTIBLE, submit_again=submit_again)
    wait_for(folder / "driver.log", "begun")
    os.kill(process.pid, signal.SIGUSR1)
    return process.wait(timeout=60)


def test_a_successor_that_is_refused_is_submitted_once_more(tmp_path, quick):
    path = tmp_path / "sbatch"
    path.write_text(
        f"echo tried >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -gt 2 ] || {{ echo busy >&2; false; }}"
    )
    assert warned(tmp_path, submit_again=f"bash {path}") == 0
    assert (tmp_path / "tries").read_text() == 3 * "tried\n"
    assert (tmp_path / "driver.log").read_text() == "begun\nbusy\nbusy\n"
    assert not (tmp_path / "exit-code").exists()


def test_a_successor_that_is_never_taken_is_told_in_the_log(tmp_path, quick):
    assert warned(tmp_path, submit_again=f"bash -c 'echo tried >> {tmp_path}/tries; false'") == 130
    assert (tmp_path / "tries").read_text() == 5 * "tried\n"
    assert "could not be submitted: the same command goes on" in (tmp_path / "driver.log").read_text()
    assert (tmp_path / "exit-code").read_text() == "130\n"


def test_a_job_that_begins_again_has_not_ended_yet(tmp_path, quick):
    (tmp_path / "exit-code").write_text("130\n")
    process = start(tmp_path, "bash -c 'echo begun; sleep 1; exit 3'")
    wait_for(tmp_path / "driver.log", "begun")
    assert not (tmp_path / "exit-code").exists()
    assert process.wait(timeout=60) == 3
    assert (tmp_path / "exit-code").read_text() == "3\n"


def followed(folder, looks):
    """Return what a watcher ends with and what it shows; each look does the next thing and finds what that returns."""
    looks, shown = list(looks), []

    def jobs():
        found = looks.pop(0) if len(looks) > 1 else looks[0]
        return found()

    return follow_job(jobs, folder=folder, show=shown.append, look_every_s=0.02), shown


def test_a_job_that_is_requeued_is_followed_on(tmp_path, quick):
    code = tmp_path / "exit-code"
    code.write_text("130\n")

    def begins_again():
        code.unlink()
        return [RUNS]

    def ends():
        code.write_text("0\n")
        return [RUNS]

    # While it ends it is not in the list of those that wait or run.
    exit_code, shown = followed(tmp_path, [lambda: [RUNS], list, lambda: [WAITS], begins_again, ends])
    assert exit_code == 0
    assert shown[0].startswith("the driver was stopped (exit code 130): if its job was requeued it is followed on")
    assert shown[1:] == ["the driver waits in the queue: BeginTime"]


def test_a_job_that_was_ended_for_good_is_followed_no_longer(tmp_path, quick):
    (tmp_path / "exit-code").write_text("130\n")
    exit_code, shown = followed(tmp_path, [lambda: [RUNS], list])
    assert exit_code == 130
    assert len(shown) == 1


def test_a_controller_that_is_away_is_told_when_it_goes_and_when_it_is_back(tmp_path, quick):
    def fail():
        raise ClusterError("squeue: connection refused")

    def ends():
        (tmp_path / "exit-code").write_text("1\n")
        return [RUNS]

    exit_code, shown = followed(tmp_path, [fail, fail, fail, lambda: [RUNS], fail, fail, ends])
    assert exit_code == 1
    away = "squeue: connection refused; it is asked again until it answers"
    assert shown == 2 * [away, "the batch system answers again"]
