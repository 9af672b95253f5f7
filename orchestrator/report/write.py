"""Writes the report of a run from its committed scores and its events."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.study import Study
from orchestrator.benchmark.tables import TableLayout
from orchestrator.events import finite_or_null
from orchestrator.report.answers import Answer
from orchestrator.report.content import make_page
from orchestrator.report.data_dictionary import data_dictionary
from orchestrator.report.notes import run_notes
from orchestrator.report.page import Page, to_html
from orchestrator.report.pictures import pictures
from orchestrator.report.scores_frame import scores_frame
from orchestrator.results.store import from_table
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage


def write_report(
    storage: Storage,
    *,
    table: pa.Table,
    study: Study,
    trainings: Sequence[Training],
    layout: TableLayout,
    failures: Mapping[str, str],
    events: Sequence[Mapping[str, Any]] = (),
    warnings: Sequence[str] = (),
) -> str:
    """Write the files of a report and then its page; returns the key of that.

    Parameters
    ----------
    storage
        Output location of the run.
    table
        Committed rows, as the results store has them.
    study
        What was asked.
    trainings
        Those that the run was asked for.
    layout
        Titles, published values and comparisons of the study.
    failures
        Stage that failed for good to its text.
    events
        Of the run, for the figures of how it went.
    warnings
        What is hardly right about the data.
    """
    ids = {training.id for training in trainings}
    of_trainings = table.filter(pc.is_in(table["training_id"], pa.array(sorted(ids), pa.string())))
    rows = scores_frame(table.to_pandas(), study=study, trainings=trainings)
    page = make_page(
        rows, location=storage.location, study=study, trainings=trainings, layout=layout, failures=failures,
        events=events, notes=run_notes(
            from_table(of_trainings), trainings=trainings, leaks=study.patient_leaks(trainings), warnings=warnings
        ),
        shown=list(pictures(rows, study=study, trainings=trainings, storage=storage)),
    )  # fmt: skip
    contents = {
        "scores.csv": rows.drop(columns=["order"]).to_csv(index=False).encode(),
        "scores.parquet": _parquet(of_trainings),
        "data_dictionary.md": data_dictionary(table.schema.names).encode(),
        "summary.json": _summary(page).encode(),
        "methods.md": f"{page.methods}\n".encode(),
    }
    for name, content in contents.items():
        storage.write_bytes(f"{run_paths.REPORT}/{name}", content)
    storage.write_bytes(run_paths.REPORT_PAGE, to_html(page).encode())
    return run_paths.REPORT_PAGE


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _summary(page: Page) -> str:
    """Return the tables of a page as JSON."""
    content = {
        "title": page.title,
        "state": page.state,
        "notes": page.notes,
        "scores": [asdict(row) for row in page.rows],
        "answers": [_answer(one) for one in page.answers],
        "published": [asdict(one) for one in page.published],
    }
    return json.dumps(finite_or_null(content), indent=1) + "\n"


def _answer(found: Answer) -> dict[str, Any]:
    return {
        "question": found.spec.title,
        "sentence": found.sentence,
        "num_tests": found.num_tests,
        "differences": [{**asdict(one), "verdict": one.verdict} for one in found.differences],
    }
