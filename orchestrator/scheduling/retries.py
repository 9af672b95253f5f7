"""What a failure means: how often it is tried again, after how long, and which node is to be left alone for a while."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.scheduling.ended import FailureKind
from orchestrator.workflow.keys import StageKey


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
    FailureKind.GPU: RetryRule(max_attempts=20, first_wait_s=1.0, factor=2.0, max_wait_s=60.0),
    # Half an hour: as long as a file server may take to come back.
    FailureKind.TRANSIENT: RetryRule(max_attempts=6, first_wait_s=10.0, factor=6.0),
    FailureKind.MEMORY: RetryRule(max_attempts=5, first_wait_s=30.0, factor=2.0),
    # Four minutes: a machine that has just joined gets its files, one that is overloaded its memory. Elsewhere at once.
    FailureKind.MACHINE: RetryRule(max_attempts=8, first_wait_s=2.0, factor=2.0, max_wait_s=120.0),
    FailureKind.DETERMINISTIC: RetryRule(max_attempts=1),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Try the stage again."""

    attempt: int
    """Number of the next attempt, from 2."""
    wait_s: float = 0.0
    """Time until it may start."""
    reopened: tuple[StageKey, ...] = ()
    """Stages that were done and are carried out again before it: what they had made is lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GiveUp:
    """The stage has failed for good, and with it all that needs it."""

    blocked: tuple[StageKey, ...]
    """Stages that can no longer be done."""


class FailureCounts:
    """Failures in a row of each stage, by kind."""

    def __init__(self) -> None:
        self._in_a_row: dict[StageKey, Counter[FailureKind]] = {}

    def failed(self, key: StageKey, *, kind: FailureKind) -> float | None:
        """Count a failure; return the seconds until the next attempt, None if there shall be none."""
        counts = self._in_a_row.setdefault(key, Counter())
        counts[kind] += 1
        rule, number = RETRY_RULES[kind], counts[kind]
        return rule.wait_s(number) if number < rule.max_attempts else None

    def made_progress(self, key: StageKey) -> None:
        """Begin to count anew: what goes on a little further at each attempt will end."""
        self._in_a_row.pop(key, None)


NUM_FAILED_STAGES = 2
"""Different stages that fail on a node, with no success between them, or failures of its GPU, that quarantine it."""
FIRST_QUARANTINE_S = 30.0
"""How long a node is left alone; each further time is twice as long, unless it went well for `LONGEST_QUARANTINE_S`."""
LONGEST_QUARANTINE_S = 3600.0
"""The longest time; also for how long a failure of a GPU counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Quarantine:
    until_s: float
    length_s: float


class NodeRecords:
    """What has happened on each node; a node on which everything fails is quarantined for a while.

    A node that is broken fails fast, and so would be free for each stage that comes next. When different stages have
    failed on it, one after the other, it gets nothing for a time, and what failed there is tried elsewhere. A success
    wipes out what was before: of a stage without a GPU the failures of such stages, of one with a GPU those of others
    with one. It does not wipe out failures of a GPU, since a machine may have others that work. A stage that has failed
    on a second node too is at fault itself and says nothing about a node. A preemption never does. An error that is of
    the machine by its very words has it quarantined at once.
    """

    def __init__(self) -> None:
        self._failed_stages: defaultdict[tuple[str, bool], set[StageKey]] = defaultdict(set)
        self._failed_on: defaultdict[StageKey, set[str]] = defaultdict(set)
        self._gpu_failures_s: defaultdict[str, list[float]] = defaultdict(list)
        self._latest: dict[str, _Quarantine] = {}
        self.quarantined: set[str] = set()
        """Nodes that shall get nothing now."""

    @property
    def next_end_s(self) -> float:
        """When the next quarantine ends; infinite if there is none."""
        return min((self._latest[node].until_s for node in self.quarantined), default=float("inf"))

    def release(self, now_s: float) -> list[str]:
        """Return, once, the nodes whose quarantine has ended."""
        released = sorted(node for node in self.quarantined if self._latest[node].until_s <= now_s)
        self.quarantined.difference_update(released)
        return released

    def succeeded(self, node: str, key: StageKey, *, on_gpu: bool) -> None:
        """Take note that a stage was done, or made progress, on a node."""
        self._failed_stages.pop((node, on_gpu), None)
        self._failed_on.pop(key, None)

    def failed(
        self, node: str, key: StageKey, *, on_gpu: bool, kind: FailureKind, other_nodes: Iterable[str], now_s: float
    ) -> tuple[StageKey, ...]:
        """Count a failure.

        Parameters
        ----------
        node
            Where it was.
        key
            What failed.
        on_gpu
            Whether it used a GPU.
        kind
            How.
        other_nodes
            Where the stage could go instead; without any the node goes on.
        now_s
            When.

        Returns
        -------
        tuple of StageKey
            If the node is quarantined from now on, the stages that have failed there; if it was before, this one: it
            was not their fault. Otherwise empty.
        """
        if kind is FailureKind.PREEMPTION:
            return ()
        failed_stages = self._failed_stages[node, on_gpu]
        failed_stages.add(key)
        num_failures = len(failed_stages)
        if kind is FailureKind.GPU:
            num_failures = max(num_failures, self._count_of_gpu(node, now_s))
        elif kind is FailureKind.MACHINE:
            num_failures = NUM_FAILED_STAGES
        else:
            self._failed_on[key].add(node)
            if len(self._failed_on[key]) > 1:
                self._is_at_fault(key)
                return ()
        if node in self.quarantined:
            return (key,)  # it had begun before
        if num_failures < NUM_FAILED_STAGES or not set(other_nodes) - self.quarantined - {node}:
            return ()
        self._quarantine(node, now_s)
        return tuple(sorted(failed_stages))

    def _count_of_gpu(self, node: str, now_s: float) -> int:
        """Count one more failure of a GPU; return how many there were lately."""
        recent = [at_s for at_s in self._gpu_failures_s[node] if now_s - at_s < LONGEST_QUARANTINE_S]
        self._gpu_failures_s[node] = [*recent, now_s]
        return len(recent) + 1

    def _is_at_fault(self, key: StageKey) -> None:
        for failed_stages in self._failed_stages.values():
            failed_stages.discard(key)

    def _quarantine(self, node: str, now_s: float) -> None:
        before, length_s = self._latest.get(node), FIRST_QUARANTINE_S
        if before is not None and now_s - before.until_s <= LONGEST_QUARANTINE_S:
            length_s = min(2 * before.length_s, LONGEST_QUARANTINE_S)
        self._latest[node] = _Quarantine(until_s=now_s + length_s, length_s=length_s)
        self.quarantined.add(node)
