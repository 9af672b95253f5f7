"""What a failure means: how often it is tried again, after how long, and which node is to be left alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.errors import GpuError, OrchestratorError


class FailureKind(StrEnum):
    """Why a stage has ended without its products."""

    PREEMPTION = "preemption"
    """It was asked to stop, or its machine was taken away: nothing is wrong with it."""
    CRASH = "crash"
    """Its process ended without a word: killed from outside, or by a fault of native code; nobody can tell which."""
    TRANSIENT = "transient"
    """Storage or cluster failed; a later attempt can succeed."""
    GPU = "gpu"
    """A GPU cannot be used or has failed: its machine is broken."""
    DETERMINISTIC = "deterministic"
    """Out of memory, a bad case or a bug: another attempt would end the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryRule:
    """How often a stage is tried, counted since it last made progress, and how long it waits between two attempts."""

    max_attempts: float
    """The most attempts; infinite where a failure says nothing about the stage."""
    first_wait_s: float = 0.0
    """Before the second attempt."""
    factor: float = 1.0
    """By which each further wait is longer."""
    max_wait_s: float = 600.0
    """The longest wait."""

    def wait_s(self, num_failures: int) -> float:
        """Return how long to wait after so many failures in a row, from 1."""
        return min(self.first_wait_s * self.factor ** (num_failures - 1), self.max_wait_s)


RETRY_RULES = {
    FailureKind.PREEMPTION: RetryRule(max_attempts=float("inf")),
    FailureKind.CRASH: RetryRule(max_attempts=10, first_wait_s=1.0, factor=2.0, max_wait_s=60.0),
    FailureKind.GPU: RetryRule(max_attempts=10, first_wait_s=1.0, factor=2.0, max_wait_s=60.0),
    FailureKind.TRANSIENT: RetryRule(max_attempts=3, first_wait_s=10.0, factor=6.0),
    FailureKind.DETERMINISTIC: RetryRule(max_attempts=1),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Try the stage again."""

    attempt: int
    """Number of the next attempt, from 2."""
    wait_s: float = 0.0
    """Time until it may start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GiveUp:
    """The stage has failed for good, and with it all that needs it."""

    blocked: tuple[str, ...]
    """Ids of the stages that can no longer be done."""


class FailureCounts:
    """Failures in a row of each stage, by kind."""

    def __init__(self) -> None:
        self._in_a_row: dict[str, Counter[FailureKind]] = {}

    def failed(self, stage_id: str, *, kind: FailureKind) -> float | None:
        """Count a failure; return the seconds until the next attempt, None if there shall be none."""
        counts = self._in_a_row.setdefault(stage_id, Counter())
        counts[kind] += 1
        rule, number = RETRY_RULES[kind], counts[kind]
        return rule.wait_s(number) if number < rule.max_attempts else None

    def made_progress(self, stage_id: str) -> None:
        """Begin to count anew: what goes on a little further at each attempt will end."""
        self._in_a_row.pop(stage_id, None)


NUM_VICTIMS = 2
"""Different stages that must fail on a node, and none succeed, until it counts as broken; or failures of its GPU."""


class NodeRecords:
    """What has happened on each node; a node on which everything fails is shunned.

    One bad training does not condemn a node: it takes failures of different trainings, and a single success of
    anything acquits it: without a GPU of failures without one, with it of those with it. Nothing acquits it of a GPU
    that does not work. Failures of other places (a preemption, a storage that is down) do not count.
    """

    def __init__(self) -> None:
        self._victims: defaultdict[tuple[str, bool], set[str]] = defaultdict(set)
        self._acquitted: set[tuple[str, bool]] = set()
        self._gpu_failures: Counter[str] = Counter()
        self.shunned: set[str] = set()
        """Nodes that shall get nothing more."""

    def succeeded(self, node: str, *, on_gpu: bool) -> None:
        """Take note that a stage was done, or made progress, on a node."""
        self._acquitted.add((node, on_gpu))

    def failed(
        self, node: str, stage_id: str, *, on_gpu: bool, kind: FailureKind, other_nodes: Iterable[str]
    ) -> tuple[str, ...]:
        """Count a failure.

        Parameters
        ----------
        node
            Where it was.
        stage_id
            What failed.
        on_gpu
            Whether it used a GPU.
        kind
            How.
        other_nodes
            Where the work could go instead; the last usable node is never shunned.

        Returns
        -------
        tuple of str
            If the node is shunned from now on, the stages that have failed there: it was not their fault. Otherwise
            empty.
        """
        where = (node, on_gpu)
        if kind is FailureKind.GPU:
            self._gpu_failures[node] += 1
        elif kind not in {FailureKind.DETERMINISTIC, FailureKind.CRASH} or where in self._acquitted:
            return ()
        self._victims[where].add(stage_id)
        is_broken = max(len(self._victims[where]), self._gpu_failures[node]) >= NUM_VICTIMS
        if not is_broken or node in self.shunned or not set(other_nodes) - self.shunned - {node}:
            return ()
        self.shunned.add(node)
        return tuple(sorted(self._victims.pop(where)))


def kind_of(error: BaseException) -> FailureKind:
    """Classify an error that a stage itself has raised."""
    if getattr(error, "is_preemption", False):
        return FailureKind.PREEMPTION
    if isinstance(error, GpuError):
        return FailureKind.GPU
    if isinstance(error, OrchestratorError) and error.can_retry:
        return FailureKind.TRANSIENT
    return FailureKind.DETERMINISTIC
