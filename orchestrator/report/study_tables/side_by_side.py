"""A table whose columns are the values of a facet: models, or whatever else is compared, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.benchmark.published import AVERAGE
from orchestrator.benchmark.tables import told_apart
from orchestrator.report.study_tables.cells import remarks_on, scores_of
from orchestrator.report.study_tables.table_rows import FilledTable, TableRow, headline_rows
from orchestrator.report.texts.numbers import measure


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """Cells as text."""

    titles: tuple[str, ...]
    """Of the columns."""
    lines: tuple[tuple[str, ...], ...]


def side_by_side(table: FilledTable) -> SideBySide | None:
    """Return the averages of a table laid out by its facets; None if it has no facet for its columns.

    A line is what the facets of its rows, the evaluation set and the structure have in common; what was published
    stands beside each score that has one.
    """
    facet = table.spec.columns
    if facet is None:
        return None
    rows = headline_rows(table.rows)
    facets = told_apart(table.spec, table.first_of.values())
    values = _in_order([facets[row.group].get(facet) for row in rows], told=table.spec.facets.get(facet, ()))
    names = table.spec.rows or _varying([facets[row.group] for row in rows], but=facet)
    found: dict[tuple[object, ...], dict[object, TableRow]] = {}
    for row in rows:
        own = facets[row.group]
        key = (*(own.get(name, "") for name in names), row.evaluation_set, row.structure)
        found.setdefault(key, {})[own.get(facet)] = row
    metric_titles = {"dsc": "DSC", "nsd": "NSD", **{one.field: one.title for one in table.metrics}}
    shown = [
        (value, metric, is_published)
        for value in values
        for metric in metric_titles
        for is_published in ((False, True) if metric in {"dsc", "nsd"} else (False,))
        if not is_published or any(cells[value].published for cells in found.values() if value in cells)
    ]
    return SideBySide(
        titles=(
            *names,
            *("evaluated on", "structure", "cases"),
            *(f"{value} {metric_titles[name]}{' published' * is_published}" for value, name, is_published in shown),
            "remarks",
        ),
        lines=tuple(_line(key, cells, shown=shown, table=table) for key, cells in found.items()),
    )


def _line(
    key: Sequence[object],
    cells: Mapping[object, TableRow],
    *,
    shown: Sequence[tuple[object, str, bool]],
    table: FilledTable,
) -> tuple[str, ...]:
    *facets, evaluation_set, structure = map(str, key)
    numbers = dict.fromkeys(str(row.summary.num_cases) for row in cells.values())
    remarks = [f"{value}: {remark}" for value, row in cells.items() for remark in _remarks(row, table)]
    scores = [
        _score(cells[value], metric, is_published=is_published) if value in cells else ""
        for value, metric, is_published in shown
    ]
    where = table.set_titles.get(evaluation_set, evaluation_set)
    return (*facets, where, structure.replace("_", " "), " / ".join(numbers), *scores, ", ".join(remarks))


def _score(row: TableRow, metric: str, *, is_published: bool) -> str:
    return measure(row.further[metric]) if metric in row.further else scores_of(row, metric)[is_published]


def _remarks(row: TableRow, table: FilledTable) -> list[str]:
    """Return what a row lacks, other folds than its own among it."""
    is_alone = row.fold != AVERAGE and table.first_of[row.group].num_in_group > 1
    return [*([f"fold {row.fold} alone"] if is_alone else []), *remarks_on(row)]


def _in_order(values: Sequence[object], *, told: Sequence[object]) -> list[object]:
    """Return each value once, in the order of the study's file as far as that has one."""
    return [*(value for value in told if value in values), *dict.fromkeys(v for v in values if v not in told)]


def _varying(facets: Sequence[Mapping[str, object]], *, but: str) -> tuple[str, ...]:
    """Return the facets in which groups differ, beside one."""
    names = dict.fromkeys(name for one in facets for name in one if name != but)
    return tuple(name for name in names if len({one.get(name) for one in facets}) > 1)
