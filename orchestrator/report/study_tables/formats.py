"""One table as Markdown, CSV or LaTeX."""

import csv
import io
import math
from decimal import ROUND_HALF_UP, Decimal

from orchestrator.benchmark.published import AVERAGE
from orchestrator.report.study_tables.table_rows import FilledTable, TableRow
from orchestrator.report.texts.escaping import escaped

COLUMNS = (
    "trainings", "evaluated on", "structure", "fold", "cases",
    "DSC", "DSC published", "NSD", "NSD published", "remarks",
)  # fmt: skip
_OF_PUBLISHED = frozenset({"DSC published", "NSD published"})
"""Columns of tables beside which anything is published."""


def to_markdown(table: FilledTable, *, heading: str = "#") -> str:
    """Return the table for reading; scores are percentages, mean ± sample SD over cases."""
    lines = [f"{heading} {table.spec.title}", "", *[f"> {note}\n" for note in table.notes]]
    lines += ["DSC and NSD in percent, mean ± sample SD over cases (averages pool all folds).", ""]
    columns = _columns(table)
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    has_folds = any(row.fold != AVERAGE for row in table.rows)
    for row in table.rows:
        cells = _cells(row, table=table)
        if has_folds and row.fold == AVERAGE:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
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
    )
    for row in table.rows:
        ours = [_number(getattr(row.summary, name)) for name in names]
        theirs = [_number(getattr(row.published, name)) if row.published else "" for name in names]
        counts = [row.summary.num_cases, row.summary.num_both_empty, row.summary.num_missing]
        errata = [row.published.dsc_erratum, row.published.nsd_erratum] if row.published else ["", ""]
        names_of_row = [row.group, row.evaluation_set, row.structure, row.fold]
        writer.writerow([*names_of_row, *counts, *ours, *theirs, *errata, row.state, *_origin(row)])
    return buffer.getvalue()


def to_latex(table: FilledTable) -> str:
    """Return the table as a booktabs tabular with its notes below; rules stand between its blocks."""
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        rf"\caption{{{escaped(table.spec.title)}. Percent, mean $\pm$ sample SD over cases.}}",
        rf"\begin{{tabular}}{{{'l' * len(_columns(table))}}}",
        r"\toprule",
        " & ".join(_columns(table)) + r" \\",
    ]
    block = None
    for row in table.rows:
        if (row.group, row.evaluation_set, row.structure) != block:
            lines.append(r"\midrule")
            block = (row.group, row.evaluation_set, row.structure)
        lines.append(" & ".join(escaped(cell) for cell in _cells(row, table=table)) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {escaped(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _columns(table: FilledTable) -> list[str]:
    """Return the titles of the columns; those of published values only where a row has any."""
    has_published = any(row.published for row in table.rows)
    return [name for name in COLUMNS if has_published or name not in _OF_PUBLISHED]


def _cells(row: TableRow, *, table: FilledTable) -> list[str]:
    """Return the cells of a row as text."""
    remarks = [row.state] if row.state else []
    if row.summary.num_both_empty:
        remarks.append(f"{row.summary.num_both_empty} both empty")
    if row.summary.num_missing:
        remarks.append(f"{row.summary.num_missing} missing")
    published_dsc = published_nsd = ""
    if row.published:
        published_dsc = _score(row.published.dsc_mean, row.published.dsc_std) + _mark(row.published.dsc_erratum)
        published_nsd = _score(row.published.nsd_mean, row.published.nsd_std) + _mark(row.published.nsd_erratum)
    cells = (
        row.group,
        table.set_titles.get(row.evaluation_set, row.evaluation_set),
        row.structure.replace("_", " "),
        str(row.fold),
        str(row.summary.num_cases),
        _score(row.summary.dsc_mean, row.summary.dsc_std),
        published_dsc,
        _score(row.summary.nsd_mean, row.summary.nsd_std),
        published_nsd,
        ", ".join(remarks),
    )
    shown = _columns(table)
    return [cell for name, cell in zip(COLUMNS, cells, strict=True) if name in shown]


def _score(mean: float, std: float) -> str:
    """Return `85.8 ± 10.5`, without the deviation of a single case, or a dash for nothing."""
    if math.isnan(mean):
        return "-"
    return _percent(mean) + ("" if math.isnan(std) else f" ± {_percent(std)}")


def _percent(share: float) -> str:
    """Round a half up, as the paper does: as a binary number, 0.7055 lies a little below it."""
    return str((100 * Decimal(repr(float(share)))).quantize(Decimal("0.1"), ROUND_HALF_UP))


def _origin(row: TableRow) -> list[str]:
    """Return preset, and yes or no for phantoms and for capped; nothing where there are no scores."""
    if row.origin is None:
        return ["", "", ""]
    return [
        ", ".join(row.origin.presets),
        *("yes" if is_so else "no" for is_so in (row.origin.are_phantoms, row.origin.is_capped)),
    ]


def _mark(erratum: str) -> str:
    return " †" if erratum else ""


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
