"""Claims about the jobs of a head: who may submit, what a second submission does, and how long one is followed."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_head import FakeJobs

from orchestrator.cluster import environment, jobs
from orchestrator.cluster.jobs import RayJobs
from orchestrator.errors import ClusterError

SUBMIT = """
import sys
from orchestrator.cluster.jobs import RayJobs, DriverJob, follow, shell_entrypoint, submit_or_attach
jobs = RayJobs(sys.argv[1])
script = "echo begun; while [ ! -e " + sys.argv[2] + " ]; do sleep 0.2; done; echo ended with $WORD"
submission = DriverJob(id="run-1", entrypoint=shell_entrypoint(script), environment={"WORD": "a word"})
first = submit_or_attach(jobs, submission)
second = submit_or_attach(jobs, submission)
open(sys.argv[2], "w").close()
lines = []
succeeded = follow(jobs, submission.id, show=lines.append)
print("RESULT", first, second, succeeded, [line for line in lines if line.startswith(("begun", "ended"))])
"""


def test_a_second_submission_to_a_real_head_attaches_and_strangers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "auth_token"
    monkeypatch.setenv(environment.AUTH_TOKEN_PATH, str(token))
    monkeypatch.setenv(environment.AUTH_MODE, "token")
    environment.ensure_token()
    with a_head() as address:
        done = subprocess.run(
            [sys.executable, "-c", SUBMIT, address, str(tmp_path / "go")],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert "RESULT False True True ['begun', 'ended with a word']" in done.stdout, done.stdout + done.stderr
        token.write_text("0" * 64)
        with pytest.raises(ClusterError, match="the dashboard refuses"):
            RayJobs(address, sleep=lambda _: None)


@contextmanager
def a_head() -> Iterator[str]:
    """Give the address of the dashboard of a head of its own; its process group ends with the context."""
    gcs, dashboard, agent, grpc = (_free_port() for _ in range(4))
    # A Unix socket's path is limited to 107 bytes: pytest's folders are too deep.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=1",
                "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}",
                f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}",
                "--dashboard-host=127.0.0.1", f"--temp-dir={folder}", "--object-store-memory=100000000",
                "--disable-usage-stats",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            # `ray start --block` stops the processes that it has started when it is asked to end.
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=240)
            finally:
                _kill_session(process.pid)


def _kill_session(session: int) -> None:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            os.kill(int(stat.parent.name), signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_connection_that_breaks_often_is_made_again_as_long_as_lines_come() -> None:
    class Head(FakeJobs):
        num_breaks = 0

        async def tail(self, job_id: str) -> AsyncIterator[str]:
            for number in range(self.num_breaks + 1):
                yield f"{number}\n"
            self.num_breaks += 1
            if self.num_breaks <= 3 * jobs.MAX_LOST:
                raise RuntimeError("connection lost")
            self.states[job_id] = "SUCCEEDED"

    shown: list[str] = []
    assert jobs.follow(Head(states={"a": "RUNNING"}), "a", show=shown.append, sleep=lambda _: None)
    assert shown == [str(number) for number in range(3 * jobs.MAX_LOST + 1)]
