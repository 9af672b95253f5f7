"""Writes the report of a run from its committed scores and its events."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from orchestrator.benchmark.tables import TableLayout
from orchestrator.events import finite_or_null
from orchestrator.report import figures
from orchestrator.report.answers import Answer, Decision, Difference
from orchestrator.report.content import RANK_FILES, make_page
from orchestrator.report.data_dictionary import data_dictionary
from orchestrator.report.looks.decisions import Decisions
from orchestrator.report.page import Figure, Page
from orchestrator.report.pictures import pictures
from orchestrator.report.ranks import rank_files
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import as_csv, patient_of_case, scores_frame
from orchestrator.report.search import search_section
from orchestrator.report.submissions.frame import submitted_frame
from orchestrator.report.texts.methods import evaluated_weights
from orchestrator.report.texts.rendering import latex_tables, methods_text, to_html, to_markdown
from orchestrator.results.curves import read_curve
from orchestrator.results.trials import read_search
from orchestrator.scoring.submitted import submitted_rows
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_values import JsonMapping, JsonObject

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WholePage:
    """A page and the scores that it is of."""

    page: Page
    rows: "pd.DataFrame"
    """Of the trainings."""
    submitted: "pd.DataFrame | None"
    """Of label maps that others have made, if there are any."""


def page_of(
    storage: Storage,
    *,
    reported: Reported,
    failures: Mapping[str, str],
    events: Sequence[JsonMapping] = (),
) -> WholePage:
    """Return the page of a report; parameters as those of `write_report`."""
    rows = scores_frame(reported)
    of_others = submitted_rows(storage, study=reported.study, trainings=reported.trainings)
    submitted = None
    if of_others is not None:
        num_groups = len({training.group for training in reported.trainings})
        submitted = submitted_frame(
            of_others,
            patients=patient_of_case(reported.study),
            first_order=num_groups,
            further=reported.study.metrics,
        )
    # The matrices of its statistics are tiny: threads that share one wait for each other, on a busy machine for long.
    with threadpool_limits(limits=1, user_api="blas"):
        page = make_page(
            reported, rows, location=storage.location, failures=failures, events=events, submitted=submitted
        )
    search = read_search(storage) if reported.study.is_search else None
    page = replace(
        page,
        figures=(*page.figures, *_figures_of_curves(storage, reported)),
        pictures=tuple(pictures(rows, reported=reported, storage=storage)),
        search=search_section(search) if search else None,
    )
    return WholePage(page=page, rows=rows, submitted=submitted)


def _figures_of_curves(storage: Storage, reported: Reported) -> list[Figure]:
    """Return how whole validation cases were scored while trainings ran, if some have looked at them."""
    there = set(storage.list_keys(run_paths.TRAININGS))
    keys = {one.id: run_paths.validation_curve(one.id) for one in reported.trainings}
    curves = {name: read_curve(storage, key) for name, key in keys.items() if key in there}
    weights = evaluated_weights([one for one in reported.trainings if one.id in curves])
    caption = (
        "Whole validation cases while trainings ran, one line a training: means over structures and cases, on the grid "
        f"of the training and without mirroring. What is evaluated: {weights}."
    )
    return [Figure(svg=figures.validation_curves(curves), caption=caption)] if curves else []


def write_report(
    storage: Storage,
    *,
    reported: Reported,
    failures: Mapping[str, str],
    events: Sequence[JsonMapping] = (),
) -> str:
    """Write the files of a report and then its page; returns the key of that.

    Parameters
    ----------
    storage
        Output location of the run.
    reported
        What it is about.
    failures
        Stage that failed for good to its text.
    events
        Of the run, for the figures of how it went.
    """
    found = page_of(storage, reported=reported, failures=failures, events=events)
    scores, table = as_csv(found.rows), reported.of_trainings
    columns = dict.fromkeys([*table.schema.names, *scores.columns])
    contents = {
        "scores.csv": scores.to_csv(index=False).encode(),
        "scores.parquet": parquet_of(table),
        "data_dictionary.md": data_dictionary(
            list(columns), further=reported.layout.metrics, set_titles=reported.layout.set_titles
        ).encode(),
        "references.bib": bibliography(reported.layout).encode(),
        **rank_files(found.page.rankings),
    }
    if found.submitted is not None:
        contents["submitted_scores.csv"] = found.submitted.drop(columns=["order"]).to_csv(index=False).encode()
    write_page(storage, found.page, beside=contents)
    return run_paths.REPORT_PAGE


def write_page(storage: Storage, page: Page, *, beside: Mapping[str, bytes]) -> None:
    """Write a page after all files beside it: those that are made of it, and others with their contents."""
    contents = {
        **beside,
        "summary.json": _summary(page).encode(),
        "methods.md": methods_text(page).encode(),
        "report.md": to_markdown(page).encode(),
        "tables.tex": latex_tables(page).encode(),
    }
    for name in {name for name, _ in RANK_FILES}.difference(contents):
        storage.delete(f"{run_paths.REPORT}/{name}")
    for name, content in contents.items():
        storage.write_bytes(f"{run_paths.REPORT}/{name}", content)
    storage.write_bytes(run_paths.REPORT_PAGE, to_html(page).encode())


def bibliography(layout: TableLayout | None = None) -> str:
    """Return what whoever uses a report cites: methods, and what the study names, if there is one."""
    of_methods = Path(__file__).with_name("templates").joinpath("references.bib").read_text(encoding="utf-8")
    return "\n".join(filter(None, (of_methods, layout.references if layout else "")))


def parquet_of(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
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
        **({"looks": _looks(page.decisions)} if page.decisions else {}),
        "published": [asdict(one) for one in page.published],
        "parts": [asdict(one) for one in page.parts],
        "gaps": [asdict(one) for one in page.gaps],
        "usage": None if page.usage is None else asdict(page.usage),
        "cost": None if page.cost is None else asdict(page.cost),
        "ranks": [{"title": one.title, **asdict(one.board)} for one in page.rankings],
    }
    return json.dumps(finite_or_null(content), indent=1) + "\n"


def _answer(found: Answer) -> JsonObject:
    return {
        "question": found.spec.title,
        "sentence": found.sentence,
        "num_tests": found.num_tests,
        "differences": [_difference(one) for one in found.differences],
    }


def _looks(found: Decisions) -> JsonObject:
    return {
        "planned": found.num_planned,
        "looks": [asdict(one) for one in found.looks],
        "waits_for": list(found.lacking),
        "left_out": dict(found.left_out),
        "tests": [{**_decision(one), "verdict": one.verdict} for one in found.tests],
    }


def _decision(found: Decision) -> JsonObject:
    return {**asdict(found), "key": found.key.model_dump()}


def _difference(found: Difference) -> JsonObject:
    of_looks = {"is_sequential": True, "decision": _decision(found.decision) if found.decision else None}
    fields = {name: value for name, value in asdict(found).items() if name not in {"key", *of_looks}}
    return {**found.key.model_dump(), **fields, **(of_looks if found.is_sequential else {}), "verdict": found.verdict}
