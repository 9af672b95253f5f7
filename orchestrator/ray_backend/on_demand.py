"""The door to Ray for those who may not need it: Ray takes a second to import, and a finished run starts none."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.cluster.config import ClusterConfig, RunName
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.ray_backend.executor import RayBackend


@contextmanager
def connect_to_ray(config: ClusterConfig, run: RunName) -> "Iterator[RayBackend]":
    """Connect a run to its Ray for the length of the context.

    Raises
    ------
    ClusterError
        If it cannot be reached.
    ConfigError
        If Python leaves out texts of which Ray makes others when it is imported.
    """
    if sys.flags.optimize > 1:
        raise ConfigError(
            "PYTHONOPTIMIZE is 2, or -OO was given, with which Ray cannot be imported; expected at most 1"
        )
    from orchestrator.ray_backend.connect import connected
    from orchestrator.ray_backend.executor import RayBackend

    with connected(config, run=run) as connection:
        yield RayBackend(connection, pools=config.node_pools())
