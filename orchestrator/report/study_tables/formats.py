"""One table as Markdown, CSV or LaTeX."""

import csv
import io
import math
from collections.abc import Iterator
from itertools import groupby

from orchestrator.benchmark.published import AVERAGE
from orchestrator.report.study_tables.cells import remarks_on, scores_of
from orchestrator.report.study_tables.side_by_side import side_by_side
from orchestrator.report.study_tables.table_rows import FilledTable, TableRow, headline_rows
from orchestrator.report.texts.escaping import escaped, in_line, table_lines
from orchestrator.report.texts.numbers import measure
from orchestrator.report.texts.table import booktabs

COLUMNS = (
    "trainings", "evaluated on", "structure", "fold", "cases",
    "DSC", "DSC published", "NSD", "NSD published", "remarks",
)  # fmt: skip
_OF_PUBLISHED = frozenset({"DSC published", "NSD published"})
"""Columns of tables beside which anything is published."""


def to_markdown(table: FilledTable, *, heading: str = "#") -> str:
    """Return the table for reading; scores are percentages, mean ± sample SD over cases."""
    lines = [f"{heading} {in_line(table.spec.title)}", "", *[f"> {in_line(note)}\n" for note in table.notes]]
    lines += [
        f"DSC and NSD in percent, mean ± sample SD over cases (averages pool all folds{_of_seeds(table)})"
        f"{_further_note(table)}.",
        "",
    ]
    if beside := side_by_side(table):
        lines += table_lines(beside.titles, beside.lines)
        if headline_rows(table.rows) == tuple(table.rows):
            return "\n".join(lines) + "\n"
        lines += ["", "The same fold by fold:", ""]
    has_folds = any(row.fold != AVERAGE for row in table.rows)
    rows = (
        [f"**{cell}**" if cell and has_folds and row.fold == AVERAGE else cell for cell in _cells(row, table=table)]
        for row in table.rows
    )
    lines += table_lines(_columns(table), rows)
    return "\n".join(lines) + "\n"


def to_csv(table: FilledTable) -> str:
    """Return the table for machines: scores between 0 and 1 with all digits, and in each row what they come from."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ("dsc_mean", "dsc_std", "nsd_mean", "nsd_std")
    writer.writerow(
        ["group", "evaluation_set", "structure", "fold", "num_cases", "num_both_empty", "num_missing", *names]
        + [f"published_{name}" for name in names]
        + ["published_dsc_erratum", "published_nsd_erratum", "state", "preset", "phantoms", "capped"]
        + [f"{one.field}_{part}" for one in table.metrics for part in ("median", "quartile_1", "quartile_3")]
        + ["note"]
    )
    for row in table.rows:
        further = [_number(part) for one in row.further.values() for part in (one.median, one.low, one.high)]
        ours = [_number(getattr(row.summary, name)) for name in names]
        theirs = [_number(getattr(row.published, name)) if row.published else "" for name in names]
        counts = [row.summary.num_cases, row.summary.num_both_empty, row.summary.num_missing]
        errata = [row.published.dsc_erratum, row.published.nsd_erratum] if row.published else ["", ""]
        note = table.first_of[row.group].model.note
        names_of_row = [row.group, row.evaluation_set, row.structure, row.fold]
        writer.writerow([*names_of_row, *counts, *ours, *theirs, *errata, row.state, *_origin(row), *further, note])
    return buffer.getvalue()


def to_latex(table: FilledTable) -> str:
    """Return the table as a booktabs tabular with its notes below; rules stand between its blocks."""
    beside = side_by_side(table)
    caption = f"{table.spec.title}. Percent, mean ± sample SD over cases{_of_seeds(table)}{_further_note(table)}."
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        rf"\caption{{{escaped(caption)}}}",
        *booktabs(
            beside.titles if beside else _columns(table),
            [beside.lines] if beside else _blocks(table),
            notes=table.notes,
        ),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _blocks(table: FilledTable) -> Iterator[list[list[str]]]:
    """Yield the cells of the rows of each group, evaluation set and structure, as they follow each other."""
    for _, rows in groupby(table.rows, key=lambda row: (row.group, row.evaluation_set, row.structure)):
        yield [_cells(row, table=table) for row in rows]


def _columns(table: FilledTable) -> list[str]:
    """Return the titles of the columns; those of published values only where a row has any."""
    has_published = any(row.published for row in table.rows)
    *scores, remarks = (name for name in COLUMNS if has_published or name not in _OF_PUBLISHED)
    return [*scores, *(one.title for one in table.metrics), remarks]


def _of_seeds(table: FilledTable) -> str:
    """Return what one case is in an average where trainings have several seeds."""
    has_seeds = any(table.first_of[row.group].seed is not None for row in table.rows)
    return ", of each case the mean over its seeds" if has_seeds else ""


def _further_note(table: FilledTable) -> str:
    return "; other metrics: median and quartiles" if table.metrics else ""


def _cells(row: TableRow, *, table: FilledTable) -> list[str]:
    """Return the cells of a row as text."""
    cells = (
        row.group,
        table.set_titles.get(row.evaluation_set, row.evaluation_set),
        row.structure.replace("_", " "),
        str(row.fold),
        str(row.summary.num_cases),
        *scores_of(row, "dsc"),
        *scores_of(row, "nsd"),
        ", ".join(remarks_on(row)),
    )
    shown = _columns(table)
    *scores, remarks = (cell for name, cell in zip(COLUMNS, cells, strict=True) if name in shown)
    return [*scores, *(measure(row.further[one.field]) for one in table.metrics), remarks]


def _origin(row: TableRow) -> list[str]:
    """Return preset, and yes or no for phantoms and for capped; nothing where there are no scores."""
    if row.origin is None:
        return ["", "", ""]
    return [
        ", ".join(row.origin.presets),
        *("yes" if is_so else "no" for is_so in (row.origin.are_phantoms, row.origin.is_capped)),
    ]


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
