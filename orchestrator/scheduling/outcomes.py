"""What has become of the stages of a graph: done, failed, blocked by a failed one; and which lack nothing any more."""

from collections.abc import Iterable, Mapping

from orchestrator.scheduling.critical_path import needed_stages
from orchestrator.workflow.graph import Stage


class Outcomes:
    """The part of the state of a run that only grows, but for what is revived or reopened."""

    def __init__(self, graph: Mapping[str, Stage], *, done: Iterable[str]) -> None:
        """Begin with the stages whose products exist."""
        self._graph = graph
        self.done = set(done)
        self.failed: set[str] = set()
        """Given up."""
        self.blocked: set[str] = set()
        """Those that wait, directly or not, for one that was given up."""
        self.needed = needed_stages(graph, done=self.done)
        """The stages that led to a missing result when the run began, in graph order, then those that were reopened."""
        self.dependents: dict[str, list[str]] = {stage_id: [] for stage_id in graph}
        """Needed stages that wait for each stage."""
        self._num_open_needs: dict[str, int] = {}
        for stage_id in self.needed:
            for need in graph[stage_id].dependencies:
                self.dependents[need].append(stage_id)
            self._num_open_needs[stage_id] = sum(need not in self.done for need in graph[stage_id].dependencies)

    @property
    def over(self) -> set[str]:
        """Stages that will not be carried out any more."""
        return self.done | self.failed | self.blocked

    def without_needs(self) -> list[str]:
        """Return the needed stages for which nothing is missing."""
        return [stage_id for stage_id, number in self._num_open_needs.items() if number == 0]

    def finish(self, stage_id: str) -> list[str]:
        """Take note that a stage is done; returns those that lack nothing because of it."""
        self.done.add(stage_id)
        if stage_id in self.blocked:
            self._block_anew()  # it had begun before what it reads was lost
        waiting = [dependent for dependent in self.dependents[stage_id] if dependent not in self.done]
        for dependent in waiting:
            self._num_open_needs[dependent] -= 1
        return [dependent for dependent in waiting if self._num_open_needs[dependent] == 0]

    def lacks(self, stage_id: str) -> bool:
        """Whether a needed stage waits for others."""
        return self._num_open_needs[stage_id] > 0

    def reopen(self, stage_ids: Iterable[str]) -> list[str]:
        """Let stages count as not done, since what they have made is lost; returns those that were done."""
        reopened = [stage_id for stage_id in stage_ids if stage_id in self.done]
        self.done.difference_update(reopened)
        for stage_id in reopened:
            if stage_id not in self._num_open_needs:
                self.needed.append(stage_id)
                for need in self._graph[stage_id].dependencies:
                    self.dependents[need].append(stage_id)
            self._num_open_needs[stage_id] = 0
        for stage_id in reopened:
            self._num_open_needs[stage_id] = sum(need not in self.done for need in self._graph[stage_id].dependencies)
            for dependent in self.dependents[stage_id]:
                if dependent not in self.done and dependent not in reopened:
                    self._num_open_needs[dependent] += 1
        return reopened

    def give_up(self, stage_id: str) -> list[str]:
        """Take note that a stage has failed for good; returns those that are newly blocked."""
        self.failed.add(stage_id)
        return self._block_after(stage_id)

    def revive(self, stage_ids: Iterable[str]) -> list[str]:
        """Let stages count as not failed; returns those that were."""
        revived = [stage_id for stage_id in stage_ids if stage_id in self.failed]
        self.failed.difference_update(revived)
        self._block_anew()
        return revived

    def _block_anew(self) -> None:
        self.blocked.clear()
        for stage_id in self.failed:
            self._block_after(stage_id)

    def _block_after(self, stage_id: str) -> list[str]:
        newly_blocked = []
        open_ids = [stage_id]
        while open_ids:
            for dependent in self.dependents[open_ids.pop()]:
                if dependent not in self.blocked and dependent not in self.done:
                    self.blocked.add(dependent)
                    newly_blocked.append(dependent)
                    open_ids.append(dependent)
        return newly_blocked
