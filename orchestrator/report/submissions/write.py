"""Writes the report of submissions that are scored without a run: ranks, scores, figures."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from kernels import METRICS
from orchestrator.benchmark.definition import Case
from orchestrator.configuration import counted
from orchestrator.report.content import FILES, RANK_FILES, figures_of_scores
from orchestrator.report.data_dictionary import dictionary_of_submissions
from orchestrator.report.overview import OverviewRow, overview
from orchestrator.report.page import Failure, Figure, Page
from orchestrator.report.ranks import Ranked, rank_files, ranked
from orchestrator.report.submissions.frame import EVERYTHING, submitted_frame
from orchestrator.report.write import bibliography, parquet_of, write_page
from orchestrator.results.records import ScoreStatus
from orchestrator.scoring.kept_scores import Unusable
from orchestrator.scoring.leaderboard import Leaderboard
from orchestrator.storage.interface import Storage

if TYPE_CHECKING:
    import pandas as pd

MOST_DRAWN = 20
"""Submissions in a figure: the first by rank."""
MOST_FIGURES = 8
"""Structures with a figure."""
_MOST_REASONS = 20
"""Label maps without scores that are named for each submission."""
_SCORES = (
    "scores.csv",
    "every score: one line a structure of a case of a submission, columns as in data_dictionary.md",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSubmissions:
    """All scores of some submissions."""

    title: str
    rows: pa.Table
    """Of `KeptScores.rows`."""
    metrics: tuple[str, ...]
    """What was calculated, of kernels.METRICS."""
    unusable: Sequence[Unusable]
    """Label maps without scores."""
    notes: Mapping[str, Sequence[str]]
    """Submission to what its folder lacks."""
    reference: str
    """Location of the true label maps."""
    patients: Mapping[str, str]
    """Case to its patient; empty where nobody says."""

    @property
    def unit(self) -> str:
        """What intervals and ranks are over."""
        return "patient" if self.patients else "case"


def write_submissions_report(storage: Storage, found: ScoredSubmissions) -> Leaderboard | None:
    """Write the page and the files beside it; returns who is where, or None if nobody has a score."""
    frame = submitted_frame(found.rows, patients={_case(name): patient for name, patient in found.patients.items()})
    board = ranked(frame, metrics=[name for name in METRICS if name in found.metrics])
    places = {one.method: number for number, one in enumerate(board.standings)}
    frame["order"] = frame["group"].map(places)
    frame = frame.sort_values("order", kind="stable")
    rows = overview(frame)
    has_scores = (frame["status"] != ScoreStatus.MISSING).any()
    rankings = (Ranked(title="All structures and metrics", board=board),) if has_scores else ()
    page = Page(
        title=found.title,
        state=_state(found, num_methods=len(board.standings), has_scores=bool(rankings)),
        notes=tuple(_notes(found)),
        location=found.reference,
        set_titles={EVERYTHING: "all cases"},
        answers=(),
        rows=rows,
        published=(),
        errata=(),
        figures=tuple(_figures(frame, board)),
        failures=tuple(_failures(found)),
        methods=_methods(found, board=board, rows=rows),
        origins=(),
        files=(*(RANK_FILES if rankings else ()), _SCORES, *FILES),
        rankings=rankings,
        what="submissions",
        unit=found.unit,
    )
    scores, lines = _without_nan(found.rows), io.BytesIO()
    csv.write_csv(scores, lines)
    contents = {
        "scores.csv": lines.getvalue(),
        "scores.parquet": parquet_of(scores),
        "data_dictionary.md": dictionary_of_submissions(found.rows.schema.names).encode(),
        "references.bib": bibliography().encode(),
        **rank_files([replace(one, title="") for one in rankings]),
    }
    write_page(storage, page, beside=contents)
    return board if rankings else None


def _without_nan(rows: pa.Table) -> pa.Table:
    """Return rows in which a number that there is not is no value: an empty cell, as in every file of scores."""
    columns = [
        pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        if pa.types.is_floating(column.type)
        else column
        for column in rows.columns
    ]
    return pa.table(columns, schema=rows.schema)


def _case(name: str) -> Case:
    folder, _, own = name.rpartition("/")
    return Case(dataset=folder, name=own)


def _state(found: ScoredSubmissions, *, num_methods: int, has_scores: bool) -> str:
    num_cases = len(set(found.rows["case"].to_pylist()))
    of_patients = f" of {counted(len(set(found.patients.values())), 'patient')}" if found.patients else ""
    whole = f"{counted(num_methods, 'submission')}, {counted(num_cases, 'case')}{of_patients}."
    broken = {one.method for one in found.unusable}
    if not broken:
        return f"Whole: {whole} Every label map has scores."
    if not has_scores:
        return f"Not whole: {whole} No label map has scores, so that there are no ranks."
    maps, of = counted(len(found.unusable), "label map"), counted(len(broken), "submission")
    return f"Not whole: {whole} {maps} of {of} {'has' if len(found.unusable) == 1 else 'have'} no scores."


def _notes(found: ScoredSubmissions) -> list[str]:
    lines = [f"{name}: {line}." for name, lines in found.notes.items() for line in lines]
    shown = lines[:_MOST_REASONS]
    return [*shown, *([f"{len(lines) - len(shown)} further notes on folders."] if len(lines) > len(shown) else [])]


def _failures(found: ScoredSubmissions) -> list[Failure]:
    by_method: dict[str, list[Unusable]] = {}
    for one in found.unusable:
        by_method.setdefault(one.method, []).append(one)
    failures = []
    for method, own in sorted(by_method.items()):
        lines = [f"{one.case}: {one.reason}" for one in own[:_MOST_REASONS]]
        if len(own) > len(lines):
            lines.append(f"and {len(own) - len(lines)} more; scores.csv says why of each")
        failures.append(Failure(name=method, text="\n".join([f"{len(own)} label maps without scores", *lines])))
    return failures


def _figures(frame: "pd.DataFrame", board: Leaderboard) -> list[Figure]:
    shown = [one.method for one in board.standings[:MOST_DRAWN]]
    structures = list(dict.fromkeys(frame["structure"]))[:MOST_FIGURES]
    part = frame[frame["group"].isin(shown) & frame["structure"].isin(structures)]
    return figures_of_scores(
        part, set_titles={EVERYTHING: f"all cases, the first {len(shown)} by rank"}, each="each case"
    )


def _methods(found: ScoredSubmissions, *, board: Leaderboard, rows: Sequence[OverviewRow]) -> str:
    tolerances = {row.structure: row.tolerance_mm for row in rows}
    kinds: dict[float, list[str]] = {}
    for structure, tolerance_mm in tolerances.items():
        kinds.setdefault(tolerance_mm, []).append(structure)
    listed = ", ".join(f"{mm:g} mm ({', '.join(names)})" for mm, names in kinds.items())
    nsd = f"; tolerance of the NSD: {listed}" if "nsd" in found.metrics else ""
    return (
        f"{len(board.standings)} submissions were scored on {board.num_cases} {found.unit}s against the reference "
        f"label maps, each structure of each case by {', '.join(name.upper() for name in found.metrics)}{nsd}. "
        "A label map that is missing, unreadable or not on the grid of its reference has no score: "
        "in the means that are ranked it counts as 0 of DSC and NSD, and as the worst distance that anybody has "
        "there; in the ranks of a single case it is worse than any other. For each structure and metric the means "
        "over cases were ranked; the rank of a submission is that of the mean of these ranks, and its 95 % range is "
        f"over 1,000 resamples of the {found.unit}s."
    )
