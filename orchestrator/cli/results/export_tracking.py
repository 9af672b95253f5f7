"""Write the trainings of a run for a tracking tool: MLflow, W&B or trackio."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.api import request_of_run
from orchestrator.cli.console import EXIT_DONE, add_run, command_parser, run_command, say
from orchestrator.configuration import counted
from orchestrator.errors import ConfigError
from orchestrator.storage.filesystem import open_storage
from orchestrator.tracking.tracked import TrackedRun


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "export-tracking",
        "Write each training of a run as a run of a tracking tool, into a folder: settings, losses of each epoch at "
        "the time at which they were, scores by structure, a table of all cases, digests and versions. Nothing is sent "
        "anywhere, and no path or machine is in it. A training that is exported again takes its own place. Exit code "
        "0: written; 2: there is no such run, nothing has begun, or the tool is not installed.",
    )
    add = parser.add_argument
    add_run(parser)
    add("--study", type=Path, help="what it trains (default: the file with which it was started)")
    add("--to", required=True, metavar="TOOL", help="mlflow, wandb or trackio")
    add("--folder", type=Path, help="where the tool keeps its files (default: tracking-TOOL)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises."""
    return run_command(build_parser(), arguments, export)


def export(options: argparse.Namespace, console: Console, _errors: Console) -> int:
    """Write what the command line asks for."""
    from orchestrator.tracking.tools import TOOLS, export_runs
    from orchestrator.tracking.tracked import runs_of

    storage = open_storage(options.output)
    folder = options.folder or Path(f"tracking-{options.to}")
    runs = runs_of(request_of_run(storage, study=options.study), storage)
    written: list[str] = []

    def told(run: TrackedRun) -> None:
        written.append(run.name)
        say(f"{run.name}: {counted(len(run.epochs), 'epoch')}, {counted(len(run.scores), 'score')}", console=console)

    export_runs(runs, to=options.to, folder=folder, told=told)
    if not written:
        raise ConfigError(f"{storage.location}: no training has begun; expected at least one")
    say(f"{counted(len(written), 'training')}: {folder}\nTo look at: {TOOLS[options.to].look}", console=console)
    return EXIT_DONE
