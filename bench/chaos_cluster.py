"""A Ray cluster of several nodes on this machine, and the ways to hurt it."""

import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.smoke import descendants

NUM_WORKER_NODES = 2
SPARED = ("IDLE", "Agent", "PlacementGroupCleaner", "PreemptionWatcher", "SynchronizationActor", "DatasetManager")
"""In the titles of processes without which a run goes on."""
SETTINGS = {
    # A driver whose head node is gone waits a minute for it by default.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class ChaosCluster:
    """A head without CPUs, where the driver is at home, and worker nodes with one CPU each."""

    def __init__(self, folder: Path) -> None:
        self._cluster_file = folder / "cluster.yaml"
        self._folder = folder
        self._num_started = 0
        self.driver: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start head and workers."""
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False},
        )
        self._fill_up()
        self._cluster_file.write_text(f"kind: existing\naddress: {self._cluster.address}\n")

    def stop(self) -> None:
        """End every process of the cluster and its driver."""
        children = [pid for pid in descendants(os.getpid()) if pid != os.getpid()]
        with contextlib.suppress(Exception):  # parts of it may be dead already
            self._cluster.shutdown()
        for pid in children:
            _kill(pid)

    def start_driver(self, arguments: list[str]) -> None:
        """Start the command, with its output appended to a file."""
        self._num_started += 1
        with (self._folder / "driver.log").open("ab") as log:
            command = [sys.executable, "-m", "orchestrator.run_all", "--cluster", str(self._cluster_file), *arguments]
            self.driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def repair(self) -> None:
        """Bring back what was killed, as an operator or an autoscaler would."""
        if not self._cluster.head_node.remaining_processes_alive():
            self._end_driver()
            self.stop()
            self.start()
        self._fill_up()

    def kill_worker(self, rng: random.Random) -> str:
        """Kill a process that carries out a stage, or controls a training; returns its name."""
        return self._signal_worker(rng, signal.SIGKILL, lambda title: not any(name in title for name in SPARED))

    def kill_trainer(self, rng: random.Random) -> str:
        """Kill a process that trains."""
        return self._signal_worker(rng, signal.SIGKILL, lambda title: "RayTrainWorker" in title)

    def warn_worker(self, rng: random.Random) -> str:
        """Send SIGTERM to a process that trains."""
        return self._signal_worker(rng, signal.SIGTERM, lambda title: "RayTrainWorker" in title)

    def kill_node(self, rng: random.Random) -> str:
        """Kill a node with all that runs on it."""
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: node.unique_id)
        self._cluster.remove_node(rng.choice(nodes), allow_graceful=False)
        return "one of two nodes"

    def kill_controller(self, _: random.Random) -> str:
        """Kill the global control service: with it the head, and with the head the cluster."""
        process = self._cluster.head_node.all_processes["gcs_server"][0].process
        _kill(process.pid)
        process.wait()
        return "gcs_server"

    def kill_driver(self, _: random.Random) -> str:
        """Kill the command itself."""
        if self.driver is None or self.driver.poll() is not None:
            return ""
        self._end_driver()
        return "run_all"

    def _end_driver(self) -> None:
        if self.driver is not None:
            self.driver.kill()
            self.driver.wait()

    def _fill_up(self) -> None:
        for node in list(self._cluster.worker_nodes):
            if not node.remaining_processes_alive():
                self._cluster.remove_node(node, allow_graceful=False)
        while len(self._cluster.worker_nodes) < NUM_WORKER_NODES:
            self._cluster.add_node(num_cpus=1)

    @staticmethod
    def _signal_worker(rng: random.Random, number: signal.Signals, accept: Callable[[str], bool]) -> str:
        found = []
        for pid in descendants(os.getpid()):
            title = _title(pid)
            if title.startswith("ray::") and accept(title):
                found.append((title, pid))
        if not found:
            return ""
        title, pid = rng.choice(sorted(found))
        _kill(pid, number)
        return title


@contextmanager
def chaos_cluster(folder: Path) -> Iterator[ChaosCluster]:
    """Context with a running cluster; nothing of it is left afterwards."""
    # A folder of its own, so that no other Ray of this machine is found or told; its name is short for the sockets.
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        os.environ.update(SETTINGS | {"RAY_TMPDIR": ray_folder})
        logging.getLogger("ray").setLevel(logging.ERROR)
        cluster = ChaosCluster(folder)
        try:
            yield cluster
        finally:
            cluster.kill_driver(random.Random(0))
            cluster.stop()


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """One thing that was killed."""

    kind: str
    """worker, trainer, warning, node, controller or driver."""
    victim: str
    stages: tuple[str, ...]
    """Kinds of the stages that were under way."""
    time_s: float
    """Seconds since 1970: the events are in this time too."""


def hurt(cluster: ChaosCluster, kind: str, *, stages: tuple[str, ...], rng: random.Random) -> Kill | None:
    """Kill one thing of a kind; None if there was none."""
    ways = {
        "worker": cluster.kill_worker,
        "trainer": cluster.kill_trainer,
        "warning": cluster.warn_worker,
        "node": cluster.kill_node,
        "controller": cluster.kill_controller,
        "driver": cluster.kill_driver,
    }
    time_s = time.time()
    victim = ways[kind](rng)
    return Kill(kind=kind, victim=victim, stages=stages, time_s=time_s) if victim else None


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
