"""Where a run takes place: what every cluster file may hold, and what every kind of cluster answers."""

import hashlib
import re
import shlex
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Protocol

from pydantic import AfterValidator, ConfigDict, Field, PrivateAttr

from orchestrator.cluster.node_pool import NodePool, Resources
from orchestrator.cluster.prices import Prices
from orchestrator.configuration import Entry
from orchestrator.errors import ConfigError
from orchestrator.storage.json_values import JsonMapping

MIN_PREEMPTION_GAIN_S = 600.0
"""A training is preempted only for one that needs this much longer: long against what a restart costs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedRay:
    """A Ray that is started on this machine for the run alone, and ends with it."""

    num_cpus: int | None = None
    """None for all of this machine."""
    num_gpus: int | None = None
    """Likewise."""

    provisioner: ClassVar[None] = None
    idle_s: ClassVar[float] = float("inf")


class Provisioner(Protocol):
    """Starts machines that join a Ray, where Ray's autoscaler does not."""

    def ask(self, missing: Mapping[Resources, int], *, present: Mapping[Resources, int]) -> None:
        """Say how many machines of each size are missing beside those that are there.

        Raises ClusterError if none will ever come.
        """

    def waiting(self) -> Mapping[str, int]:
        """Return how many were asked for and wait, by what people are told of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningRay:
    """A Ray cluster that runs."""

    address: str
    """`auto` or `host:port`."""
    provisioner: Provisioner | None = None
    """Who starts more machines; None for Ray's autoscaler, if there is one."""
    idle_s: float = float("inf")
    """After so long without work a machine is given back; Ray's autoscaler sees to its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunName:
    """Which run it is, for what people see of it elsewhere; of two with one output only one can be at work."""

    output: str
    """Where its tables are, among all else."""
    study: str
    data: str | None = None
    """Where the downloads are."""

    @property
    def short(self) -> str:
        """The same for the same output: begins names of jobs, and names a folder."""
        return f"orchestrator-{self.letters}"

    @property
    def letters(self) -> str:
        """Eight letters that follow from the output, however its location ends."""
        return hashlib.sha256(self.output.rstrip("/").encode()).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderedMachine:
    """A machine that was ordered for a run, as whoever gives it tells."""

    pool: str
    """Name of its pool; `head` for that of the driver."""
    state: str
    """`asked for`, `starting` or `there`."""
    reason: str = ""
    """Why it is not there yet, if that is told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The driver of a run, for kinds of clusters on which it runs elsewhere."""

    run: RunName
    arguments: tuple[str, ...]
    """Of its module, `--output` among them, in a fixed order; `--cluster` is the kind's affair."""
    training_hours: float
    """Hours of all trainings, one after the other on one GPU."""
    keep: bool
    """Leave machines running that were started for it."""
    needs_gpus: bool = True
    """Whether its trainings would take days without."""
    module: str = "orchestrator.run_all"
    """That Python runs: the command."""

    @property
    def told(self) -> str:
        """What it is asked to do, on one line: kept beside one that is at work, for `expect_same`."""
        return shlex.join([self.module, *self.arguments])

    def expect_same(self, at_work: str | None, *, where: str) -> None:
        """Raise ConfigError if a driver that is at work for this output is asked to do something else."""
        if at_work is not None and at_work != self.told:
            raise ConfigError(
                f"{where}: {self.run.output} is at work with: {at_work}; expected the same, to attach to it, and "
                f"found: {self.told}. Wait until it has ended, end it with --down, or give another --output"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOutcome:
    """What has become of a driver that ran elsewhere."""

    succeeded: bool
    folder: Path | None
    """Of this machine, for a copy of its tables; None where the output is seen from here."""


def _folder(path: str) -> str:
    if re.match(r"\w+:/", path):
        raise ValueError("a folder that all machines see, and no bucket")
    return path


Folder = Annotated[str, AfterValidator(_folder)]


def _part_of_a_gpu(gpus: float) -> float:
    if gpus > 1:
        raise ValueError("1 or a part: for more, set workers")
    return gpus


_OF_TRAININGS = (
    *("cpus_per_training", "gpus_per_training", "workers_per_training", "workers_at_end"),
    "min_preemption_gain_s",
)


class ClusterConfig(Entry):
    """A cluster file. Each kind has a class of its own, with its further keys and its answers."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.setdefault("required", []).insert(0, "kind"))

    kind: str
    """Which kind of cluster it is."""
    cpus_per_training: Annotated[float, Field(gt=0)] | None = None
    """CPUs for each training with a GPU: they feed it. None for what the preset needs; without GPUs it is one CPU."""
    gpus_per_training: Annotated[float, Field(gt=0), AfterValidator(_part_of_a_gpu)] | None = None
    """Part of a GPU for each training; below 1, several share it. None for as many on a GPU as fit and pay."""
    workers_per_training: Annotated[int, Field(ge=1)] | None = None
    """Processes that fit each model together, with a GPU each. None for what model and preset say."""
    workers_at_end: Annotated[int, Field(ge=1)] = 1
    """Most workers of a training when nothing waits any more and GPUs of its machine are idle; 1 leaves them idle."""
    min_preemption_gain_s: Annotated[float, Field(gt=0)] = MIN_PREEMPTION_GAIN_S
    """A training is preempted only for one that needs this much longer."""
    output: str | None = None
    """Where everything is written, unless the command line says otherwise."""
    data: str | None = None
    """Where the downloads are, unless the command line says otherwise."""

    is_rented: ClassVar[bool] = False
    """Whether its machines cost money: they have prices, and are started only after an answer."""
    can_keep: ClassVar[bool] = False
    """Whether machines that were started for a run can stay when it has ended."""
    _path: Path = PrivateAttr(default=Path("cluster file"))

    @property
    def path(self) -> Path:
        """The file it was read from."""
        return self._path

    def model_post_init(self, context: object, /) -> None:
        """Take note of the file, and check what goes beyond single keys."""
        if isinstance(context, Path):
            self._path = context

    def check(self) -> None:
        """Raise ConfigError for what the keys together cannot mean."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the driver runs on a machine that `launch` starts, instead of on this one."""
        return False

    @property
    def is_growing(self) -> bool:
        """Whether machines come as something waits for them, and are given back."""
        return False

    @property
    def gives_back_after_s(self) -> float:
        """After so long without work a machine is given back, where it is."""
        return 600.0

    @property
    def provider(self) -> str | None:
        """Whose machines the nodes are, if they may be taken back after a notice: the nodes ask it."""
        return None

    def for_miniatures(self) -> "ClusterConfig":
        """Return the cluster as it is used for trainings that keep no GPU busy."""
        return self

    @abstractmethod
    def node_pools(self) -> tuple[NodePool, ...]:
        """Return the machines that may be started while a run is under way."""

    def imagined(self, prices: Prices | None) -> tuple[NodePool, ...]:
        """Return all machines of the cluster at its largest, for the simulator; raises ConfigError if none knows."""
        del prices
        return self.node_pools()

    def imagined_otherwise(self) -> Mapping[str, tuple[NodePool, ...]]:
        """Return the same machines in other forms, by a name for people, for the simulator to compare with."""
        return {}

    def head_usd_per_hour(self, prices: Prices | None) -> float | None:
        """Return what the machine of the driver costs; None where nothing is paid."""
        del prices
        return None

    def authenticate(self) -> None:
        """Settle the token of this process, before Ray is imported, which reads its environment then."""

    def reach(self, run: RunName | None) -> AbstractContextManager[EmbeddedRay | RunningRay]:
        """Context in which Ray can be used from this machine.

        Parameters
        ----------
        run
            For which machines may be started; None for other work, on machines that are there.

        Raises
        ------
        ConfigError
            If there is no way.
        """
        del run
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

        Raises
        ------
        ConfigError
            If the driver of this kind runs on this machine.
        """
        del driver, confirm, show
        raise ConfigError(f"{self.path}: kind {self.kind} starts no driver elsewhere; expected one that does")

    def render(self, driver: Driver) -> str:
        """Return what would be submitted, as text for people and tools; raises ConfigError if there is no such text."""
        del driver
        raise ConfigError(f"{self.path}: --render: nothing is submitted as a text; expected kind kubernetes")

    def file_argument(self, file: Path, *, option: str) -> str:
        """Return what a driver elsewhere finds a file of an option by; raises ConfigError if it cannot find it."""
        del option
        return str(file.resolve())

    def bring_down(self, run: RunName, *, show: Callable[[str], None]) -> None:
        """End what a run has left of the machines that were started for it; raises ConfigError if it starts none."""
        del run, show
        raise ConfigError(f"{self.path}: --down: no machines are started for a run; expected a kind that does")

    def ordered_machines(self, run: RunName) -> Sequence[OrderedMachine]:
        """Return the machines that were ordered for a run; none where none are. Raises ClusterError if nobody tells."""
        del run
        return ()

    def said_of_trainings(self) -> dict[str, object]:
        """Return the keys that say what trainings take, for the cluster file of a driver elsewhere."""
        return {name: getattr(self, name) for name in _OF_TRAININGS}

    def content(self) -> JsonMapping:
        """Return what a file of this cluster holds."""
        return {"kind": self.kind, **self.model_dump(mode="json", exclude_defaults=True, exclude_none=True)}
