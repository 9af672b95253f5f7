"""Write phantoms of all volumes of the shipped study, in the layouts of the public downloads."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.benchmark.definition import NNUNET_RAW
from orchestrator.benchmark.loading import DEFAULT_STUDY, load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.study import Study
from orchestrator.cli.console import EXIT_DONE, command_parser, is_live, run_command, say
from orchestrator.configuration import absolute
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.phantoms.downloads import (
    DOWNLOADS,
    PhantomCase,
    check_downloads,
    plan_phantom_download,
    write_phantom_download,
)
from orchestrator.phantoms.raw_datasets import write_raw_phantoms
from orchestrator.storage.filesystem import check_is_text

PLAIN_LINE_EVERY_S = 30.0
"""Without a terminal, a line appears at most this often."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "phantoms",
        "Generate CT phantoms for every case of the shipped study, as its public downloads: "
        "by default 585 volumes at full resolution (512 x 512). The same command again writes only what is missing. "
        "Exit code 0: all is written; 1: writing failed; 2: bad input.",
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for the downloads")
    add("--study", type=Path, default=DEFAULT_STUDY, help="whose cases are written (default: the shipped study)")
    add("--spacing", type=float, metavar="MM", help="in-plane spacing (default: the preset's, else full resolution)")
    add("--seed", type=int, default=0, help="the same seed gives the same phantoms (default: 0)")
    add("--matrix", help="trainings whose cases are written, as of the command run (default: the study's first)")
    add("--preset", help=f"only the cases that this preset keeps, at its spacing: {', '.join(PRESETS)}")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 when all is written, 1 when writing failed, 2 for bad input, 130 after Ctrl-C."""
    return run_command(
        build_parser(),
        arguments,
        write_all,
        failed=(OrchestratorError, OSError),
        interrupted="Interrupted. Finished volumes are kept: the same command goes on from here.",
    )


def write_all(options: argparse.Namespace, console: Console, _errors: Console) -> int:
    """Write what the command line asks for, and say how much that was."""
    num_scans = write_phantoms(options, console=console)
    say(f"{num_scans} volumes in {options.output}", console=console)
    return EXIT_DONE


def write_phantoms(options: argparse.Namespace, *, console: Console) -> int:
    """Write all downloads and return the number of volumes."""
    _check(options)
    study = load_study(options.study)
    preset = study.preset(options.preset or "paper")
    spacing_mm = options.spacing if options.spacing is not None else preset.phantom_spacing_mm
    requests = requested_cases(study, matrix=options.matrix, preset_name=preset.name)
    check_downloads(dataset for dataset, _ in requests)
    raw = raw_requests(requests)
    planned = (plan_phantom_download(one, requests, spacing_mm=spacing_mm, seed=options.seed) for one in DOWNLOADS)
    plans = [plan for plan in planned if plan.scans]
    num_scans = sum(len(plan.scans) for plan in plans) + sum(map(len, raw.values()))
    options.output.mkdir(parents=True, exist_ok=True)
    with console.status("starting") as status:
        live = is_live(console)
        show, every_s = (status.update, 0.0) if live else (console.print, PLAIN_LINE_EVERY_S)
        on_scan = _progress(num_scans, show=show, every_s=every_s)
        for folder, of_it in raw.items():
            write_raw_phantoms(
                options.output / folder,
                requests=of_it,
                label_sets={label_set.name: label_set for label_set in study.label_sets},
                spacing_mm=spacing_mm,
                seed=options.seed,
                on_case=on_scan,
            )
        for plan in plans:
            num_workers = min(options.workers, len(plan.scans))
            write_phantom_download(plan, options.output, num_workers=num_workers, on_scan=on_scan)
    return num_scans


def _check(options: argparse.Namespace) -> None:
    if options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: expected at least 1")
    # As a path, s3://bucket is s3:/bucket.
    if ":/" in str(options.output) or options.output.is_file():
        raise ConfigError(f"--output {options.output}: expected a folder of this machine")
    check_is_text(str(absolute(str(options.output), option="--output")), option="--output")


def raw_requests(requests: Sequence[PhantomCase]) -> dict[str, list[PhantomCase]]:
    """Return the cases of data sets in nnU-Net's layout by folder."""
    found: dict[str, list[PhantomCase]] = {}
    for dataset, name in requests:
        if dataset.source == NNUNET_RAW:
            found.setdefault(dataset.folder, []).append((dataset, name))
    return found


def requested_cases(study: Study, *, matrix: str | None, preset_name: str) -> list[PhantomCase]:
    """Return every case that the trainings of a matrix use, after the caps of a preset."""
    datasets = {dataset.name: dataset for dataset in study.datasets}
    trainings = study.trainings(matrix=matrix, preset=study.preset(preset_name))
    cases = sorted({case for training in trainings for case in training.cases})
    return [(datasets[case.dataset], case.name) for case in cases]


def _progress(num_scans: int, *, show: Callable[[str], None], every_s: float) -> Callable[[str], None]:
    """Return a callback that counts volumes and shows a line with the time left, not too often."""
    begin = last = time.monotonic()
    done = 0

    def on_scan(name: str) -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if done < num_scans and now - last < every_s:
            return
        last = now
        left_s = (now - begin) / done * (num_scans - done)
        show(f"{done}/{num_scans} volumes, {name} written, about {left_s / 60:.0f} min left")

    return on_scan
