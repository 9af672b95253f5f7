"""What a cluster file says of jobs of a batch system: what is asked for a driver, and for the machines of a pool."""

from ipaddress import IPv4Network
from typing import Annotated

from pydantic import AfterValidator, Field

from orchestrator.cluster.gpu_kinds import GpuName
from orchestrator.configuration import Entry

Word = Annotated[str, Field(pattern=r"^[\w.,:/+=@%*()\[\]-]+$", max_length=200)]
"""Stands in a line of a script."""
Line = Annotated[str, Field(pattern=r"^[^\n\r]*$", max_length=2000)]


def _with_network(address: str) -> str:
    if "/" in address:
        try:
            IPv4Network(address, strict=False)
        except ValueError:
            raise ValueError("an address, or a network such as 192.168.4.0/24") from None
    return address


Address = Annotated[Word, AfterValidator(_with_network)]
"""Of a machine, or a network in which it has one."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=40)]


class JobEntry(Entry):
    """What is asked of the batch system for a job."""

    time_limit_minutes: Annotated[int, Field(ge=1)]
    """After it the batch system ends the job; much less than a training takes is fine."""
    partition: Word | None = None
    """Partition or queue."""
    account: Word | None = None
    """Who pays."""
    qos: Word | None = None
    """Quality of service."""
    cpus: Annotated[int, Field(ge=1)] = 1
    """CPU cores."""
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory; unless given, what the site gives."""
    options: list[Line] = Field(default=[])
    """Further options of the submit command, such as --exclusive."""
    setup: list[Line] = Field(default=[])
    """Lines of shell before anything else in a job: modules, a container."""

    def values(self, **more: object) -> dict[str, object]:
        """Return what the batch system is told, by the names of its file."""
        return {
            **more,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "cpus": self.cpus,
            "memory_mib": round(self.memory_gib * 1024) if self.memory_gib else None,
            "time_limit_minutes": self.time_limit_minutes,
        }


class WaitingEntry(Entry):
    """How long a job of a pool waits in the queue, for the simulator."""

    median_minutes: Annotated[float, Field(gt=0)]
    """Half of such jobs wait for less."""
    ninetieth_minutes: Annotated[float, Field(gt=0)]
    """Nine of ten wait for less."""


class PoolEntry(JobEntry):
    """Equal machines or parts of machines, below their name."""

    number: Annotated[int, Field(ge=1)]
    """The most of them at a time; with one allocation, so many."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of each."""
    gpu: GpuName = ""
    """Kind of the GPUs by Ray's name, such as A100; empty if it is not known."""
    gres: Word | None = None
    """How the GPUs are asked for where their number does not say enough, such as gpu:a100:1."""
    array: bool = False
    """Whether several that are missing at once are asked for as one array job."""
    drain_s: Annotated[float, Field(ge=5)] = 120.0
    """Time before the limit, or after a warning, in which trainings save their place."""
    scratch: Line | None = None
    """Folder of each machine for temporary files and patches, such as $SLURM_TMPDIR."""
    waiting: WaitingEntry | None = None
    """What is known of the queue; the simulator plays it."""
