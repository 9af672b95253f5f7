"""A Ray cluster on this machine whose autoscaler starts machines that are processes."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

HEAD = "ray.head.default"
"""Ray's provider for tests knows it by this name only."""


@contextmanager
def growing_cluster(folder, machines):
    """A head without CPUs; yields its address and the environment in which it can be reached, and ends all of it.

    Parameters
    ----------
    folder
        For the token and the files of the cluster.
    machines
        By name, the number and the CPUs of what the autoscaler may start.
    """
    token = folder / "auth_token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(_config(machines, gcs_address=f"127.0.0.1:{port}")))
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    settings = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "0"}
    # A short name: paths of sockets have a limit.
    with tempfile.TemporaryDirectory(prefix="grow-", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
        command += ["--num-cpus=0", "--include-dashboard=false", f"--temp-dir={ray_folder}"]
        command += [f"--autoscaling-config={config}", f"--object-store-memory={100 * 1024**2}"]
        with (folder / "head.log").open("wb") as log:
            head = subprocess.Popen(
                command, env=environment | settings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait_for(port, log=folder / "head.log")
            yield f"127.0.0.1:{port}", environment
        finally:
            # The machines are children of the autoscaler, and with the head in one group of processes.
            with suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def _config(machines, *, gcs_address):
    kinds = {
        name: {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": number}
        for name, (number, cpus) in machines.items()
    }
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "growing",
        "max_workers": sum(number for number, _ in machines.values()),
        "provider": {"type": "fake_multinode", "gcs_address": gcs_address, "disable_node_updaters": True},
        "available_node_types": {HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}, **kinds},
        "head_node_type": HEAD,
        "upscaling_speed": 10,
        "idle_timeout_minutes": 10,
        "file_mounts_sync_continuously": False,
        **{f"{name}_commands": [] for name in lists},
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    }


def _wait_for(port, *, log):
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())
