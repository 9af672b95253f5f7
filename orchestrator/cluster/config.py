"""Where a run takes place: what every cluster file may hold, and what every kind of cluster answers."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, PrivateAttr

from orchestrator.cluster.node_pool import NodePool
from orchestrator.cluster.prices import Prices
from orchestrator.configuration import Entry
from orchestrator.errors import ConfigError

MIN_PREEMPTION_GAIN_S = 600.0
"""A training is preempted only for one that needs this much longer: long against what a restart costs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedRay:
    """A Ray that is started on this machine for the run alone, and ends with it."""

    num_cpus: int | None = None
    """None for all of this machine."""
    num_gpus: int | None = None
    """Likewise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningRay:
    """A Ray cluster that runs."""

    address: str
    """`auto` or `host:port`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The driver of a run, for kinds of clusters on which it runs elsewhere."""

    arguments: tuple[str, ...]
    """Of `orchestrator.run_all`, `--output` among them, in a fixed order; `--cluster` is the kind's affair."""
    training_hours: float
    """Hours of all trainings, one after the other on one GPU."""
    keep: bool
    """Leave machines running that were started for it."""

    @property
    def output(self) -> str | None:
        """Where it writes."""
        following = zip(self.arguments, self.arguments[1:], strict=False)
        return next((value for name, value in following if name == "--output"), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOutcome:
    """What has become of a driver that ran elsewhere."""

    succeeded: bool
    folder: Path
    """Of this machine, for its tables."""


def _part_of_a_gpu(gpus: float) -> float:
    if gpus > 1:
        raise ValueError("1 or a part: a training uses one GPU")
    return gpus


class ClusterConfig(Entry):
    """A cluster file. Each kind has a class of its own, with its further keys and its answers."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.setdefault("required", []).insert(0, "kind"))

    kind: str
    """Which kind of cluster it is."""
    cpus_per_training: Annotated[float, Field(gt=0)] | None = None
    """CPUs for each training with a GPU: they feed it. None for what the preset needs; without GPUs it is one CPU."""
    gpus_per_training: Annotated[float, Field(gt=0), AfterValidator(_part_of_a_gpu)] | None = None
    """Part of a GPU for each training; below 1, several share it. None for as many on a GPU as fit and pay."""
    min_preemption_gain_s: Annotated[float, Field(gt=0)] = MIN_PREEMPTION_GAIN_S
    """A training is preempted only for one that needs this much longer."""
    output: str | None = None
    """Where everything is written, unless the command line says otherwise."""
    data: str | None = None
    """Where the downloads are, unless the command line says otherwise."""

    is_rented: ClassVar[bool] = False
    """Whether its machines cost money: they have prices, and are started only after an answer."""
    is_elsewhere: ClassVar[bool] = False
    """Whether the driver runs on a machine that `launch` starts, instead of on this one."""
    _path: Path = PrivateAttr(default=Path("cluster file"))

    @property
    def path(self) -> Path:
        """The file it was read from."""
        return self._path

    def model_post_init(self, context: Any, /) -> None:
        """Take note of the file, and check what goes beyond single keys."""
        if isinstance(context, Path):
            self._path = context

    def check(self) -> None:
        """Raise ConfigError for what the keys together cannot mean."""

    @property
    def provider(self) -> str | None:
        """Whose machines the nodes are, if they may be taken back after a notice: the nodes ask it."""
        return None

    def for_miniatures(self) -> "ClusterConfig":
        """Return the cluster as it is used for trainings that keep no GPU busy."""
        return self

    @abstractmethod
    def pools(self) -> tuple[NodePool, ...]:
        """Return the machines that may be started while a run is under way."""

    def imagined(self, prices: Prices | None) -> tuple[NodePool, ...]:
        """Return all machines of the cluster at its largest, for the simulator; raises ConfigError if none knows."""
        del prices
        return self.pools()

    def head_usd_per_hour(self, prices: Prices | None) -> float | None:
        """Return what the machine of the driver costs; None where nothing is paid."""
        del prices
        return None

    def authenticate(self) -> None:
        """Settle the token of this process, before Ray is imported, which reads its environment then."""

    def reach(self) -> AbstractContextManager[EmbeddedRay | RunningRay]:
        """Context in which the Ray of the run can be used from this machine; raises ConfigError if there is no way."""
        raise ConfigError(
            f"{self.path}: this command starts no machines; expected kind local, or existing on a machine of the "
            "cluster"
        )

    def launch(
        self, driver: Driver, *, confirm: Callable[[str], bool], show: Callable[[str], None]
    ) -> LaunchOutcome | None:
        """Run the driver on machines that are started for it, and follow it.

        Parameters
        ----------
        driver
            What is to be run.
        confirm
            Is shown what would be started and says whether to go on.
        show
            Takes lines for people.

        Returns
        -------
        LaunchOutcome or None
            None if the answer was not to go on.
        """
        raise NotImplementedError(f"kind {self.kind}: the driver runs on this machine")

    def content(self) -> Mapping[str, Any]:
        """Return what a file of this cluster holds."""
        return {"kind": self.kind, **self.model_dump(mode="json", exclude_defaults=True, exclude_none=True)}
