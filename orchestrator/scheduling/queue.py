"""Stages that could start if there were room, the most urgent first; and those that wait before another attempt."""

import heapq
from collections.abc import Callable, Iterator

from orchestrator.scheduling.resources import ResourceRequest
from orchestrator.workflow.keys import StageKey

Urgency = tuple[int, float, int, StageKey]
"""Compared as it is: the smallest goes first."""


class ReadyQueue:
    """One heap for each need: if its first stage finds no room, none behind it does, so nothing is searched.

    A stage that is put in anew or taken out leaves its old entry behind, which is dropped when it comes up.
    """

    def __init__(self) -> None:
        self._heaps: dict[ResourceRequest, list[tuple[Urgency, int]]] = {}
        self._valid: dict[StageKey, int] = {}
        self._delayed: list[tuple[float, StageKey]] = []
        self._are_delayed: set[StageKey] = set()
        self._num_put = 0

    def __contains__(self, key: StageKey) -> bool:
        return key in self._valid

    def __len__(self) -> int:
        return len(self._valid) + len(self._delayed)

    def put(self, need: ResourceRequest, urgency: Urgency) -> None:
        """Add a stage, whose id ends its urgency; a stage that is in gets the new urgency."""
        self._num_put += 1
        self._valid[urgency[-1]] = self._num_put
        heapq.heappush(self._heaps.setdefault(need, []), (urgency, self._num_put))

    def take_out(self, key: StageKey) -> None:
        """Remove a stage that is in."""
        del self._valid[key]

    def delay(self, key: StageKey, *, until_s: float) -> None:
        """Keep a stage until a moment; `due` gives it back."""
        self._are_delayed.add(key)
        heapq.heappush(self._delayed, (until_s, key))

    def is_delayed(self, key: StageKey) -> bool:
        """Whether a stage is kept until its wait is over."""
        return key in self._are_delayed

    def due(self, now_s: float) -> Iterator[StageKey]:
        """Yield the stages whose wait is over."""
        while self._delayed and self._delayed[0][0] <= now_s:
            _, key = heapq.heappop(self._delayed)
            self._are_delayed.discard(key)
            yield key

    @property
    def next_due_s(self) -> float:
        """When the first wait is over; infinite without any."""
        return self._delayed[0][0] if self._delayed else float("inf")

    def first(self, need: ResourceRequest) -> StageKey | None:
        """Return the most urgent stage with this need."""
        heap = self._heaps.get(need, [])
        while heap and self._valid.get(heap[0][0][-1]) != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0][-1] if heap else None

    def take_first(self, allocate: Callable[[ResourceRequest], str | None]) -> tuple[StageKey, str] | None:
        """Take out the most urgent stage that finds room; return it with its node.

        Parameters
        ----------
        allocate
            Finds room for a need, and takes it.
        """
        needs = [need for need in self._heaps if self.first(need) is not None]
        for need in sorted(needs, key=lambda need: self._heaps[need][0]):
            node_id = allocate(need)
            if node_id is not None:
                key = heapq.heappop(self._heaps[need])[0][-1]
                self.take_out(key)
                return key, node_id
        return None

    def ids(self) -> Iterator[StageKey]:
        """Yield every stage that could start now."""
        yield from self._valid
