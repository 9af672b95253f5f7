"""`kind: local`: Ray is started on this machine for the run and ends with it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.cluster.config import ClusterConfig, EmbeddedRay, RunName, RunningRay
from orchestrator.cluster.hosts.facts import num_gpus_here
from orchestrator.cluster.node_pool import NodePool
from orchestrator.cluster.prices import Prices


class LocalCluster(ClusterConfig):
    """A Ray of the run alone, on this machine."""

    kind: Literal["local"] = "local"
    num_cpus: Annotated[int, Field(ge=1)] | None = None
    """CPUs for stages; all of this machine unless given."""
    num_gpus: Annotated[int, Field(ge=0)] | None = None
    """Likewise for GPUs; 0 trains on CPU cores."""

    def for_miniatures(self) -> "LocalCluster":
        """Return it without GPUs: to start a process for each of such trainings would take longer than they do."""
        return self if self.num_gpus is not None else self.model_copy(update={"num_gpus": 0})

    def node_pools(self) -> tuple[NodePool, ...]:
        """Return nothing: no machine is started."""
        return ()

    def imagined(self, prices: Prices | None) -> tuple[NodePool, ...]:
        """Return this machine."""
        del prices
        num_gpus = self.num_gpus if self.num_gpus is not None else num_gpus_here()
        num_cpus = self.num_cpus if self.num_cpus is not None else os.cpu_count() or 1
        return (NodePool(name="this machine", min_nodes=1, max_nodes=1, cpus=num_cpus, gpus=num_gpus),)

    @contextmanager
    def reach(self, run: RunName | None) -> Iterator[EmbeddedRay | RunningRay]:
        """Context in which it is reached: what is asked for starts and ends it."""
        del run
        yield EmbeddedRay(num_cpus=self.num_cpus, num_gpus=self.num_gpus)
