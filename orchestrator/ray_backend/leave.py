"""Leaves a cluster in time: what a pod runs when Kubernetes is about to end it. Part of the one door to Ray.

Kubernetes waits for it before it ends Ray: the node is drained, trainings save their place, and Ray leaves by itself
once nothing runs there any more.
"""

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

LOOK_EVERY_S = 1.0
ADDRESS = "RAY_ADDRESS"
"""Of the head, in the environment of the pod."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Drain the node of this pod and wait until Ray has left it, or the time is up; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.ray_backend.leave", description=__doc__)
    parser.add_argument("--within-s", type=float, required=True, help="longest wait for what runs to save its place")
    within_s = parser.parse_args(arguments).within_s
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    head = os.environ.get(ADDRESS)
    if not head:
        sys.stderr.write(f"{ADDRESS} is not set: there is no cluster to leave\n")
        return 0
    leave(GcsClient(address=head), address=socket.gethostbyname(socket.gethostname()), within_s=within_s)
    return 0


def leave(
    client: "GcsClient",
    *,
    address: str,
    within_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Drain the node at an address, and wait until it has left the cluster or the time is up.

    Parameters
    ----------
    client
        Ray's `GcsClient` of the head.
    address
        Of the machine, as Ray knows it.
    within_s
        Longest wait.
    clock, sleep
        Seconds that pass.
    """
    from orchestrator.ray_backend.draining import announce_end

    until_s = clock() + within_s
    is_drained = False
    while (left_s := until_s - clock()) > 0:
        node_id = _node(client, address)
        if node_id == "":
            return
        if node_id and not is_drained:
            is_drained = announce_end(client, node_id, reason="Kubernetes ends its pod", within_s=left_s)
        sleep(LOOK_EVERY_S)


def _node(client: "GcsClient", address: str) -> str | None:
    """Return the id of a machine of the cluster; empty if there is none any more, None if the head is silent."""
    try:
        found = client.get_all_node_info(timeout=5)
    except Exception:  # Ray's own are of any class
        return None
    alive = (
        node_id.hex() for node_id, node in found.items() if node.node_manager_address == address and not node.state
    )
    return next(alive, "")


if __name__ == "__main__":
    sys.exit(main())
