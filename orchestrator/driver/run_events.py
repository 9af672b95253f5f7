"""What happens in a run, as values for listeners, who change nothing; what is kept of it is in `events.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.cluster.node_pool import Resources
from orchestrator.report.looks.decisions import InterimLook
from orchestrator.scheduling.ended import Failed
from orchestrator.scheduling.resources import MachineState, Node
from orchestrator.scheduling.retries import GiveUp, Retry
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.stages.records.latest_epoch import LatestEpoch
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKey


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStarted:
    """A stage was handed to the cluster."""

    stage: Stage
    attempt: int
    node: Node
    """One like that where it runs."""
    gpus: float
    """Its share of the GPUs of that node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFinished:
    """A stage is done."""

    stage: Stage
    elapsed_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFailed:
    """A stage has failed."""

    stage: Stage
    failed: Failed
    decision: Retry | GiveUp
    """What follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageAskedToStop:
    """A training was asked to stop, for another or to go on with more workers."""

    stage: Stage
    reason: str
    """Why, for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRevived:
    """A stage that had failed for good is tried again: its node turned out to be broken."""

    stage: Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class LooksTaken:
    """The questions of the study were looked at: some trainings are needed now, others will not be."""

    looks: tuple[InterimLook, ...]
    """Those that are new."""
    stages: tuple[StageKey, ...]
    """That are needed from now on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachinesMissing:
    """Other machines are asked for than before."""

    missing: Mapping[Resources, int]
    """How many of each size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachinesWaiting:
    """Other machines than before wait in a queue."""

    waiting: Mapping[str, int]
    """How many, by pool and reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachinesSeen:
    """Other machines than before are there, or they do something else."""

    machines: Mapping[MachineState, Mapping[Resources, int]]
    """How many of each size do what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochEnded:
    """What a training under way has told last."""

    stage: Stage
    latest: LatestEpoch
    is_new: bool
    """Whether it tells that for the first time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimePassed:
    """A moment in which nothing else happens."""

    schedule: Schedule
    """To be looked at."""


RunEvent = (
    StageStarted
    | StageFinished
    | StageFailed
    | StageAskedToStop
    | StageRevived
    | LooksTaken
    | MachinesMissing
    | MachinesWaiting
    | MachinesSeen
    | EpochEnded
    | TimePassed
)
RunListener = Callable[[RunEvent], None]
"""Is told what happens in a run, and only listens."""
