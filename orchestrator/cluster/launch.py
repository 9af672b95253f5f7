"""A run on machines that are started for it: up, tunnel, submit, follow, down."""

import hashlib
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

from orchestrator.cluster.aws import missing_values
from orchestrator.cluster.config import ClusterConfig
from orchestrator.cluster.environment import ensure_token, with_token
from orchestrator.errors import ClusterError, ConfigError

DASHBOARD_PORT = 8265
TUNNEL_TIMEOUT_S = 120.0
POLL_S = 5.0
REMOTE_FOLDER = "/opt/orchestrator"
"""Where the machine image has this project."""


class Commands(Protocol):
    """Runs Ray's commands; replaced in tests."""

    def run(self, command: Sequence[str]) -> None:
        """Run a command to its end; raises ClusterError if it fails."""

    def start(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Start a command that goes on."""


class Jobs(Protocol):
    """Ray's job interface at the end of the tunnel; replaced in tests."""

    def status(self, submission_id: str) -> str | None:
        """Return PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; None if there is no such job."""

    def submit(self, submission_id: str, *, entrypoint: str) -> None:
        """Submit a job."""

    def logs(self, submission_id: str) -> str:
        """Return everything that a job has printed."""

    def delete(self, submission_id: str) -> None:
        """Forget a job that has ended, so that its id can be used again."""


class ShellCommands:
    """Commands of this machine, with the cluster's token in their environment."""

    def run(self, command: Sequence[str]) -> None:
        """Run a command to its end; raises ClusterError if it fails."""
        try:
            subprocess.run(command, check=True, env=with_token())
        except (OSError, subprocess.CalledProcessError) as error:
            raise ClusterError(f"{shlex.join(command)}: {error}") from error

    def start(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Start a command that goes on, quietly."""
        return subprocess.Popen(command, env=with_token(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class RayJobs:
    """Ray's job interface at an address of this machine."""

    def __init__(self, address: str) -> None:
        from ray.job_submission import JobSubmissionClient

        self._client = JobSubmissionClient(address, headers={"Authorization": f"Bearer {ensure_token()}"})

    def status(self, submission_id: str) -> str | None:
        """Return the state of a job, or None if there is no such job."""
        known = {job.submission_id: job.status for job in self._client.list_jobs()}
        return str(known[submission_id].value) if submission_id in known else None

    def submit(self, submission_id: str, *, entrypoint: str) -> None:
        """Submit a job."""
        self._client.submit_job(entrypoint=entrypoint, submission_id=submission_id)

    def logs(self, submission_id: str) -> str:
        """Return everything that a job has printed."""
        return str(self._client.get_job_logs(submission_id))

    def delete(self, submission_id: str) -> None:
        """Forget a job that has ended."""
        self._client.delete_job(submission_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What is to be run on machines that are started for it."""

    config: ClusterConfig
    """An `aws` cluster file."""
    driver_arguments: tuple[str, ...]
    """Arguments of run_all on the head node."""
    training_hours: float
    """GPU-hours of all trainings, estimated."""
    keep: bool
    """Leave the machines running."""

    @property
    def submission_id(self) -> str:
        """The same for the same run, so that a second call finds the first one's job."""
        digest = hashlib.sha256("\0".join(self.driver_arguments).encode()).hexdigest()
        return f"run-all-{digest[:16]}"

    @property
    def entrypoint(self) -> str:
        """What the head node executes; Ray passes on no quoted compound command, so a shell is given one."""
        command = f"cd {REMOTE_FOLDER} && python -m orchestrator.run_all {shlex.join(self.driver_arguments)}"
        return f"bash -lc {shlex.quote(command)}"


def describe(launch: Launch) -> str:
    """Return what will be started, for the question whether to go on."""
    node_types = launch.config.ray["available_node_types"]
    head = launch.config.ray["head_node_type"]
    lines = [f"Ray cluster {launch.config.ray['cluster_name']} in {launch.config.ray['provider']['region']}:"]
    num_workers = 0
    for name, node_type in node_types.items():
        node = node_type["node_config"]
        market = node.get("InstanceMarketOptions", {}).get("MarketType", "on demand")
        number = 1 if name == head else node_type.get("max_workers", 0)
        num_workers += 0 if name == head else number
        lines.append(f"  {name}: {'' if name == head else 'up to '}{number} x {node['InstanceType']}, {market}")
    num_workers = max(1, min(num_workers, launch.config.ray.get("max_workers", num_workers)))
    hours = launch.training_hours / num_workers
    lines.append(f"About {launch.training_hours:.0f} GPU hours of training, {hours:.1f} h on {num_workers} workers.")
    lines.append(f"Results go to {launch.config.output}. The machines {'stay' if launch.keep else 'end'} afterwards.")
    return "\n".join(lines)


def launch_and_follow(
    launch: Launch,
    *,
    confirm: Callable[[str], bool],
    show: Callable[[str], None],
    commands: Commands,
    connect: Callable[[str], Jobs],
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Start the machines, run the driver on the head node, show what it prints, end the machines.

    Parameters
    ----------
    launch
        What to run.
    confirm
        Is shown the description and says whether to go on.
    show
        Prints a line.
    commands
        Runs `ray up`, `ray dashboard` and `ray down`.
    connect
        Gives the job interface at a local address.
    sleep
        Waits some seconds.

    Returns
    -------
    bool
        Whether the driver has succeeded; False as well if the user did not want to go on.

    Raises
    ------
    ConfigError
        If the cluster file has places to be filled in.
    ClusterError
        If a command fails or the head cannot be reached.
    """
    if missing := missing_values(launch.config):
        raise ConfigError(f"{launch.config.path}: fill in {len(missing)} values first: {'; '.join(missing)}")
    if not confirm(describe(launch)):
        return False
    ensure_token()
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        ray_file = Path(folder) / "cluster.yaml"
        ray_file.write_text(yaml.safe_dump(launch.config.ray, sort_keys=False), encoding="utf-8")
        try:
            commands.run(["ray", "up", "-y", str(ray_file)])
            with _tunnel(ray_file, commands=commands) as address:
                succeeded = _follow(connect(address), launch, show=show, sleep=sleep)
        except KeyboardInterrupt:
            show("The run goes on without this terminal; the same command attaches to it again.")
            raise
        except BaseException:
            _down(launch, ray_file, commands=commands, show=show)
            raise
        _down(launch, ray_file, commands=commands, show=show)
    return succeeded


def _down(launch: Launch, ray_file: Path, *, commands: Commands, show: Callable[[str], None]) -> None:
    if launch.keep:
        show(
            f"The machines go on running and cost money. End them: ray down with the ray section of {launch.config.path}"
        )
        return
    commands.run(["ray", "down", "-y", str(ray_file)])


@contextmanager
def _tunnel(ray_file: Path, *, commands: Commands) -> Iterator[str]:
    """Context with a local address of the cluster's dashboard, which listens on loopback only."""
    port = _free_port()
    process = commands.start(["ray", "dashboard", "--port", str(port), str(ray_file)])
    try:
        deadline_s = time.monotonic() + TUNNEL_TIMEOUT_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise ClusterError(f"the dashboard of the head node could not be reached through port {port}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _follow(jobs: Jobs, launch: Launch, *, show: Callable[[str], None], sleep: Callable[[float], None]) -> bool:
    """Submit the driver, or attach to the one that runs, and show what it prints until it ends."""
    submission_id = launch.submission_id
    status = jobs.status(submission_id)
    if status in {"SUCCEEDED", "FAILED", "STOPPED"}:
        jobs.delete(submission_id)
        status = None
    if status is None:
        jobs.submit(submission_id, entrypoint=launch.entrypoint)
    else:
        show(f"Attached to {submission_id}, which is {status.lower()}.")
    num_shown = 0
    while True:
        status = jobs.status(submission_id)
        text = jobs.logs(submission_id)
        for line in text[num_shown:].splitlines():
            show(line)
        num_shown = len(text)
        if status not in {"PENDING", "RUNNING"}:
            return status == "SUCCEEDED"
        sleep(POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
