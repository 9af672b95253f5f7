"""What stands in the cells of tables: scores in percent, published ones beside them, and remarks."""

import math

from orchestrator.report.study_tables.table_rows import TableRow
from orchestrator.report.texts.numbers import one_decimal


def scores_of(row: TableRow, metric: str) -> tuple[str, str]:
    """Return our score of a row by `dsc` or `nsd`, and the published one with the mark of an erratum."""
    ours, theirs = row.summary, row.published
    own = score_text(getattr(ours, f"{metric}_mean"), getattr(ours, f"{metric}_std"))
    if theirs is None:
        return own, ""
    mark = " †" if getattr(theirs, f"{metric}_erratum") else ""
    return own, score_text(getattr(theirs, f"{metric}_mean"), getattr(theirs, f"{metric}_std")) + mark


def remarks_on(row: TableRow) -> list[str]:
    """Return what a row lacks, and what its scores leave out."""
    summary = row.summary
    remarks = [row.state] if row.state else []
    remarks += [f"{summary.num_both_empty} both empty"] if summary.num_both_empty else []
    return remarks + ([f"{summary.num_missing} missing"] if summary.num_missing else [])


def score_text(mean: float, std: float) -> str:
    """Return `85.8 ± 10.5`, without the deviation of a single case, or a dash for nothing."""
    if math.isnan(mean):
        return "-"
    return one_decimal(mean) + ("" if math.isnan(std) else f" ± {one_decimal(std)}")
