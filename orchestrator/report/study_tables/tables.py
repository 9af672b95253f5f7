"""Writes the tables of a study and their summary from committed rows."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.tables import TableLayout, TableSpec
from orchestrator.report.notes import errata_of_rows, run_notes
from orchestrator.report.reported import Reported
from orchestrator.report.study_tables.formats import to_csv, to_latex, to_markdown
from orchestrator.report.study_tables.table_rows import FilledTable, Scores, fill_table, headline_rows
from orchestrator.report.texts.escaping import in_line, table_line
from orchestrator.results.records import ResultRow
from orchestrator.results.store import from_table
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage


def write_tables(storage: Storage, reported: Reported, *, failed: Collection[str] = ()) -> tuple[str, ...]:
    """Write every table of a run in Markdown, CSV and LaTeX, and a summary; returns their keys, the summary first.

    Trainings without rows get a line that says so. `failed` are the ids of those that cannot be done.
    """
    rows, layout = from_table(reported.of_trainings), reported.layout
    rows_of: dict[str, list[ResultRow]] = {training.id: [] for training in reported.trainings}
    for row in rows:
        rows_of[row.training_id].append(row)
    scores = Scores(
        rows_of=rows_of,
        without=dict.fromkeys(reported.left_out, "not needed") | dict.fromkeys(failed, "failed"),
        published=layout.published,
        metrics=layout.metrics,
    )
    notes = run_notes(reported, rows)
    tables = fill_tables(reported.trainings, layout=layout, scores=scores, notes=notes)
    keys = []
    for table in tables:
        for ending, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
            keys.append(f"{run_paths.TABLES}/{table.spec.name}.{ending}")
            storage.write_bytes(keys[-1], text.encode())
    summary = f"{run_paths.TABLES}/summary.md"
    notes = (*notes, *layout.notes_on(row.score.structure for row in rows))
    storage.write_bytes(
        summary, summary_text(tables, trainings=reported.trainings, scores=scores, notes=notes).encode()
    )
    return (summary, *keys)


def fill_tables(
    trainings: Sequence[Training], *, layout: TableLayout, scores: Scores, notes: Sequence[str]
) -> tuple[FilledTable, ...]:
    """Return every table that has a training, with the notes of the run and of its errata.

    Trainings with scores that none of the study's tables holds have one of their own, the last.
    """
    filled = [(spec, fill_table(spec, trainings, scores=scores)) for spec in layout.specs]
    own, rest = _of_rest(layout.specs), _in_no_table(trainings, layout=layout, scores=scores)
    filled.append((own, fill_table(own, rest, scores=scores)))
    first_of = {training.group: training for training in reversed(trainings)}
    return tuple(
        FilledTable(
            spec=spec,
            rows=rows,
            set_titles=layout.set_titles,
            first_of=first_of,
            notes=(
                *notes,
                *layout.notes_on(row.structure for row in rows),
                *errata_of_rows(rows, errata=scores.published.errata),
            ),
            metrics=scores.metrics,
        )
        for spec, rows in filled
        if rows
    )


def _in_no_table(trainings: Sequence[Training], *, layout: TableLayout, scores: Scores) -> list[Training]:
    """Return the trainings that no table of the study holds, of groups that have scores."""
    rest = [training for training in trainings if not any(spec.holds(training) for spec in layout.specs)]
    scored = {training.group for training in rest if scores.rows_of[training.id]}
    return [training for training in rest if training.group in scored]


def _of_rest(specs: Sequence[TableSpec]) -> TableSpec:
    """Return the table of what is in none of these, by a name that none of them has."""
    name, taken = "others", {spec.name.casefold() for spec in specs}
    while name in taken:
        name += "-"
    return TableSpec(name=name, title="Trainings that are in no table of the study")


def summary_text(
    tables: Sequence[FilledTable], *, trainings: Sequence[Training], scores: Scores, notes: Sequence[str]
) -> str:
    """Return the summary page: the average rows of every table, the notes, what lacks, the errata, the files."""
    lines = ["# Results", "", *(f"> {in_line(note)}\n" for note in notes)]
    for table in tables:
        averages = replace(table, rows=headline_rows(table.rows), notes=())
        lines.append(to_markdown(averages, heading="##"))
    unfinished = [(training.id, scores.state(training.id)) for training in trainings]
    unfinished = [(training_id, state) for training_id, state in unfinished if state != "done"]
    if unfinished:
        lines += ["## Trainings without results", ""]
        lines += [f"- {training_id}: {state}" for training_id, state in unfinished] + [""]
    errata = [*errata_of_rows([row for table in tables for row in table.rows], errata=scores.published.errata)]
    if errata:
        lines += ["## Known errors of the published material", "", "A published value that one touches has its †.", ""]
        lines += [*(f"- {in_line(line)}" for line in errata), ""]
    lines += ["## Files", "", "| what | files |", "|---|---|"]
    for table in tables:
        links = ", ".join(f"[{ending}]({table.spec.name}.{ending})" for ending in ("md", "csv", "tex"))
        lines.append(table_line([table.spec.title, links]))
    lines += [
        "| the same with intervals, comparisons and figures | [report](../report/index.html) |",
        f"| scores of each case, one file a training | `{run_paths.RESULTS}/*.parquet` |",
        f"| what happened, one JSON object a line | `{run_paths.EVENTS}/*.jsonl` |",
        f"| logs of the trainings | `{run_paths.LOGS}/*.log` |",
    ]
    return "\n".join(lines) + "\n"
