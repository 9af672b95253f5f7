"""What both kinds of Ray cluster on this machine have in common: a driver, and processes that can be hurt."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.cluster.environment import AUTH_MODE, AUTH_TOKEN_PATH, create_token

RUN_ALL = ("-m", "orchestrator.run_all")
NUM_WORKER_NODES = 2
TRAINS = "ray::train "
"""With which the title of a process begins that trains."""
SPARED = ("IDLE", "Agent")
"""In the titles of processes without which a run goes on."""
SETTINGS = {
    # A driver whose head node is gone waits a minute for it by default.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_DEDUP_LOGS": "0",
    # Ray puts what works behind all else that this machine does.
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What was hit."""

    name: str
    host: str = ""
    """The only host whose trainings it can have hit; empty where it can have hit any."""


def with_a_token(folder: Path) -> dict[str, str]:
    """Return the environment by which all processes of a cluster ask for the same new token."""
    return {AUTH_MODE: "token", AUTH_TOKEN_PATH: str(create_token(folder / "auth_token"))}


class ChaosCluster(ABC):
    """A head without CPUs, where the driver is at home, and worker nodes with one CPU each."""

    kinds: tuple[str, ...]
    """What is killed, drawn from by chance; the processes that work are the most."""

    def __init__(self, folder: Path) -> None:
        self._cluster_file = folder / "cluster.yaml"
        self._folder = folder
        self.driver: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start head and workers."""

    @abstractmethod
    def stop(self) -> None:
        """End every process of the cluster and its driver."""

    @abstractmethod
    def repair(self) -> None:
        """Bring back what was killed, as an operator or an autoscaler would; to be called now and then."""

    @abstractmethod
    def kill_node(self, rng: random.Random) -> Target | None:
        """Kill a node with all that runs on it."""

    @abstractmethod
    def kill_controller(self, rng: random.Random) -> Target | None:
        """Kill the global control service: with it the head, and with the head the cluster."""

    @abstractmethod
    def end_driver(self) -> None:
        """Kill the driver, if there is one."""

    @abstractmethod
    def _start_on_head(self, command: list[str], *, output: Path) -> subprocess.Popen[bytes]:
        """Start a command where the driver is at home, with its output appended to a file."""

    @abstractmethod
    def _processes(self) -> list[tuple[int, str]]:
        """Return the processes of all nodes, each with the name of its host if that is one of several."""

    def faults(self) -> Mapping[str, Callable[[random.Random], Target | None]]:
        """Return the faults that there are by kind; each returns what it hit, None if there was nothing to hit."""
        return {
            "worker": self.kill_worker,
            "trainer": self.kill_trainer,
            "warning": self.warn_trainer,
            "node": self.kill_node,
            "controller": self.kill_controller,
            "driver": self.kill_driver,
        }

    def start_driver(self, arguments: Sequence[str], *, program: Sequence[str] = RUN_ALL) -> None:
        """Start the command, or another Python program in its place, with its output appended to a file."""
        command = [sys.executable, *program, "--cluster", str(self._cluster_file), *arguments]
        self.driver = self._start_on_head(command, output=self._folder / "driver.log")

    def kill_worker(self, rng: random.Random) -> Target | None:
        """Kill a process that carries out a stage."""
        return self._signal_worker(rng, signal.SIGKILL, lambda title: not any(name in title for name in SPARED))

    def kill_trainer(self, rng: random.Random) -> Target | None:
        """Kill a process that trains."""
        return self._signal_worker(rng, signal.SIGKILL, lambda title: title.startswith(TRAINS))

    def warn_trainer(self, rng: random.Random) -> Target | None:
        """Send SIGTERM to a process that trains."""
        return self._signal_worker(rng, signal.SIGTERM, lambda title: title.startswith(TRAINS))

    def kill_driver(self, _: random.Random) -> Target | None:
        """Kill the command itself."""
        if self.driver is None or self.driver.poll() is not None:
            return None
        self.end_driver()
        return Target(name="run_all")

    def _point_to(self, address: str) -> None:
        """Write the cluster file of the driver."""
        self._cluster_file.write_text(f"kind: existing\naddress: {address}\n")

    def _signal_worker(
        self, rng: random.Random, number: signal.Signals, accept: Callable[[str], bool]
    ) -> Target | None:
        titles = [(title(pid), pid, host) for pid, host in self._processes()]
        found = [item for item in titles if item[0].startswith("ray::") and accept(item[0])]
        if not found:
            return None
        name, pid, host = rng.choice(sorted(found))
        kill(pid, number)
        return Target(name=name, host=host)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """One thing that was killed."""

    kind: str
    """One of the kinds of the cluster."""
    failed: Target
    stages: tuple[str, ...]
    """Kinds of the stages that were under way."""
    time_s: float
    """Seconds since 1970: the events are in this time too."""


def hurt(cluster: ChaosCluster, kind: str, *, stages: tuple[str, ...], rng: random.Random) -> Kill | None:
    """Kill one thing of a kind; None if there was none."""
    time_s = time.time()
    failed = cluster.faults()[kind](rng)
    return Kill(kind=kind, failed=failed, stages=stages, time_s=time_s) if failed else None


def note_kill(path: Path, kill: Kill) -> None:
    """Append a kill to a file."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(kill)) + "\n")


def read_kills(path: Path) -> list[Kill]:
    """Return the kills of a file; none if it is not there."""
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Kill(**record | {"failed": Target(**record["failed"]), "stages": tuple(record["stages"])}) for record in records
    ]


def title(pid: int) -> str:
    """Return the command line of a process; Ray writes there what it does. Empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
