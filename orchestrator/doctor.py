"""Check a data folder: read everything that the chosen trainings need and list all of its problems at once."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator.benchmark.loading import load_benchmark
from orchestrator.benchmark.matrix import Benchmark
from orchestrator.benchmark.presets import PRESETS, find_preset
from orchestrator.configuration import is_folder
from orchestrator.console import consoles
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.images.problem import Problem
from orchestrator.pipeline.stages import label_sets_by_case
from orchestrator.progress import counted
from orchestrator.sources.downloads import CaseRequest, inspect_downloads

EXIT_CLEAN, EXIT_PROBLEMS, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was found in one data set."""

    dataset: str
    """Name of the data set."""
    download: str
    """Folder of its download."""
    num_cases: int
    """Cases that were looked at."""
    problems: tuple[Problem, ...]
    """Everything that is wrong with them."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.doctor",
        description="Read every image and mask that the chosen trainings need, check them as a run would, and list all "
        "problems, one a line. Exit code 0: none; 1: problems; 2: the command line is wrong.",
    )
    add = parser.add_argument
    add("--data", required=True, help="folder with the public downloads")
    add("--preset", default="paper", help=f"whose cases are checked: {', '.join(PRESETS)} (default: paper, all)")
    add("--matrix", default="core", help="core (45 trainings), 2d, 80-20, msd-lung or all (110) (default: core)")
    add("--only", action="append", default=[], metavar="PATTERN", help="only trainings like 'T1-*'; may be repeated")
    add("--quick", action="store_true", help="headers only, as run_all does before it starts")
    add("--threads", type=int, default=2, help="cases checked at a time (default: 2)")
    add("--json", action="store_true", help="print JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if nothing is wrong, 1 if something is, 2 for a wrong command line."""
    console, errors = consoles()
    options = build_parser().parse_args(arguments)
    try:
        requests = requested_cases(options, benchmark=load_benchmark())
        findings = examine(
            requests, downloads=Path(options.data), thorough=not options.quick, num_threads=max(1, options.threads)
        )
    except OrchestratorError as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        return EXIT_USAGE
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return EXIT_INTERRUPTED
    show = show_json if options.json else show_text
    show(findings, console=console)
    return EXIT_PROBLEMS if any(finding.problems for finding in findings) else EXIT_CLEAN


def requested_cases(options: argparse.Namespace, *, benchmark: Benchmark) -> list[CaseRequest]:
    """Return every case that the trainings of the command line need; raises ConfigError if that is not valid."""
    if not is_folder(options.data):
        raise ConfigError(
            f"--data {options.data}: no such folder of this machine; expected the one with the public downloads"
        )
    preset = find_preset(options.preset)
    trainings = benchmark.trainings(matrix=options.matrix, only=tuple(options.only), preset=preset)
    # A run of task 2 or 3 also plans the task-1 trainings whose patch size it takes over.
    donors = {training.plan_donor for training in trainings}
    if not donors <= {None, *(training.id for training in trainings)}:
        everything = benchmark.trainings(matrix="all", preset=preset)
        trainings = (*trainings, *(training for training in everything if training.id in donors))
    datasets = {dataset.name: dataset for dataset in benchmark.datasets}
    return [
        CaseRequest(dataset=datasets[case.dataset], case_name=case.name, label_sets=label_sets)
        for case, label_sets in sorted(label_sets_by_case(trainings).items())
    ]


def examine(
    requests: Sequence[CaseRequest], *, downloads: Path, thorough: bool, num_threads: int
) -> tuple[Finding, ...]:
    """Inspect the cases, data set by data set, in the order of the requests."""
    findings = []
    for dataset in dict.fromkeys(request.dataset for request in requests):
        of_dataset = [request for request in requests if request.dataset == dataset]
        problems = inspect_downloads(of_dataset, downloads=downloads, thorough=thorough, num_threads=num_threads)
        findings.append(
            Finding(
                dataset=dataset.name,
                download=str(downloads / dataset.download),
                num_cases=len(of_dataset),
                problems=problems,
            )
        )
    return tuple(findings)


def show_text(findings: Sequence[Finding], *, console: Console) -> None:
    """Print the line of each problem once, then a table by data set."""
    lines = dict.fromkeys(problem.line for finding in findings for problem in finding.problems)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    table = Table("data set", "folder", "cases", "problems", box=None, padding=(0, 1), header_style="bold")
    for finding in findings:
        table.add_row(finding.dataset, finding.download, str(finding.num_cases), str(len(finding.problems)))
    console.print(table)
    console.print(f"{counted(len(lines), 'problem')}" if lines else "No problems.")


def show_json(findings: Sequence[Finding], *, console: Console) -> None:
    """Print all findings as one JSON list."""
    console.print(json.dumps([asdict(finding) for finding in findings], indent=1), markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
