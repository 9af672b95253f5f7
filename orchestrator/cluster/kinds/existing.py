"""`kind: existing`: a Ray cluster that runs, of which this machine is one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from orchestrator.cluster.config import ClusterConfig, EmbeddedRay, RunName, RunningRay
from orchestrator.cluster.environment import use_token
from orchestrator.cluster.gpu_kinds import GpuName, kind_named
from orchestrator.cluster.node_pool import NodePool
from orchestrator.cluster.prices import Prices
from orchestrator.configuration import Entry
from orchestrator.errors import ConfigError


def _address(address: str) -> str:
    if address != "auto" and not re.fullmatch(r"[\w.-]+:\d{1,5}", address):
        raise ValueError("auto or host:port, like 10.0.0.5:6379")
    return address


class MachinesEntry(Entry):
    """Equal machines that an autoscaler may add, below their name."""

    number: Annotated[int, Field(ge=0)]
    """The most of them at a time."""
    cpus: Annotated[int, Field(ge=1)]
    """Of each, as the autoscaler knows them."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """Likewise."""
    gpu: GpuName = ""
    """Kind of the GPUs by Ray's name; empty if it is not known."""


class ExistingCluster(ClusterConfig):
    """A cluster that somebody else has started."""

    kind: Literal["existing"] = "existing"
    address: Annotated[str, AfterValidator(_address)]
    """`auto` for the cluster that this machine belongs to, or HOST:PORT of its head."""
    auth_token: str | None = None
    """File with its token; unless given, what the environment says."""
    cloud: Literal["aws", "none"] = "none"
    """Whose machines the nodes are: trainings ask them whether they are about to be taken away."""
    may_start: dict[str, MachinesEntry] = Field(default={})
    """Machines that an autoscaler may add."""

    @classmethod
    def around(
        cls, config: ClusterConfig, *, auth_token: str | None = None, cloud: Literal["aws", "none"] = "none"
    ) -> "ExistingCluster":
        """Return what machines that are started for a run are to its driver: a cluster that exists and grows."""
        may_start = {
            pool.name: MachinesEntry(
                number=pool.max_nodes, cpus=round(pool.cpus), gpus=round(pool.gpus), gpu=pool.gpu.name
            )
            for pool in config.node_pools()
        }
        existing = cls(address="auto", auth_token=auth_token, cloud=cloud, may_start=may_start)
        return existing.model_copy(update=config.said_of_trainings())

    @property
    def provider(self) -> str | None:
        """Whose machines the nodes are."""
        return None if self.cloud == "none" else self.cloud

    def node_pools(self) -> tuple[NodePool, ...]:
        """Return the machines that an autoscaler may add."""
        return tuple(
            NodePool(
                name=name,
                max_nodes=entry.number,
                cpus=entry.cpus,
                gpus=entry.gpus,
                gpu=kind_named(entry.gpu),
            )
            for name, entry in self.may_start.items()
        )

    def imagined(self, prices: Prices | None) -> tuple[NodePool, ...]:
        """Raise ConfigError: what runs there, nobody has written down."""
        del prices
        raise ConfigError(
            f"{self.path}: the machines of a cluster that runs are not in its file; expected a file of "
            "another kind: aws, kubernetes, local, slurm or ssh"
        )

    def authenticate(self) -> None:
        """Use the token of the file, if it names one."""
        if self.auth_token is not None:
            use_token(Path(self.auth_token))

    @contextmanager
    def reach(self, run: RunName | None) -> Iterator[EmbeddedRay | RunningRay]:
        """Context in which it is reached at its address."""
        del run
        yield RunningRay(address=self.address)
