"""Where running stages are: where the schedule has put them, until they tell."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.pipeline.processors import Need, Processors


@dataclass(kw_only=True, slots=True)
class Attempt:
    """A stage that runs."""

    node: str
    need: Need
    remaining_s: float
    """Of a training, on a GPU of speed 1, at `at_s`."""
    at_s: float
    since_s: float
    has_told: bool = False
    """Whether it is known to be on this node: of machines of one kind the cluster takes any that has room."""


def found_on(node: str, attempt: Attempt, *, running: Mapping[str, Attempt], processors: Processors) -> None:
    """Take note that a running stage is on a node; where that is full, who was believed there is where it was.

    Parameters
    ----------
    node
        Where it says that it is; a node that is gone is not believed.
    attempt
        Of the stage.
    running
        All stages that run.
    processors
        On which both are accounted for.
    """
    if not processors.has(node):
        return
    if node != attempt.node:
        if not processors.has_room(node, attempt.need):
            for other in running.values():
                if other.node == node and other.need == attempt.need and not other.has_told:
                    other.node, attempt.node = attempt.node, node
                    break
        if attempt.node != node:
            processors.release(attempt.node, attempt.need)
            processors.take(node, attempt.need)
            attempt.node = node
    attempt.has_told = True
