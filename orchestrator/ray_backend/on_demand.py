"""The door to Ray for those who may not need it: Ray takes a second to import, and a finished run starts none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.cluster.config import ClusterConfig, RunName

if TYPE_CHECKING:
    from orchestrator.ray_backend.executor import RayBackend


@contextmanager
def connect_to_ray(config: ClusterConfig, run: RunName) -> "Iterator[RayBackend]":
    """Connect a run to its Ray for the length of the context; raises ClusterError if it cannot be reached."""
    from orchestrator.ray_backend.connect import connected
    from orchestrator.ray_backend.executor import RayBackend

    with connected(config, run=run) as connection:
        yield RayBackend(connection, pools=config.node_pools())
