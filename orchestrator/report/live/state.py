"""How far a run is, as a page shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

REFRESH_S = 10
"""After which a browser is to ask for the page again."""


class CellState(StrEnum):
    """What has become of a training."""

    DONE = "done"
    UNDER_WAY = "under way"
    FAILED = "failed"
    WAITING = "waiting"
    LEFT_OUT = "not needed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A training."""

    state: CellState
    text: str
    """What stands in the cell: a state is never told by its colour alone."""
    title: str
    """Its id, and what else is to be said of it."""

    @property
    def kind(self) -> str:
        """Name of its style."""
        return self.state.replace(" ", "-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A group of trainings, or of those with one seed."""

    group: str
    cells: tuple[Cell | None, ...]
    """By fold; None where there is no such training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a machine is at."""

    name: str
    trainings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveState:
    """A run at one moment."""

    lines: tuple[Line, ...]
    machines: tuple[Machine, ...]
    remaining: str
    """How long still; empty if that is not known."""
    driver: str
    """Whether anything is at work."""
    time: str
    """When this was so."""

    @property
    def folds(self) -> Sequence[int]:
        """Return the columns."""
        return range(max((len(line.cells) for line in self.lines), default=0))

    @property
    def counts(self) -> str:
        """Return how many trainings are in each state."""
        cells = [cell.state for line in self.lines for cell in line.cells if cell is not None]
        return ", ".join(f"{cells.count(state)} {state}" for state in CellState if state in cells)
