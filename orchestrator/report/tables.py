"""The paper's tables from committed rows, with the published value beside each of ours."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.benchmark.definition import EvaluationSet, Training
from orchestrator.benchmark.matrix import PatientLeak
from orchestrator.benchmark.published import AVERAGE, PublishedScore, PublishedScores
from orchestrator.report.formats import to_csv, to_latex, to_markdown
from orchestrator.results.aggregate import Summary, summarise
from orchestrator.results.records import ResultRow
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSpec:
    """One table: its trainings are those of one task, subtasks, split and network."""

    name: str
    """Of its files."""
    title: str
    task: int
    subtasks: tuple[str, ...]
    split: str = "20-80"
    network: str = "3d_fullres"

    def holds(self, training: Training) -> bool:
        """Whether a training belongs to the table."""
        same_kind = (training.task, training.split, training.network) == (self.task, self.split, self.network)
        return same_kind and training.subtask in self.subtasks


_LUNG, _LESION, _JOINT = "lung", "infection", "lung-and-infection"
_PAPER = (
    TableSpec(name="table_IV", title="Table IV. Task 1, few-shot learning", task=1, subtasks=(_LUNG, _LESION, _JOINT)),
    TableSpec(name="table_V", title="Table V. Task 2, domain generalisation, lungs", task=2, subtasks=(_LUNG,)),
    TableSpec(name="table_VI", title="Table VI. Task 2, domain generalisation, infection", task=2, subtasks=(_LESION,)),
    TableSpec(name="task_3_lung", title="Task 3, knowledge transfer, lungs", task=3, subtasks=(_LUNG,)),
    TableSpec(name="task_3_infection", title="Task 3, knowledge transfer, infection", task=3, subtasks=(_LESION,)),
)
TABLES = (
    *_PAPER,
    *(
        TableSpec(
            name=f"{spec.name}_2d",
            title=f"{spec.title}, 2D network",
            task=spec.task,
            subtasks=spec.subtasks,
            network="2d",
        )
        for spec in _PAPER
    ),
    TableSpec(
        name="task_1_80_20", title="Task 1 with the 80/20 split", task=1, subtasks=(_LESION, _JOINT), split="80-20"
    ),
)
"""Every table; those without a training in a run are not written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One row: a structure of an evaluation set, in one fold or pooled over all."""

    group: str
    evaluation_set: str
    structure: str
    fold: int | str
    """Number, or `average`."""
    state: str
    """Empty, `pending` or `failed`; for an average, how many folds are missing."""
    summary: Summary
    published: PublishedScore | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FilledTable:
    """A table with its rows."""

    spec: TableSpec
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]
    """Sentences that must stand with the table."""


def write_tables(
    storage: Storage,
    *,
    rows: Sequence[ResultRow],
    trainings: Sequence[Training],
    failed: Collection[str],
    published: PublishedScores,
    leaks: Sequence[PatientLeak],
) -> tuple[str, ...]:
    """Write every table of a run in Markdown, CSV and LaTeX, and a summary; returns their keys, the summary first.

    Parameters
    ----------
    storage
        Output location of the run.
    rows
        All committed rows; those of other trainings are left out.
    trainings
        What the run was asked for: trainings without rows get a line that says so.
    failed
        Ids of the trainings that failed for good.
    published
        The published scores.
    leaks
        Patients in train and test.
    """
    rows_of: dict[str, list[ResultRow]] = {training.id: [] for training in trainings}
    for row in rows:
        if row.training_id in rows_of:
            rows_of[row.training_id].append(row)
    notes = run_notes([row for some in rows_of.values() for row in some], leaks=leaks)
    tables = []
    for spec in TABLES:
        of_table = [training for training in trainings if spec.holds(training)]
        if of_table:
            filled = fill_table(of_table, rows_of=rows_of, failed=failed, published=published)
            erratum_notes = tuple(_errata_notes(filled, published=published))
            tables.append(FilledTable(spec=spec, rows=filled, notes=(*notes, *erratum_notes)))
    keys = []
    for table in tables:
        for ending, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
            key = f"{run_paths.TABLES}/{table.spec.name}.{ending}"
            storage.write_bytes(key, text.encode())
            keys.append(key)
    summary = f"{run_paths.TABLES}/summary.md"
    storage.write_bytes(summary, summary_text(tables, notes=notes, published=published).encode())
    return (summary, *keys)


def fill_table(
    trainings: Sequence[Training],
    *,
    rows_of: dict[str, list[ResultRow]],
    failed: Collection[str],
    published: PublishedScores,
) -> tuple[TableRow, ...]:
    """Return the rows of a table: for each group, evaluation set and structure its folds, then the average."""
    filled: list[TableRow] = []
    for group in dict.fromkeys(training.group for training in trainings):
        members = [training for training in trainings if training.group == group]
        for evaluation in members[0].evaluation_sets:
            for structure in evaluation.structures:
                filled += _block(
                    members, evaluation, structure=structure, rows_of=rows_of, failed=failed, published=published
                )
    return tuple(filled)


def _block(
    members: Sequence[Training],
    evaluation: EvaluationSet,
    *,
    structure: str,
    rows_of: dict[str, list[ResultRow]],
    failed: Collection[str],
    published: PublishedScores,
) -> list[TableRow]:
    """Return one row a fold, and their average where there are several."""
    block, pooled, num_unfinished = [], [], 0
    where = {"group": members[0].group, "evaluation_set": evaluation.name, "structure": structure}
    for training in members:
        of_fold = [
            row
            for row in rows_of[training.id]
            if row.evaluation_set == evaluation.name and row.score.structure == structure
        ]
        state = "" if rows_of[training.id] else ("failed" if training.id in failed else "pending")
        num_unfinished += bool(state)
        pooled += of_fold
        fold_score = published.find(fold=training.fold, **where)
        block.append(
            TableRow(fold=training.fold, state=state, summary=summarise(of_fold), published=fold_score, **where)
        )
    if len(members) > 1:
        state = f"{num_unfinished} of {len(members)} folds missing" if num_unfinished else ""
        average = published.find(fold=AVERAGE, **where)
        block.append(TableRow(fold=AVERAGE, state=state, summary=summarise(pooled), published=average, **where))
    return block


def run_notes(rows: Iterable[ResultRow], *, leaks: Sequence[PatientLeak]) -> tuple[str, ...]:
    """Return what every table of a run must say about its scores."""
    rows = list(rows)
    notes = []
    presets = sorted({row.provenance.preset for row in rows})
    if any(row.provenance.phantoms for row in rows):
        notes.append(
            f"Computed on generated CT phantoms with preset {', '.join(presets)}: the scores show that the pipeline "
            "works and say nothing about patients. They are not comparable with the published values."
        )
    if any(row.provenance.is_capped for row in rows):
        notes.append("Capped: the preset uses a part of the cases of each published split.")
    missing = sum(row.score.status == "missing" for row in rows)
    if missing:
        notes.append(f"{missing} scores are missing for want of a usable prediction; their rows say why.")
    notes += [leak.line for leak in leaks]
    return tuple(notes)


def summary_text(tables: Sequence[FilledTable], *, notes: Sequence[str], published: PublishedScores) -> str:
    """Return the summary page: the average rows of every table, the notes, the errata, the files."""
    lines = ["# Results", ""]
    lines += [f"> {note}\n" for note in notes]
    for table in tables:
        averages = tuple(row for row in table.rows if row.fold == AVERAGE or table.spec.task == 2)
        lines += [to_markdown(FilledTable(spec=table.spec, rows=averages, notes=()), heading="##"), ""]
    lines += ["## Known errors of the published material", ""]
    lines += [f"- {erratum.text}" for erratum in published.errata]
    lines += ["", "## Files", "", "| table | files |", "|---|---|"]
    for table in tables:
        links = ", ".join(f"[{ending}]({table.spec.name}.{ending})" for ending in ("md", "csv", "tex"))
        lines.append(f"| {table.spec.title} | {links} |")
    return "\n".join(lines) + "\n"


def _errata_notes(rows: Sequence[TableRow], *, published: PublishedScores) -> Iterable[str]:
    touched = {row.published.erratum for row in rows if row.published is not None}
    return (f"† {erratum.text}" for erratum in published.errata if erratum.id in touched)
