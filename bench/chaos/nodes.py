"""A Ray cluster whose nodes are processes beside each other, by Ray's own `cluster_utils`: it needs no privilege."""

import contextlib
import logging
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from bench.chaos.cluster import NUM_WORKER_NODES, SETTINGS, ChaosCluster, Target, kill, with_a_token
from bench.smoke import descendants


class NodeCluster(ChaosCluster):
    """Nodes that share the network and the host name of this machine."""

    kinds = ("worker", "worker", "trainer", "warning", "node", "driver", "controller")

    def start(self) -> None:
        """Start head and workers."""
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False},
        )
        self._fill_up()
        self._point_to(self._cluster.address)

    def stop(self) -> None:
        """End every process of the cluster and its driver."""
        children = self._processes()
        with contextlib.suppress(Exception):  # parts of it may be dead already
            self._cluster.shutdown()
        for pid, _ in children:
            kill(pid)

    def repair(self) -> None:
        """Bring back what was killed."""
        if not self._cluster.head_node.remaining_processes_alive():
            self.end_driver()
            self.stop()
            self.start()
        self._fill_up()

    def kill_node(self, rng: random.Random) -> Target:
        """Kill a node with all that runs on it."""
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: node.unique_id)
        self._cluster.remove_node(rng.choice(nodes), allow_graceful=False)
        return Target(name="one of two nodes")

    def kill_controller(self, _: random.Random) -> Target:
        """Kill the global control service."""
        process = self._cluster.head_node.all_processes["gcs_server"][0].process
        kill(process.pid)
        process.wait()
        return Target(name="gcs_server")

    def end_driver(self) -> None:
        """Kill the driver, if there is one."""
        if self.driver is not None:
            self.driver.kill()
            self.driver.wait()

    def _start_on_head(self, command: list[str], *, output: Path) -> subprocess.Popen[bytes]:
        with output.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def _processes(self) -> list[tuple[int, str]]:
        return [(pid, "") for pid in descendants(os.getpid()) if pid != os.getpid()]

    def _fill_up(self) -> None:
        for node in list(self._cluster.worker_nodes):
            if not node.remaining_processes_alive():
                self._cluster.remove_node(node, allow_graceful=False)
        while len(self._cluster.worker_nodes) < NUM_WORKER_NODES:
            self._cluster.add_node(num_cpus=1)


@contextmanager
def node_cluster(folder: Path) -> Iterator[NodeCluster]:
    """Context with a running cluster; nothing of it is left afterwards."""
    # A folder of its own, so that no other Ray of this machine is found or told; its name is short for the sockets.
    with (
        tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp", ignore_cleanup_errors=True) as ray_folder,
        patch.dict(os.environ, SETTINGS | with_a_token(Path(ray_folder)) | {"RAY_TMPDIR": ray_folder}),
    ):
        logging.getLogger("ray").setLevel(logging.ERROR)
        cluster = NodeCluster(folder)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.end_driver()
            cluster.stop()
