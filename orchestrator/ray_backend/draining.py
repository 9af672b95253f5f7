"""Machines that leave a cluster: part of the one door to Ray."""

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import ray
from ray.core.generated import autoscaler_pb2
from ray.exceptions import RayError

if TYPE_CHECKING:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]


logger = logging.getLogger(__name__)


def draining_nodes() -> frozenset[str]:
    """Return the nodes on which Ray starts nothing any more; none where it does not say."""
    # `ray.train.get_preemption_info` is for trainings in workers of their own only.
    try:
        return frozenset(ray._private.state.state.get_draining_nodes())  # noqa: SLF001
    except (RayError, RuntimeError):
        return frozenset()


def drain_idle(node_id: str) -> bool:
    """Let a node go; returns False if something runs there, or Ray does not answer."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_IDLE_TERMINATION")
    try:
        client = ray._private.worker.global_worker.gcs_client  # noqa: SLF001 - there is no public way but the command
        accepted, _ = client.drain_node(node_id, reason, "nothing has run there for a while", 0)
    except (RayError, RuntimeError, OSError) as error:
        logger.info("node %s: %s", node_id, error)
        return False
    return bool(accepted)


def announce_end(client: "GcsClient", node_id: str, *, reason: str, within_s: float) -> bool:
    """Tell a cluster that one of its machines ends soon; returns whether it has taken note.

    Parameters
    ----------
    client
        Ray's `GcsClient` of the head.
    node_id
        Of the machine, as a hexadecimal number.
    reason
        For people.
    within_s
        Until then what runs there can save its place.
    """
    preemption = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    with suppress(Exception):  # Ray's own are of any class
        accepted, _ = client.drain_node(node_id, preemption, reason, int((time.time() + within_s) * 1000))
        return bool(accepted)
    return False
