"""Score folders of label maps against a folder of references, without any training."""

import argparse
import math
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kernels import FIELDS, METRICS
from orchestrator.configuration import is_folder
from orchestrator.console import consoles, is_live, parse
from orchestrator.errors import ConfigError, DataError, OrchestratorError
from orchestrator.images.label_maps import SUFFIXES
from orchestrator.progress import counted
from orchestrator.results.records import ScoreStatus
from orchestrator.scoring.folders import FolderComparison, FolderScore, metric_value, summarise
from orchestrator.scoring.score import LARGEST_LABEL, ScoredStructure
from orchestrator.storage.filesystem import open_storage

EXIT_DONE, EXIT_MISSING, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
UNITS = {
    "dsc": "DSC",
    "nsd": "NSD",
    "hd95": "HD95 (mm)",
    "assd": "ASSD (mm)",
    "hd95-voxel": "HD95, voxels (mm)",
    "hd95-voxel-pooled": "HD95, voxels pooled (mm)",
    "assd-voxel": "ASSD, voxels (mm)",
    "masd-voxel": "MASD, voxels (mm)",
}
CASES_A_PROCESS = 16
"""To start a process takes about as long as to score so many."""
OUTPUT_SUFFIXES = (".csv", ".parquet")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.evaluate",
        description="Score label maps: files of equal names in two folders and on equal grids "
        f"({', '.join(SUFFIXES)}). Exit code 0: everything is scored; 1: a file is missing, unreadable or on another "
        "grid; 2: the command line is wrong.",
    )
    add = parser.add_argument
    add("--reference", required=True, help="folder or s3:// prefix with the true label maps")
    add("--prediction", required=True, action="append", help="folder or s3:// prefix to be scored; may be repeated")
    add(
        "--label",
        required=True,
        action="append",
        metavar="LABEL=MM",
        help="a label and the tolerance of its NSD, such as 1=1.0; may be repeated",
    )
    add(
        "--metrics",
        default="dsc,nsd",
        help=f"of {','.join(METRICS)} (default: dsc,nsd); the voxel ones are those of MONAI, medpy and panoptica",
    )
    add(
        "--dimension",
        type=int,
        choices=(2, 3),
        default=3,
        help="2: contours, for files of one slice or two axes; 3: surfaces (default)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, help="processes (default: up to one a core)")
    where.add_argument("--cluster", type=Path, help="cluster file: score as Ray tasks; the folders must be seen there")
    add("--output", help="file for the rows of all cases, .csv or .parquet (default: only the summary is shown)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if everything is scored, 1 if not, 2 for bad input, 130 after Ctrl-C."""
    console, errors = consoles()
    options = parse(build_parser(), arguments)
    try:
        comparison = understand(options)
        cases = comparison.cases()
        for location in comparison.without_reference(set(cases)):
            errors.print(f"note: {location}: no reference has this name; not scored", markup=False, soft_wrap=True)
        rows = score_all(comparison, cases, options=options, console=errors)
        # First what cannot fail: the file may not be writable.
        show_summary(rows, metrics=comparison.metrics, console=console)
        if options.output:
            write_rows(rows, output=options.output, metrics=comparison.metrics)
            console.print(f"rows: {options.output}", markup=False, soft_wrap=True)
    except (ConfigError, DataError) as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        return EXIT_USAGE
    except OrchestratorError as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        return EXIT_MISSING
    except KeyboardInterrupt:
        errors.print("Interrupted; nothing was written.")
        return EXIT_INTERRUPTED
    missing = {(row.prediction, row.case): row.score.message for row in rows if row.score.status is ScoreStatus.MISSING}
    for (prediction, case), message in missing.items():
        place = f"{prediction.rstrip('/')}/{case}"
        where = "" if message.startswith(place) else f"{place}: "
        errors.print(f"missing: {where}{message}", markup=False, soft_wrap=True)
    for note in notes_of(rows):
        errors.print(f"note: {note}", markup=False, soft_wrap=True)
    return EXIT_MISSING if missing else EXIT_DONE


def notes_of(rows: Sequence[FolderScore]) -> list[str]:
    """Return what was decided to read what is scored, once for each folder, with the number of cases."""
    noted = {
        (row.prediction, row.case): row.score.message
        for row in rows
        if row.score.message and row.score.status is not ScoreStatus.MISSING
    }
    counts = Counter((prediction, message) for (prediction, _), message in noted.items())
    return [f"{prediction}: {counted(num, 'case')}: {message}" for (prediction, message), num in counts.items()]


def understand(options: argparse.Namespace) -> FolderComparison:
    """Check the command line; raises ConfigError for anything that does not fit."""
    metrics = tuple(dict.fromkeys(name.strip() for name in options.metrics.split(",")))
    if not metrics or not set(metrics) <= set(METRICS):
        raise ConfigError(f"--metrics {options.metrics}: expected some of {','.join(METRICS)}")
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: expected at least 1")
    if options.output and not options.output.endswith(OUTPUT_SUFFIXES):
        raise ConfigError(f"--output {options.output}: expected a file that ends with {' or '.join(OUTPUT_SUFFIXES)}")
    for location in (options.reference, *options.prediction):
        if "://" not in location and not is_folder(location):
            raise ConfigError(f"{location}: no such folder; expected one with label maps")
    structures = tuple(_structure(text) for text in options.label)
    labels = [structure.reference_label for structure in structures]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"--label {' '.join(options.label)}: expected each label once")
    return FolderComparison(
        reference=open_storage(options.reference),
        predictions=tuple(open_storage(location) for location in dict.fromkeys(options.prediction)),
        structures=structures,
        metrics=metrics,
        dimension=options.dimension,
    )


def _structure(text: str) -> ScoredStructure:
    label, _, tolerance = text.partition("=")
    try:
        number, tolerance_mm = int(label), float(tolerance)
    except ValueError:
        raise ConfigError(f"--label {text}: expected LABEL=TOLERANCE_IN_MM, such as 1=1.0") from None
    if not (1 <= number <= LARGEST_LABEL and math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ConfigError(f"--label {text}: expected a label of 1 to {LARGEST_LABEL} and a tolerance of at least 0 mm")
    return ScoredStructure(name=str(number), reference_label=number, prediction_label=number, tolerance_mm=tolerance_mm)


def score_all(
    comparison: FolderComparison, cases: Sequence[str], *, options: argparse.Namespace, console: Console
) -> list[FolderScore]:
    """Score all cases in parallel and return their rows, folder by folder; a progress bar is shown on a terminal."""
    if options.cluster:
        finished = _score_on_cluster(comparison, cases, cluster_file=options.cluster)
    else:
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = min(options.workers or min(num_cores, 1 + len(cases) // CASES_A_PROCESS), len(cases))
        finished = _score_in_processes(comparison, cases, num_workers=num_workers)
    rows: dict[str, list[FolderScore]] = {}
    with Progress(console=console, disable=not is_live(console), transient=True) as progress:
        bar = progress.add_task("cases", total=len(cases))
        for own_rows in finished:
            rows[own_rows[0].case] = own_rows
            progress.advance(bar)
    locations = [folder.location for folder in comparison.predictions]
    return [row for location in locations for case in cases for row in rows[case] if row.prediction == location]


def _score_in_processes(
    comparison: FolderComparison, cases: Sequence[str], *, num_workers: int
) -> Iterator[list[FolderScore]]:
    if num_workers == 1:
        yield from map(comparison.score, cases)
        return
    left = dict.fromkeys(cases)
    try:
        for case, rows in _score_in_pool(comparison, cases, num_workers=num_workers):
            del left[case]
            yield rows
    except BrokenProcessPool:
        # The system kills one for want of memory, most likely. With a process each, the others are none the worse.
        for case in left:
            try:
                yield from (rows for _, rows in _score_in_pool(comparison, [case], num_workers=1))
            except BrokenProcessPool:
                yield comparison.unscored(case, message="the process that scored it died, perhaps for want of memory")


def _score_in_pool(
    comparison: FolderComparison, cases: Sequence[str], *, num_workers: int
) -> Iterator[tuple[str, list[FolderScore]]]:
    pool = ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_leave_ctrl_c_to_the_parent)
    with pool:
        futures = {pool.submit(comparison.score, case): case for case in cases}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _score_on_cluster(
    comparison: FolderComparison, cases: Sequence[str], *, cluster_file: Path
) -> Iterator[list[FolderScore]]:
    from orchestrator.cluster.config import load_cluster
    from orchestrator.cluster.environment import use_token

    config = load_cluster(cluster_file)
    if config.kind == "aws":
        raise ConfigError(
            f"{cluster_file}: this command starts no machines; expected kind local, or existing on a machine of the "
            "cluster"
        )
    if config.auth_token is not None:
        # Before Ray is imported, which reads its environment then.
        use_token(config.auth_token)
    from orchestrator.ray_backend.executor import connected, map_unordered

    with connected(config):
        yield from map_unordered(comparison.score, cases, name="score")


def write_rows(rows: Sequence[FolderScore], *, output: str, metrics: Sequence[str]) -> None:
    """Write one row for each folder, case and label, whole or not at all; empty where there is no number."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    records = [
        {
            "prediction": row.prediction,
            "case": row.case,
            "label": int(row.score.structure),
            "status": str(row.score.status),
            **{FIELDS[metric]: number(metric_value(row.score, metric)) for metric in metrics},
            "tolerance_mm": row.score.tolerance_mm,
            **{f"spacing_{axis}_mm": number(step) for axis, step in zip("zyx", row.score.spacing_mm, strict=True)},
            "num_reference_voxels": row.score.num_reference_voxels,
            "num_predicted_voxels": row.score.num_predicted_voxels,
            "message": row.score.message,
        }
        for row in rows
    ]
    types = {"label": pa.int64(), "num_reference_voxels": pa.int64(), "num_predicted_voxels": pa.int64()}
    texts = dict.fromkeys(("prediction", "case", "status", "message"), pa.string())
    schema = pa.schema([(name, {**types, **texts}.get(name, pa.float64())) for name in records[0]])
    for record in records:
        # The bytes of a file name that is no UTF-8.
        record |= {name: str(record[name]).encode(errors="surrogateescape").decode(errors="replace") for name in texts}
    table = pa.Table.from_pylist(records, schema=schema)
    folder, _, name = output.rpartition("/")
    with (
        open_storage(folder or ("/" if output.startswith("/") else ".")).writing(name) as path,
        path.open("wb") as file,
    ):
        (csv.write_csv if name.endswith(".csv") else parquet.write_table)(table, file)


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
                table.add_row(summary.structure, UNITS[name], *cells, str(found.num))
            by_status = [f"{num} {status.replace('_', ' ')}" for status, num in summary.num_by_status.items() if num]
            counts.append(f"label {summary.structure}: {', '.join(by_status)}")
        console.print(table)
        for line in counts:
            console.print(line, soft_wrap=True)
    console.print(
        "Over the cases where a number is finite. An empty mask against one that is not counts as 0 in DSC and NSD and "
        "has no distances; two empty ones and missing files count nowhere. SD: of the sample.",
        style="dim",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
