"""In which order the trainings of a study are looked at, where a run ends once its questions are answered.

Everything is planned before anything is trained: what is tested, and which trainings each look adds. What is decided at
a look depends on these trainings alone, and not on the order in which they end.
"""

from typing import Annotated

from pydantic import Field

from orchestrator.configuration import Entry


class DifferenceKey(Entry):
    """What a test is of: a group of trainings against another, in one structure and metric."""

    baseline: str
    """Group."""
    against: str
    """Group."""
    evaluation_set: str
    structure: str
    metric: str


class LookPlan(Entry):
    """The looks of a run, as its record has them."""

    tests: Annotated[list[DifferenceKey], Field(min_length=1)]
    """Those that share the error."""
    looks: Annotated[list[list[str]], Field(min_length=1)]
    """Ids of the trainings that each look adds."""

    @property
    def groups(self) -> frozenset[str]:
        """All that are compared."""
        return frozenset(group for test in self.tests for group in (test.baseline, test.against))

    @property
    def trainings(self) -> frozenset[str]:
        """All of the looks."""
        return self.until(len(self.looks))

    def until(self, num_looks: int) -> frozenset[str]:
        """Return the trainings of the first looks."""
        return frozenset(id_ for look in self.looks[:num_looks] for id_ in look)
