"""Score and rank the label maps of other methods: beside the trainings of a run, or for a challenge."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.api import SubmitOptions, submit
from orchestrator.benchmark.definition import STUDY_METRICS
from orchestrator.cli.console import (
    EXIT_DONE,
    EXIT_NOT_DONE,
    command_parser,
    counting,
    run_command,
    say,
)
from orchestrator.cli.evaluate import add_processes, add_scoring, metrics_of, print_standings, tolerances_of
from orchestrator.cli.text import flag
from orchestrator.driver.results.submit import Submitted
from orchestrator.errors import ConfigError

_MOST_LINES = 50
"""Label maps without scores that are named; the report has more of them."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "submit",
        "Score label maps that others have made, rank them, and write the report. With --reference they are compared "
        "with label maps of the same names in that folder, and --output is a folder of its own; without, --output is a "
        "run, whose trainings they are ranked with, on the cases that those are tested on (FOLDER/DATASET/CASE.nii.gz, "
        "or FOLDER/CASE.nii.gz). A call names all submissions; what was scored of the same files before is not scored "
        "again, so that a call that was stopped goes on. Exit code 0: everything is scored; 1: a label map is missing "
        "or has no scores; 2: the command line is wrong.",
    )
    add = parser.add_argument
    add("submissions", nargs="+", metavar="METHOD=FOLDER", help="or a folder in which every folder is a method")
    add("--output", required=True, help="folder or bucket of the run, or of what is written")
    alone = parser.add_argument_group("without a run")
    alone.add_argument("--reference", help="folder or bucket with the true label maps")
    add_scoring(alone.add_argument, metrics=",".join(STUDY_METRICS), needs_labels=False)
    alone.add_argument(
        "--patients", type=Path, help="CSV file with the columns case and patient, where patients have several cases"
    )
    beside = parser.add_argument_group("beside a run")
    beside.add_argument("--study", type=Path, help="what it trains (default: the file with which it was started)")
    beside.add_argument("--label-set", help="of the study, of the submitted label maps; if several are scored")
    add_processes(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises."""
    return run_command(
        build_parser(),
        arguments,
        score_submissions,
        interrupted="Interrupted; the same command goes on with what is not scored yet.",
    )


def score_submissions(options: argparse.Namespace, console: Console, errors: Console) -> int:
    """Score what the command line names, and show who is where."""
    given = _options(options)
    with counting(errors) as given["on_case"]:
        found = submit(options.submissions, output=options.output, **given)
    if found.board is not None:
        print_standings(found.board, console=console, unit="patient" if options.patients else "case")
    say(f"report: {found.page}", console=console)
    _say_what_lacks(found, errors=errors)
    return EXIT_NOT_DONE if found.unusable else EXIT_DONE


def _options(options: argparse.Namespace) -> SubmitOptions:
    """Return the options of `submit`; raises ConfigError for those of the other kind of call."""
    of_run, alone = ("study", "label_set"), ("label", "metrics", "dimension", "ignored_label", "patients")
    unfitting = of_run if options.reference else alone
    wrong = [name for name in unfitting if getattr(options, name) is not None]
    if wrong:
        place = "with" if options.reference else "without"
        raise ConfigError(f"{flag(wrong[0])}: has no meaning {place} --reference; leave it out")
    if options.reference and not options.label:
        raise ConfigError("--label: found none; expected the labels to score with their tolerances, such as 1-15=1.0")
    given = SubmitOptions(workers=options.workers, cluster=options.cluster)
    if not options.reference:
        return {**given, "study": options.study, "label_set": options.label_set}
    given |= {
        "reference": options.reference,
        "tolerances_mm": tolerances_of(options.label),
        "dimension": options.dimension or 3,
        "ignored_label": options.ignored_label,
        "patients": options.patients,
    }
    if options.metrics:
        given["metrics"] = metrics_of(options.metrics)
    return given


def _say_what_lacks(found: Submitted, *, errors: Console) -> None:
    for name, lines in found.notes.items():
        for line in lines:
            say(f"note: {name}: {line}", console=errors)
    for one in found.unusable[:_MOST_LINES]:
        say(f"missing: {one.method}: {one.case}: {one.reason}", console=errors)
    if len(found.unusable) > _MOST_LINES:
        say(f"missing: {len(found.unusable) - _MOST_LINES} more; the report names them", console=errors)
