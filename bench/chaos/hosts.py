"""A Ray cluster whose nodes are hosts of their own, by network namespaces: it needs root; hosts can die or be cut off.

All hosts see the same files, as machines do that share a folder: a host that is cut off from the others goes on writing
there until it notices, while its stages have begun again elsewhere.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from bench.chaos.cluster import NUM_WORKER_NODES, SETTINGS, ChaosCluster, Target, kill, title, with_a_token
from bench.instruments.network_hosts import Host, Network, wait_until_gone
from bench.smoke import descendants

HEAD_NUMBER = 10
"""Of the address of every head, so that the others find the next one where the last one was."""
PORT = 6379
MEMORY_BYTES = 2 * 1024**3
"""Of each host, as Ray shall see it: otherwise each has all of this machine's."""
OBJECT_STORE_BYTES = 100 * 1024**2
HOST_SETTINGS = SETTINGS | {
    # A host that is cut off counts as dead after about ten seconds.
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_grpc_keepalive_time_ms": "5000",
    "RAY_grpc_keepalive_timeout_ms": "5000",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_core_worker_rpc_server_reconnect_timeout_base_s": "5",
    "RAY_core_worker_rpc_server_reconnect_timeout_max_s": "10",
    "RAY_raylet_rpc_server_reconnect_timeout_base_s": "5",
    "RAY_raylet_rpc_server_reconnect_timeout_max_s": "10",
}
CUT_OFF_SETTINGS = {
    # Ray's own value: so long a host that is cut off goes on with what it does.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "60",
}
"""Of the hosts of workers."""
LONGEST_CUT_S = 25.0
"""Of a cable that is mended; the shortest cuts pass unnoticed."""
CUT_OFF_S = 90.0
"""Time until a host is found and switched off that was cut off for ever; another has taken its place long before."""
CHANCE_OF_HEAD = 0.25
"""That of all hosts the head dies."""
START_S = 120.0
"""Longest time for Ray to start on a host."""


@dataclass(kw_only=True, slots=True)
class _CutOff:
    host: Host
    until_s: float
    """By the monotonic clock."""
    is_for_ever: bool


class HostCluster(ChaosCluster):
    """Hosts with a network between them."""

    kinds = (
        *("worker", "worker", "trainer", "trainer", "warning", "node"),
        *("host", "host", "cable", "cable", "driver", "controller"),
    )

    def __init__(self, folder: Path, *, ray_folder: Path) -> None:
        super().__init__(folder)
        self._ray_folder = ray_folder
        self._network = Network()
        self._num_hosts = 0
        self._head: Host | None = None
        self.workers: list[Host] = []
        """Those that belong to the cluster; what was cut off for ever does not."""
        self._cut_off: list[_CutOff] = []

    def start(self) -> None:
        """Start head and workers."""
        self._head = self._new_host(HEAD_NUMBER)
        self.workers = [self._new_host() for _ in range(NUM_WORKER_NODES)]
        self._start_ray()
        self._point_to(f"{self._head.address}:{PORT}")

    def stop(self) -> None:
        """End every host and the network."""
        self.end_driver()
        for host in self._hosts():
            host.kill()
        self._network.close()

    def repair(self) -> None:
        """Bring back what was killed or cut off, when it is time."""
        self._mend_cables()
        assert self._head is not None
        if not self._runs(self._head, "gcs_server") or not self._runs(self._head, "raylet/raylet"):
            self._start_again()
        self.workers = [host if host.is_alive else self._new_host() for host in self.workers]
        # On a host that is still cut off Ray could not reach the head.
        bare = [host for host in self.workers if not host.is_cut and not self._runs(host, "raylet/raylet")]
        for host in bare:
            host.end_processes()
        self._wait_for([self._start_worker(host) for host in bare])

    def faults(self) -> Mapping[str, Callable[[random.Random], Target | None]]:
        """Return the faults that there are by kind."""
        return {**super().faults(), "host": self.kill_host, "cable": self.cut_cable}

    def kill_node(self, rng: random.Random) -> Target | None:
        """Kill Ray's own process of a host; what runs there ends by itself."""
        failed_stages = [host for host in self.workers if self._runs(host, "raylet/raylet")]
        if not failed_stages:
            return None
        host = rng.choice(failed_stages)
        self._kill_titled(host, "raylet/raylet")
        return Target(name=f"raylet of {host.name}", host=host.name)

    def kill_controller(self, _: random.Random) -> Target | None:
        """Kill the global control service."""
        assert self._head is not None
        self._kill_titled(self._head, "gcs_server")
        return Target(name="gcs_server")

    def kill_host(self, rng: random.Random) -> Target | None:
        """Kill a host whole: its init, and all that runs there."""
        assert self._head is not None
        if rng.random() < CHANCE_OF_HEAD:
            self._head.kill()
            return Target(name=f"{self._head.name} (head)")
        host = rng.choice(self.workers)
        host.kill()
        return Target(name=host.name, host=host.name)

    def cut_cable(self, rng: random.Random) -> Target | None:
        """Cut the cable of a worker, for a while or for ever; then a new host takes its place."""
        plugged = [host for host in self.workers if host.is_alive and not host.is_cut]
        if not plugged:
            return None
        return self.cut_off(rng.choice(plugged), for_s=rng.choice([None, rng.uniform(1.0, LONGEST_CUT_S)]))

    def cut_off(self, host: Host, *, for_s: float | None = None) -> Target:
        """Cut the cable of one worker, for some seconds or for ever."""
        host.cut()
        until_s = time.monotonic() + (for_s or CUT_OFF_S)
        self._cut_off.append(_CutOff(host=host, until_s=until_s, is_for_ever=for_s is None))
        if for_s is None:
            self.workers[self.workers.index(host)] = self._new_host()
        return Target(name=f"of {host.name} {f'for {for_s:.0f} s' if for_s else 'for ever'}", host=host.name)

    def end_driver(self) -> None:
        """Kill the driver, if there is one: what was started is outside and waits for it."""
        if self.driver is not None:
            for pid in reversed(descendants(self.driver.pid)):
                kill(pid)
            self.driver.wait()

    def _start_on_head(self, command: list[str], *, output: Path) -> subprocess.Popen[bytes]:
        assert self._head is not None
        with output.open("ab") as log:
            return self._head.start(command, environment=os.environ | HOST_SETTINGS, output=log)

    def _processes(self) -> list[tuple[int, str]]:
        return [(pid, host.name) for host in self.workers for pid in host.pids()]

    def _hosts(self) -> list[Host]:
        hosts = [*self.workers, *(item.host for item in self._cut_off)]
        return [*hosts, self._head] if self._head else hosts

    def _new_host(self, number: int = 0) -> Host:
        self._num_hosts += 1
        return Host(
            self._network,
            name=f"host{self._num_hosts}",
            number=number or HEAD_NUMBER + self._num_hosts,
            folder=self._ray_folder / f"{self._num_hosts}",
            mounted_at=self._ray_folder / "ray",
        )

    def _mend_cables(self) -> None:
        for item in [item for item in self._cut_off if time.monotonic() >= item.until_s]:
            self._cut_off.remove(item)
            if item.is_for_ever:
                item.host.kill()
            elif item.host.is_alive:
                item.host.mend()

    def _start_again(self) -> None:
        """Start Ray on all hosts anew, on a new head if it is dead: without its head a cluster ends."""
        assert self._head is not None
        self.end_driver()
        if not self._head.is_alive:
            self._head = self._new_host(HEAD_NUMBER)
        left = [pid for host in [self._head, *self.workers] for pid in host.pids()]
        for host in [self._head, *self.workers]:
            host.end_processes()
        wait_until_gone(left)
        self.workers = [host if host.is_alive else self._new_host() for host in self.workers]
        self._start_ray()

    def _start_ray(self) -> None:
        assert self._head is not None
        head = ["--head", f"--port={PORT}", "--include-dashboard=false", "--num-cpus=0"]
        self._wait_for([self._start_node(self._head, [*head, f"--temp-dir={self._ray_folder / 'ray'}"])])
        if not self._runs(self._head, "gcs_server"):
            return  # the next repair tries again
        self._wait_for([self._start_worker(host) for host in self.workers if not host.is_cut])

    def _start_worker(self, host: Host) -> subprocess.Popen[bytes]:
        assert self._head is not None
        return self._start_node(host, [f"--address={self._head.address}:{PORT}", "--num-cpus=1"], **CUT_OFF_SETTINGS)

    def _start_node(self, host: Host, options: list[str], **settings: str) -> subprocess.Popen[bytes]:
        sizes = [f"--memory={MEMORY_BYTES}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", *options, *sizes, f"--node-ip-address={host.address}", "--disable-usage-stats"]
        with (self._folder / "ray_start.log").open("ab") as log:
            return host.start(command, environment=os.environ | HOST_SETTINGS | settings, output=log)

    @staticmethod
    def _wait_for(starts: list[subprocess.Popen[bytes]]) -> None:
        """Wait for Ray to have started; where it has not, the next repair tries again."""
        for process in starts:
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                for pid in reversed(descendants(process.pid)):
                    kill(pid)
                process.wait()

    @staticmethod
    def _runs(host: Host, name: str) -> bool:
        return any(name in title(pid).partition(" ")[0] for pid in host.pids())

    @staticmethod
    def _kill_titled(host: Host, name: str) -> None:
        pids = [pid for pid in host.pids() if name in title(pid).partition(" ")[0]]
        for pid in pids:
            kill(pid)
        wait_until_gone(pids)


@contextmanager
def host_cluster(folder: Path) -> Iterator[HostCluster]:
    """Context with a running cluster; nothing of it is left afterwards."""
    # The name is short for the sockets of Ray.
    with (
        tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp", ignore_cleanup_errors=True) as ray_folder,
        patch.dict(os.environ, with_a_token(Path(ray_folder))),
    ):
        cluster = HostCluster(folder, ray_folder=Path(ray_folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
