"""Score folders of label maps against a folder of references, without any training."""

import argparse
import math
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kernels import METRICS, TITLES
from orchestrator.api import evaluate
from orchestrator.cli.console import (
    EXIT_DONE,
    EXIT_NOT_DONE,
    command_parser,
    counting,
    print_whole,
    run_command,
    say,
)
from orchestrator.configuration import counted, is_folder
from orchestrator.errors import ConfigError
from orchestrator.images.label_maps import SUFFIXES
from orchestrator.results.records import ScoreStatus
from orchestrator.scoring.folder_scores import FolderScores
from orchestrator.scoring.folders import FolderScore, summarise
from orchestrator.scoring.leaderboard import Leaderboard
from orchestrator.scoring.structures import LARGEST_LABEL, Region, Tolerance
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import TEMPORARY_PREFIX, Storage

MOST_LABELS_AT_ONCE = 65535
OUTPUT_SUFFIXES = (".csv", ".parquet")
_METRICS = "dsc,nsd"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "evaluate",
        "Score label maps: files of equal names in two folders and on equal grids "
        f"({', '.join(SUFFIXES)}). Exit code 0: everything is scored; 1: a file is missing, unreadable or on another "
        "grid; 2: the command line is wrong.",
    )
    add = parser.add_argument
    add("--reference", required=True, help="folder or bucket with the true label maps")
    add("--prediction", required=True, action="append", help="folder or bucket to be scored; may be repeated")
    add_scoring(add, metrics=_METRICS, needs_labels=True)
    parser.set_defaults(metrics=_METRICS, dimension=3)
    add_processes(parser)
    add("--leaderboard", help="with several --prediction: .csv file for their ranks in each label and metric")
    add("--output", help="file for the rows of all cases, .csv or .parquet (default: only the summary is shown)")
    return parser


def add_scoring(add: Callable[..., argparse.Action], *, metrics: str, needs_labels: bool) -> None:
    """Add options for what is scored beside references; `metrics` are those of a call that names none."""
    add(
        "--label",
        required=needs_labels,
        action="append",
        metavar="LABEL[=MM]",
        help="a label and the tolerance of its NSD in mm, such as 1=1.0, or 1 alone without that metric; 1+2=1.0 is "
        "the union of two, 1-15=1.0 each of fifteen; may be repeated",
    )
    add("--ignored-label", type=int, help="value in the references of voxels that nobody has annotated")
    add(
        "--metrics",
        help=f"of {','.join(METRICS)} (default: {metrics}); the voxel ones are those of MONAI, medpy and panoptica",
    )
    add(
        "--dimension",
        type=int,
        choices=(2, 3),
        help="2: contours, for files of one slice or two axes; 3: surfaces (default)",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add options for where it is scored."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, help="processes (default: up to one a core)")
    where.add_argument("--cluster", type=Path, help="cluster file: score as Ray tasks; the folders must be seen there")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if everything is scored, 1 if not, 2 for bad input, 130 after Ctrl-C."""
    return run_command(
        build_parser(),
        arguments,
        score_folders,
        interrupted="Interrupted; nothing was written.",
    )


def score_folders(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """Score what the command line names, and show a summary."""
    if options.output and not options.output.endswith(OUTPUT_SUFFIXES):
        raise ConfigError(f"--output {options.output}: expected a file that ends with {' or '.join(OUTPUT_SUFFIXES)}")
    if options.leaderboard and not options.leaderboard.endswith(".csv"):
        raise ConfigError(f"--leaderboard {options.leaderboard}: expected a file that ends with .csv")
    if options.leaderboard and len(set(options.prediction)) < 2:
        raise ConfigError("--leaderboard: found one --prediction; expected several to rank")
    for output in filter(None, (options.output, options.leaderboard)):
        check_writable(output)
    scores = score_all(options, errors=errors)
    for location in scores.without_reference:
        say(f"note: {location}: no reference has this name; not scored", console=errors)
    # First what cannot fail: the disk may be full by now.
    show_summary(scores.rows, metrics=scores.metrics, console=console)
    if len(set(options.prediction)) > 1:
        show_leaderboard(scores, output=options.leaderboard, console=console)
    if options.output:
        write_rows(scores, output=options.output)
        say(f"rows: {options.output}", console=console)
    rows = scores.rows
    missing = {(row.prediction, row.case): row.score.message for row in rows if row.score.status is ScoreStatus.MISSING}
    for (prediction, case), message in missing.items():
        place = f"{prediction.rstrip('/')}/{case}"
        where = "" if message.startswith(place) else f"{place}: "
        say(f"missing: {where}{message}", console=errors)
    for note in notes_of(rows):
        say(f"note: {note}", console=errors)
    return EXIT_NOT_DONE if missing else EXIT_DONE


def score_all(options: argparse.Namespace, *, errors: Console) -> FolderScores:
    """Score all cases; a progress bar is shown on a terminal."""
    with counting(errors) as on_case:
        return evaluate(
            options.reference,
            options.prediction,
            tolerances_mm=tolerances_of(options.label),
            metrics=metrics_of(options.metrics),
            dimension=options.dimension,
            ignored_label=options.ignored_label,
            workers=options.workers,
            cluster=options.cluster,
            on_case=on_case,
        )


def notes_of(rows: Sequence[FolderScore]) -> list[str]:
    """Return what was decided to read what is scored, once for each folder, with the number of cases."""
    noted = {
        (row.prediction, row.case): row.score.message
        for row in rows
        if row.score.message and row.score.status is not ScoreStatus.MISSING
    }
    counts = Counter((prediction, message) for (prediction, _), message in noted.items())
    return [f"{prediction}: {counted(num, 'case')}: {message}" for (prediction, message), num in counts.items()]


def tolerances_of(texts: Sequence[str]) -> dict[Region, Tolerance]:
    """Return the tolerance of each label or union of labels; raises ConfigError for a text that is not LABEL[=MM]."""
    found = [pair for text in texts for pair in _tolerances(text)]
    tolerances = dict(found)
    if len(tolerances) < len(found):
        raise ConfigError(f"--label {' '.join(texts)}: expected each label once")
    return tolerances


def metrics_of(text: str) -> list[str]:
    """Return the names in a list with commas."""
    return [name.strip() for name in text.split(",")]


def _tolerances(text: str) -> list[tuple[Region, Tolerance]]:
    """Return the labels of a text such as `1=1.0`, `1+2=1.0`, `1-15=1.0` or `1`, each with its tolerance."""
    label, has_tolerance, tolerance = text.partition("=")
    first, is_range, last = label.partition("-")
    try:
        tolerance_mm = float(tolerance) if has_tolerance else None
        numbers = sorted({int(first), int(last)} if is_range else set(map(int, label.split("+"))))
    except ValueError:
        raise ConfigError(
            f"--label {text}: expected LABEL=TOLERANCE_IN_MM, such as 1=1.0, 1+2=1.0 or 1-15=1.0"
        ) from None
    is_tolerance = tolerance_mm is None or (math.isfinite(tolerance_mm) and tolerance_mm >= 0)
    if not (numbers[0] >= 1 and numbers[-1] <= LARGEST_LABEL and is_tolerance):
        raise ConfigError(f"--label {text}: expected a label of 1 to {LARGEST_LABEL} and a tolerance of at least 0 mm")
    if not is_range:
        return [(tuple(numbers), tolerance_mm)]
    if numbers[-1] - numbers[0] >= MOST_LABELS_AT_ONCE or int(first) > int(last):
        raise ConfigError(f"--label {text}: expected a range of up to {MOST_LABELS_AT_ONCE} labels, the first below")
    return [((number,), tolerance_mm) for number in range(numbers[0], numbers[-1] + 1)]


def write_rows(scores: FolderScores, *, output: str) -> None:
    """Write one row for each folder, case and label, whole or not at all."""
    from pyarrow import csv, parquet

    table = scores.to_arrow()
    with writing(output) as path, path.open("wb") as file:
        (csv.write_csv if output.endswith(".csv") else parquet.write_table)(table, file)


def writing(output: str) -> AbstractContextManager[Path]:
    """Return the context in which a file is written, whole or not at all, wherever it lies."""
    storage, name = _place_of(output)
    return storage.writing(name)


def check_writable(output: str) -> None:
    """Raise ConfigError or StorageError if a file cannot be written, before hours of scoring are lost to it."""
    if is_folder(output):
        raise ConfigError(f"{output}: a folder; expected the name of a file to write")
    storage, name = _place_of(output)
    storage.checked(name)
    probe = f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    storage.write_bytes(probe, b"")
    storage.delete(probe)


def _place_of(output: str) -> tuple[Storage, str]:
    folder, _, name = output.rpartition("/")
    return open_storage(folder or ("/" if output.startswith("/") else ".")), name


def show_leaderboard(scores: FolderScores, *, output: str | None, console: Console) -> None:
    """Print the ranks of folders over all labels and metrics, and write those in each."""
    from orchestrator.scoring.leaderboard import leaderboard, to_csv

    rows = scores.to_pandas().rename(columns={"prediction": "method", "label": "structure"})
    found = leaderboard(rows.astype({"structure": str}), metrics=scores.metrics)
    print_standings(found, console=console)
    if output:
        with writing(output) as path:
            path.write_text(to_csv({"": found.places}), encoding="utf-8")
        say(f"ranks: {output}", console=console)


def print_standings(found: Leaderboard, *, console: Console, unit: str = "case") -> None:
    """Print where methods stand over all structures and metrics; `unit` is what was ranked in, a case or a patient."""
    titles = (
        "rank",
        "95 % of resamples",
        "ranked",
        "mean rank",
        f"mean rank by {unit}",
        "first in",
        f"missing {unit}s",
    )
    table = Table(*titles, box=None, padding=(0, 2))
    for one in found.standings:
        table.add_row(
            str(one.rank),
            "-" if one.rank_low is None else f"{one.rank_low} to {one.rank_high}",
            escape(one.method),
            f"{one.mean_rank:.2f}",
            f"{one.mean_rank_by_case:.2f}",
            f"{one.num_first} of {found.num_lists}",
            str(one.num_missing),
        )
    print_whole(table, console=console)
    console.print(
        f"Ranks of the means, and of the mean ranks of each {unit}, over all labels and metrics, of {found.num_cases} "
        f"{unit}s; 1 is the best. In means a missing {unit} counts as 0, in those of distances as the worst that "
        "anybody has; two empty masks are the best.",
        style="dim",
        soft_wrap=True,
    )


def show_summary(rows: Sequence[FolderScore], *, metrics: Sequence[str], console: Console) -> None:
    """Print mean, SD and median for each folder, label and metric, and how many cases lack what."""
    summaries = summarise(rows, metrics=metrics)
    for prediction in dict.fromkeys(summary.prediction for summary in summaries):
        console.print(prediction, markup=False, style="bold", soft_wrap=True)
        table = Table("label", "metric", "mean", "SD", "median", "cases", box=None, padding=(0, 2))
        counts = []
        for summary in (summary for summary in summaries if summary.prediction == prediction):
            for name, found in summary.metrics.items():
                digits = ".4f" if name in {"dsc", "nsd"} else ".2f"
                values = (found.mean, found.sd, found.median)
                cells = ["-" if math.isnan(value) else format(value, digits) for value in values]
                table.add_row(summary.structure, TITLES[name], *cells, str(found.num))
            by_status = [f"{num} {status.replace('_', ' ')}" for status, num in summary.num_by_status.items() if num]
            counts.append(f"label {summary.structure}: {', '.join(by_status)}")
        console.print(table)
        for line in counts:
            say(line, console=console)
    console.print(
        "Over the cases where a number is finite. An empty mask against one that is not counts as 0 in DSC and NSD and "
        "has no distances; two empty ones and missing files count nowhere. SD: of the sample.",
        style="dim",
        soft_wrap=True,
    )
