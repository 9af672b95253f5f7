"""The main job: train, predict, score and tabulate a study with one command."""

import argparse
import shlex
from collections.abc import Mapping, Sequence

from rich.console import Console

from orchestrator.cli.console import EXIT_DONE, EXIT_NOT_DONE, run_command, say
from orchestrator.cli.run.live_view import LiveView
from orchestrator.cli.run.options import build_parser, command_for, select
from orchestrator.cli.run.trainings import show_trainings
from orchestrator.configuration import counted
from orchestrator.driver.request import RunRequest, name_of
from orchestrator.errors import DataError
from orchestrator.progress import duration_text
from orchestrator.sources.nnunet_raw.survey import RAW_VARIABLE
from orchestrator.storage import run_paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises."""
    return run_command(
        build_parser(),
        arguments,
        lambda options, console, errors: carry_out(select(options), options, console=console, errors=errors),
        interrupted="Interrupted. What is done is kept: the same command goes on from here.",
    )


def carry_out(request: RunRequest, options: argparse.Namespace, *, console: Console, errors: Console) -> int:
    """Do what the command line asks for; returns the exit code."""
    if request.data and not options.data and not request.cluster.data:
        line = f"data sets: {request.data}, as the environment variable {RAW_VARIABLE} says"
        if request.preset.phantom_spacing_mm is not None:
            line += "; where it is unset, phantoms are generated"
        say(line, console=errors if options.json or options.render else console)
    for name, show in INSTEAD.items():
        if getattr(options, name):
            return show(request, options, console, errors)
    if request.cluster.is_elsewhere:
        from orchestrator.cli.run.launch import launch_machines

        return launch_machines(request, options, console=console)
    return run_here(request, options, console=console)


def _dry_run(request: RunRequest, options: argparse.Namespace, console: Console, errors: Console) -> int:
    # Beside JSON the lines of problems go where they do no harm.
    return show_what_would_run(request, console=console, problems=errors if options.json else None)


def _down(request: RunRequest, _options: argparse.Namespace, console: Console, _errors: Console) -> int:
    request.cluster.bring_down(name_of(request), show=lambda line: say(line, console=console))
    return EXIT_DONE


def _status(request: RunRequest, _options: argparse.Namespace, _console: Console, _errors: Console) -> int:
    from orchestrator.cli.status import main as show_status

    return show_status(["--output", request.output, "--cluster", str(request.cluster.path)])


def _render(request: RunRequest, options: argparse.Namespace, console: Console, _errors: Console) -> int:
    from orchestrator.cli.run.launch import driver_of

    console.out(request.cluster.render(driver_of(request, options)), end="", highlight=False)
    return EXIT_DONE


def _simulate(request: RunRequest, options: argparse.Namespace, console: Console, _errors: Console) -> int:
    from orchestrator.cli.run.simulate import simulate

    return simulate(request, options, console=console)


INSTEAD = {"dry_run": _dry_run, "render": _render, "status": _status, "down": _down, "simulate": _simulate}
"""What is done instead of a run, by the option that asks for it."""


def show_what_would_run(request: RunRequest, *, console: Console, problems: Console | None) -> int:
    """Print the trainings, as JSON where problems of the data are printed elsewhere, and check the data."""
    from orchestrator.cluster.aws.checks import placeholders
    from orchestrator.driver.before_start import check_unchanged, check_workers_asked_for

    show_trainings(request, console=console, as_json=problems is not None)
    check_workers_asked_for(request)
    if request.data:
        # Nothing has been read yet by a run whose bucket has no name.
        if not placeholders(request.output):
            check_unchanged(request)
        check_data(request, console=problems or console)
    return EXIT_DONE


def run_here(request: RunRequest, options: argparse.Namespace, *, console: Console) -> int:
    """Run on the cluster that this machine can reach, and say what came out."""
    request.cluster.authenticate()
    from orchestrator.driver.run import run
    from orchestrator.ray_backend.on_demand import connect_to_ray

    check_data(request, console=console)
    with LiveView(console) as view:
        outcome = run(request, connect=connect_to_ray, listener=view)
    for key in outcome.tables:
        if key.endswith(".md"):
            say(f"{request.output}/{key}", console=console)
    if outcome.report:
        say(f"{request.output}/{outcome.report}", console=console)
    for line in outcome.looks:
        say(line, console=console)
    num_done = f"{outcome.num_done} of {len(request.trainings)} trainings done"
    without = f", {len(outcome.left_out)} not needed" if outcome.left_out else ""
    say(f"{num_done}{without}, {duration_text(outcome.elapsed_s)}.", console=console)
    for stage_id, text in outcome.failures.items():
        line, *log = text.splitlines()
        say(f"failed: {stage_id}: {line}", console=console)
        for own_line in log:
            say(f"    {own_line}", console=console)
    if outcome.lost_trainings:
        command = shlex.join(command_for(options, outcome.lost_trainings))
        say(f"To try only these again: {command}", console=console)
    _show_unpredicted(outcome.unpredicted, console=console)
    is_whole = outcome.num_done + len(outcome.left_out) == len(request.trainings) and not outcome.unpredicted
    return EXIT_DONE if is_whole else EXIT_NOT_DONE


def check_data(request: RunRequest, *, console: Console) -> None:
    """Print what the headers of the data show to be wrong; raises DataError if that is anything."""
    from orchestrator.driver.before_start import check_before_start

    problems = check_before_start(request)
    if not problems:
        return
    for problem in problems:
        say(problem.line, console=console)
    raise DataError(
        f"{counted(len(problems), 'problem')} in {request.data}; nothing was started. "
        f"orchestrator doctor --data {shlex.quote(request.data or '')} looks deeper"
    )


def _show_unpredicted(unpredicted: Mapping[str, str], *, console: Console) -> None:
    """Print which trainings lack scores of cases, and how these cases are predicted again."""
    for training_id, line in unpredicted.items():
        say(f"incomplete: {training_id}: {line}", console=console)
    if unpredicted:
        results, predictions = run_paths.results("TRAINING"), run_paths.predictions("TRAINING")
        say(
            f"To try these cases again: mend what is named, remove {results} and {predictions}/ of each, and give the "
            "same command.",
            console=console,
        )
