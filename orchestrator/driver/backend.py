"""What a run needs of the cluster that carries out its stages."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Protocol

from orchestrator.cluster.config import ClusterConfig, RunName
from orchestrator.cluster.node_pool import NodePool, Resources
from orchestrator.progress import Snapshot
from orchestrator.scheduling.ended import Ended
from orchestrator.scheduling.placement import Start
from orchestrator.scheduling.resources import Node, NodesSeen
from orchestrator.stages.context import RunContext
from orchestrator.workflow.keys import StageKey, StageKind


class Backend(Protocol):
    """A cluster to which a run is connected. Nothing is decided here."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Machines on which stages can be placed now."""

    @property
    def pools(self) -> tuple[NodePool, ...]:
        """Machines that may be added."""

    @property
    def dashboard(self) -> str:
        """Where people see what runs, in words; empty if they cannot."""

    @property
    def is_embedded(self) -> bool:
        """Whether it is this machine alone, and for this run."""

    @property
    def idle_s(self) -> float:
        """After so long without work a machine is given back."""

    def begin(self, context: RunContext, *, separate_trainings: bool) -> None:
        """Prepare to carry out stages of a run.

        Parameters
        ----------
        context
            The run.
        separate_trainings
            Each training gets a process of its own; otherwise one goes on to the next training, which spares a
            miniature the imports of nnU-Net.
        """

    def start(self, start: Start, *, nodes: Collection[Node], quarantined: Collection[str]) -> None:
        """Start a stage: on a machine like the one that was chosen, of these, and on none that is quarantined."""

    def wait(self, *, timeout_s: float) -> Sequence[tuple[StageKey, Ended]]:
        """Return what has ended, as soon as anything has, and nothing after that time."""

    def await_all(self, keys: Collection[StageKey], *, timeout_s: float) -> None:
        """Return when all of these have ended, or after that time."""

    def look_at_nodes(self) -> NodesSeen | None:
        """Return the machines that are there now; None if that was told a moment ago."""

    def ask_for(
        self, missing: Mapping[Resources, int], *, there: Collection[Node], quarantined: Collection[str]
    ) -> None:
        """Let whoever starts machines know how many of each size are missing beside those that are there."""

    def waiting(self) -> Mapping[str, int]:
        """Return how many machines wait in a queue, by pool and reason."""

    def give_back(self, node_id: str) -> None:
        """Let a machine go on which nothing has run for a while; nothing happens where something does after all."""

    def publish(self, snapshot: Snapshot, stage_seconds: Mapping[StageKind, float]) -> None:
        """Show where a run is, and the seconds spent in each kind of stage, where the cluster is watched."""


@contextmanager
def connected_once(connect: "Connect") -> "Iterator[Connect]":
    """Context with a way to connect that does so once, when it is first asked, and keeps that for its whole length.

    Runs that follow each other find the machines of the first one, and the processes that are warm there.
    """
    kept: list[Backend] = []
    with ExitStack() as stack:

        def connect_once(config: ClusterConfig, name: RunName) -> AbstractContextManager[Backend]:
            if not kept:
                kept.append(stack.enter_context(connect(config, name)))
            return nullcontext(kept[0])

        yield connect_once


Connect = Callable[[ClusterConfig, RunName], AbstractContextManager[Backend]]
"""Connects a run to a cluster for the length of a context; raises ClusterError if it cannot be reached."""
