"""Writes the report of submissions that are scored without a run: ranks, scores, figures."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import csv, parquet

from kernels import METRICS
from orchestrator.events import finite_or_null
from orchestrator.report.content import RANK_FILES, figures_of_scores
from orchestrator.report.overview import OverviewRow, overview
from orchestrator.report.page import Failure, Figure, Page, to_html, to_markdown
from orchestrator.report.ranks import Ranked, rank_files, ranked
from orchestrator.report.submissions.frame import EVERYTHING, submitted_frame
from orchestrator.report.texts.latex import latex_tables
from orchestrator.scoring.kept_scores import Unusable
from orchestrator.scoring.leaderboard import Leaderboard
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage

if TYPE_CHECKING:
    import pandas as pd

MOST_DRAWN = 20
"""Submissions in a figure: the first by rank."""
MOST_FIGURES = 8
"""Structures with a figure."""
_MOST_REASONS = 20
"""Label maps without scores that are named for each submission."""
FILES = (
    *RANK_FILES,
    ("scores.csv", "every score: one line a structure of a case of a submission"),
    ("scores.parquet", "the same"),
    ("summary.json", "the tables of this page as numbers"),
    ("report.md", "this page without its figures"),
    ("tables.tex", "the tables of this page for LaTeX, with booktabs"),
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


def write_submissions_report(storage: Storage, found: ScoredSubmissions) -> Leaderboard:
    """Write the page and the files beside it; returns who is where."""
    frame = submitted_frame(found.rows, patients={})
    board = ranked(frame, metrics=[name for name in METRICS if name in found.metrics])
    places = {one.method: number for number, one in enumerate(board.standings)}
    frame["order"] = frame["group"].map(places)
    frame = frame.sort_values("order", kind="stable")
    rows = overview(frame)
    rankings = (Ranked(title="All structures and metrics", board=board),)
    page = Page(
        title=found.title,
        state=_state(found, board),
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
        files=FILES,
        rankings=rankings,
        what="submissions",
    )
    contents = {
        "scores.csv": _written(csv.write_csv, found.rows),
        "scores.parquet": _written(parquet.write_table, found.rows),
        "summary.json": _summary(page).encode(),
        "report.md": to_markdown(page).encode(),
        "tables.tex": latex_tables(page).encode(),
        **rank_files([Ranked(title="", board=board)]),
    }
    for name, content in contents.items():
        storage.write_bytes(f"{run_paths.REPORT}/{name}", content)
    storage.write_bytes(run_paths.REPORT_PAGE, to_html(page).encode())
    return board


def _state(found: ScoredSubmissions, board: Leaderboard) -> str:
    num_cases = len(set(found.rows["case"].to_pylist()))
    whole = f"{len(board.standings)} submissions, {num_cases} cases."
    broken = {one.method for one in found.unusable}
    if not broken:
        return f"Whole: {whole} Every label map has scores."
    return f"Not whole: {whole} {len(found.unusable)} label maps of {len(broken)} submissions have no scores."


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
    nsd = ", ".join(f"{mm:g} mm ({', '.join(names)})" for mm, names in kinds.items())
    return (
        f"{len(board.standings)} submissions were scored on {board.num_cases} cases against the reference label maps, "
        f"each structure of each case by {', '.join(name.upper() for name in found.metrics)}; tolerance of the NSD: "
        f"{nsd}. A label map that is missing, unreadable or not on the grid of its reference has no score: in "
        "means of DSC and NSD it counts as 0, in those of distances as the worst that anybody has there, and in the "
        "ranks of a single case as worse than any other. For each structure and metric the means over cases were "
        "ranked; the rank of a submission is that of the mean of these ranks, and its 95 % range is over 1,000 "
        "resamples of the cases."
    )


def _written(write: Callable[[pa.Table, io.BytesIO], None], table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    write(table, buffer)
    return buffer.getvalue()


def _summary(page: Page) -> str:
    content = {
        "title": page.title,
        "state": page.state,
        "notes": page.notes,
        "scores": [asdict(row) for row in page.rows],
        "ranks": [{"title": one.title, **asdict(one.board)} for one in page.rankings],
    }
    return json.dumps(finite_or_null(content), indent=1) + "\n"
