"""Write the report of a run: one page that needs nothing else, and the files beside it."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from orchestrator.api import write_report
from orchestrator.benchmark.loading import DEFAULT_STUDY
from orchestrator.cli.console import EXIT_DONE, command_parser, consoles, exit_code_of, parse, say


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "report",
        "Write report/index.html of a run from what is committed so far, with scores.csv, scores.parquet, summary.json "
        "and the paragraph on methods beside it. A run writes it at its end as well; this may be called while it goes "
        "on. Exit code 0: written; 2: there is no run, or it is one of another study.",
    )
    parser.add_argument("--output", required=True, help="folder or s3:// prefix of the run")
    parser.add_argument("--study", type=Path, default=DEFAULT_STUDY, help="what it trains (default: the shipped study)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises."""
    console, errors = consoles()
    options = parse(build_parser(), arguments)
    return exit_code_of(partial(report, options, console=console), errors=errors)


def report(options: argparse.Namespace, *, console: Console) -> int:
    """Write the report that the command line asks for."""
    say(write_report(options.output, study=options.study), console=console)
    return EXIT_DONE
