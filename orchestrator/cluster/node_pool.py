"""Equal machines: what a cluster file offers, the schedule asks for and the simulator plays."""

from dataclasses import dataclass

from orchestrator.cluster.gpu_kinds import GpuKind
from orchestrator.errors import ConfigError

NO_GPU = GpuKind(name="", speed=1.0, memory_gib=float("inf"))
"""Of machines without one; their cores have speed 1."""
ROUNDING = 1e-9
"""Shares like 0.1 GPU do not add up exactly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Processors, of a cluster, a node or one stage."""

    cpus: float
    gpus: float = 0.0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(cpus=self.cpus + other.cpus, gpus=self.gpus + other.gpus)

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(cpus=self.cpus - other.cpus, gpus=self.gpus - other.gpus)

    @property
    def text(self) -> str:
        """How people are told of them."""
        return f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")

    def fits_in(self, free: "Resources") -> bool:
        """Whether `free` holds at least this much."""
        return self.cpus <= free.cpus + ROUNDING and self.gpus <= free.gpus + ROUNDING


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """How long a machine waits in a queue: a log-normal distribution, by two of its quantiles."""

    median_s: float
    """Half of them wait for less."""
    ninetieth_s: float
    """Nine of ten wait for less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodePool:
    """Equal machines of which there can be several."""

    name: str
    max_nodes: int
    """The most of them at a time."""
    cpus: float
    """Of each, for stages."""
    gpus: float = 0.0
    """Likewise."""
    gpu: GpuKind = NO_GPU
    """Kind of the GPUs."""
    min_nodes: int = 0
    """So many are there all the time."""
    market: str = ""
    """How they come, for people: `spot`, `on demand`, the name of a queue; empty for machines that are there."""
    machine: str = ""
    """What the provider calls such a machine, for example `g6e.2xlarge`."""
    usd_per_hour: float | None = None
    """What each costs; None where nothing is paid."""
    start_s: float = 0.0
    """From the order of one until stages can run there."""
    interruptions_per_hour: float = 0.0
    """How often the provider takes one back."""

    waiting: Waiting | None = None
    """In a queue, before that; None where there is none."""
    lasts_s: float = float("inf")
    """After so long each ends; what runs there saves its place before."""
    come_together: bool = False
    """Whether all of them come at once, and end at once."""

    def __post_init__(self) -> None:
        for field, least in {"max_nodes": 0, "cpus": 0, "gpus": 0, "min_nodes": 0}.items():
            if getattr(self, field) < least:
                raise ConfigError(f"{self.name}: {field} is {getattr(self, field)}; expected at least {least}")

    @property
    def offered(self) -> Resources:
        """All processors of each, for stages."""
        return Resources(cpus=self.cpus, gpus=self.gpus)
