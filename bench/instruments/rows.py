"""What a benchmark of the feed measures, as rows of one table."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measure: how many times better ours is than stock (or what share of it ours is), over repetitions."""

    measure: str
    """What was compared, in a few words, with the case."""
    values: Sequence[float]
    """A value a repetition or case, never empty; NaN where only `ours` says something."""
    must: float
    """The goal; NaN where there is none."""
    better: float = math.nan
    """The higher goal."""
    is_less_better: bool = False
    """For shares (bytes) rather than factors (speed)."""
    stock: str = ""
    """What stock took, with its unit."""
    ours: str = ""
    """What ours took, with its unit."""

    def named(self, measure: str) -> "Row":
        """Return the row under another name."""
        return replace(self, measure=measure)

    @property
    def median(self) -> float:
        """Median of the values."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Which goal the median reaches."""
        if math.isnan(self.must):
            return ""
        sign = -1 if self.is_less_better else 1
        if sign * self.median >= sign * self.better:
            return "better"
        return "reached" if sign * self.median >= sign * self.must else "missed"


COLUMNS = ("measure", "min", "median", "max", "must", "better", "verdict", "stock", "ours")


def merged(rows: Iterable[Row]) -> list[Row]:
    """Join the values of rows with the same name, in the order in which the names came."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.measure, []).append(row)
    return [
        replace(
            group[0],
            values=[value for row in group for value in row.values],
            stock=" / ".join(row.stock for row in group),
            ours=" / ".join(row.ours for row in group),
        )
        for group in groups.values()
    ]


def format_rows(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    cells = [COLUMNS, tuple("---" for _ in COLUMNS), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = (
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    )
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    goals = (row.must, row.better)
    numbers = (min(row.values), row.median, max(row.values))
    return (
        row.measure,
        *("" if math.isnan(number) else f"{number:.2f}" for number in numbers),
        *("" if math.isnan(goal) else f"{goal:g}" for goal in goals),
        row.verdict,
        row.stock,
        row.ours,
    )
