"""What has become of the stages of a graph: done, failed, blocked by a failed one; and which lack nothing any more."""

from collections.abc import Iterable

from orchestrator.scheduling.critical_path import needed_stages
from orchestrator.workflow.graph import Graph
from orchestrator.workflow.keys import StageKey


class Outcomes:
    """The part of the state of a run that only grows, but for what is revived or reopened."""

    def __init__(self, graph: Graph, *, done: Iterable[StageKey], withheld: Iterable[StageKey] = ()) -> None:
        """Begin with the stages whose products exist; nothing is needed until `require` is called."""
        self._graph = graph
        self.done = set(done)
        self.failed: set[StageKey] = set()
        """Given up."""
        self.blocked: set[StageKey] = set()
        """Those that wait, directly or not, for one that was given up."""
        self.needed: list[StageKey] = []
        """The stages that led to a missing result when the run began, in graph order, then what was needed later."""
        self.dependents: dict[StageKey, list[StageKey]] = {key: [] for key in graph}
        """Needed stages that wait for each stage."""
        self._num_open_needs: dict[StageKey, int] = {}
        self._withheld = set(withheld)

    def require(self, results: Iterable[StageKey]) -> list[StageKey]:
        """Let all results be needed but for those that stay withheld; returns the stages that were not before."""
        self._withheld.difference_update(results)
        needed = needed_stages(self._graph, done=self.done, withheld=self._withheld)
        further = [key for key in needed if key not in self._num_open_needs]
        self._add(further)
        self._block_anew()
        return further

    def _add(self, keys: Iterable[StageKey]) -> None:
        for key in keys:
            self.needed.append(key)
            for need in self._graph[key].dependencies:
                self.dependents[need].append(key)
            self._num_open_needs[key] = sum(need not in self.done for need in self._graph[key].dependencies)

    @property
    def over(self) -> set[StageKey]:
        """Stages that will not be carried out any more."""
        return self.done | self.failed | self.blocked

    def finish(self, key: StageKey) -> list[StageKey]:
        """Take note that a stage is done; returns those that lack nothing because of it."""
        self.done.add(key)
        if key in self.blocked:
            self._block_anew()  # it had begun before what it reads was lost
        waiting = [dependent for dependent in self.dependents[key] if dependent not in self.done]
        for dependent in waiting:
            self._num_open_needs[dependent] -= 1
        return [dependent for dependent in waiting if self._num_open_needs[dependent] == 0]

    def can_start(self, key: StageKey) -> bool:
        """Whether a needed stage that does not run lacks nothing, and is not given up."""
        return not self.has_open_dependencies(key) and not any(
            key in over for over in (self.done, self.failed, self.blocked)
        )

    def has_open_dependencies(self, key: StageKey) -> bool:
        """Whether a needed stage waits for others."""
        return self._num_open_needs[key] > 0

    def reopen(self, keys: Iterable[StageKey]) -> list[StageKey]:
        """Let stages count as not done, since what they have made is lost; returns those that were done."""
        reopened = [key for key in keys if key in self.done]
        self.done.difference_update(reopened)
        self._add(key for key in reopened if key not in self._num_open_needs)
        for key in reopened:
            self._num_open_needs[key] = 0
        for key in reopened:
            self._num_open_needs[key] = sum(need not in self.done for need in self._graph[key].dependencies)
            for dependent in self.dependents[key]:
                if dependent not in self.done and dependent not in reopened:
                    self._num_open_needs[dependent] += 1
        return reopened

    def give_up(self, key: StageKey) -> list[StageKey]:
        """Take note that a stage has failed for good; returns those that are newly blocked."""
        self.failed.add(key)
        return self._block_after(key)

    def revive(self, keys: Iterable[StageKey]) -> list[StageKey]:
        """Let stages count as not failed; returns those that were."""
        revived = [key for key in keys if key in self.failed]
        self.failed.difference_update(revived)
        self._block_anew()
        return revived

    def _block_anew(self) -> None:
        self.blocked.clear()
        for key in self.failed:
            self._block_after(key)

    def _block_after(self, key: StageKey) -> list[StageKey]:
        newly_blocked = []
        open_keys = [key]
        while open_keys:
            for dependent in self.dependents[open_keys.pop()]:
                if dependent not in self.blocked and dependent not in self.done:
                    self.blocked.add(dependent)
                    newly_blocked.append(dependent)
                    open_keys.append(dependent)
        return newly_blocked
