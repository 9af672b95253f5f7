"""The main job: train, predict, score and tabulate a study with one command."""

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator.api import make_request, require_data
from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.loading import DEFAULT_STUDY, load_study
from orchestrator.benchmark.presets import PRESETS, Preset
from orchestrator.cluster.environment import LAUNCHED_FROM, use_token
from orchestrator.configuration import is_folder
from orchestrator.console import consoles, parse, print_whole
from orchestrator.driver.request import RunRequest
from orchestrator.errors import ConfigError, DataError, OrchestratorError
from orchestrator.progress import counted, duration_text
from orchestrator.shipped import LOCAL_CLUSTER, PRICES, checkout
from orchestrator.simulation.fleet import SIZES
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
PARTNERS = {"json": "dry_run", "deadline": "simulate", "max_cost": "simulate", "prices": "simulate"}
"""Options that mean nothing without another one."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.run_all",
        description="Train, predict, score and tabulate a study, by default the one that is shipped. "
        "Without --data, CT phantoms are generated. The same command again does only what is missing. Exit code 0: all "
        "trainings are done, with a score for every case; 1: something failed or is missing; 2: bad input; 130: "
        "interrupted.",
    )
    add = parser.add_argument
    add("--study", type=Path, default=DEFAULT_STUDY, help="what is trained (default: the shipped study)")
    add(
        "--cluster",
        type=Path,
        default=LOCAL_CLUSTER,
        help="where to run (default: this machine)",
    )
    add("--data", help="folder or s3:// prefix with the public downloads (default: generated phantoms)")
    add("--output", help="folder or s3:// prefix for everything that the run writes (default: runs/PRESET)")
    add("--preset", default="smoke", help=f"how much to train: {', '.join(PRESETS)} (default: smoke)")
    add("--matrix", help="which trainings of the study, all for every one (default: its first matrix)")
    add(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only trainings of such a name, or with FACET=PATTERN; may be repeated",
    )
    add(
        "--redo-changed",
        action="store_true",
        help="where files of --data have changed since this run has read them, remove all that was made of them and "
        "make it anew (default: refuse)",
    )
    add("--seed", type=int, default=0, help="seed of phantoms and trainings (default: 0)")
    add("--dry-run", action="store_true", help="show the trainings, check --data as far as given, start nothing")
    add("--json", action="store_true", help="with --dry-run: print JSON")
    sizes = f"{', '.join(map(str, SIZES[:-1]))} or {SIZES[-1]}"
    add(
        "--simulate",
        type=Path,
        metavar="FILE",
        help=f"play the run on this cluster file instead: time, cost; and with {sizes} of its GPU machines",
    )
    add("--deadline", type=float, metavar="HOURS", help="with --simulate: choose the cheapest of these that is in time")
    add("--max-cost", type=float, metavar="USD", help="with --simulate: choose the fastest of these within this budget")
    add("--prices", type=Path, help="with --simulate: what machines cost (default: clusters/prices.yaml)")
    add("--yes", action="store_true", help="with rented machines: start them without asking")
    add("--keep", action="store_true", help="with rented machines: leave them running afterwards")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code that its help promises."""
    console, errors = consoles()
    options = parse(build_parser(), arguments)
    try:
        return carry_out(select(options), options, console=console)
    except (ConfigError, DataError) as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        return EXIT_USAGE
    except OrchestratorError as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        return EXIT_FAILED
    except KeyboardInterrupt:
        console.print("Interrupted. What is done is kept: the same command goes on from here.")
        return EXIT_INTERRUPTED


def carry_out(request: RunRequest, options: argparse.Namespace, *, console: Console) -> int:
    """Do what the command line asks for; returns the exit code."""
    if options.dry_run:
        show_trainings(request, console=console, as_json=options.json)
        if request.data:
            from orchestrator.driver.before_start import check_unchanged

            check_unchanged(request)
            # Beside JSON the lines go where they do no harm.
            check_data(request, console=consoles()[1] if options.json else console)
        return EXIT_DONE
    if options.simulate:
        return simulate(request, options, console=console)
    if request.cluster.kind == "aws":
        return launch_machines(request, options, console=console)
    return run_here(request, options, console=console)


def select(options: argparse.Namespace) -> RunRequest:
    """Read the files that the command line names; raises ConfigError if anything does not fit."""
    check_options(options)
    request = make_request(
        load_study(options.study),
        matrix=options.matrix,
        only=options.only,
        preset=options.preset,
        cluster=options.simulate or options.cluster,
        data=options.data,
        output=options.output,
        seed=options.seed,
        redo_changed=options.redo_changed,
    )
    if (options.yes or options.keep) and (options.simulate or request.cluster.kind != "aws"):
        raise ConfigError("--yes and --keep: only with a --cluster whose machines are started for the run (kind aws)")
    if options.dry_run and request.data and "://" not in request.data and not is_folder(request.data):
        raise ConfigError(
            f"--data {request.data}: no such folder of this machine; expected the one with the public downloads"
        )
    if not (options.simulate or options.dry_run):
        require_data(request)
    return request


def check_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for an option that would be ignored without another, and for a limit that none can keep."""
    for name, partner in PARTNERS.items():
        value = getattr(options, name)
        if value is not None and value is not False and not getattr(options, partner):
            raise ConfigError(f"{_flag(name)}: only with {_flag(partner)}")
    if options.dry_run and options.simulate:
        raise ConfigError("--dry-run and --simulate: expected one of them")
    for name in ("deadline", "max_cost"):
        limit = getattr(options, name)
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise ConfigError(f"{_flag(name)} {limit:g}: expected a number above 0")


def show_trainings(request: RunRequest, *, console: Console, as_json: bool) -> None:
    """Print the trainings that would be carried out."""
    rows = [_describe(training, request.preset) for training in request.trainings]
    if as_json:
        _say(json.dumps(rows, indent=1), console=console)
        return
    facets = dict.fromkeys(name for training in request.trainings for name in training.facets)
    names = ("id", *facets, "fold")
    table = Table(*names, "train", "val", "test", "hours", box=None, padding=(0, 1), header_style="bold")
    for row in rows:
        hours = f"{row['expected_hours']:.3g}"
        numbers = (row["num_train_cases"], row["num_val_cases"], row["num_test_cases"])
        table.add_row(*(str(row.get(name, "")) for name in names), *map(str, numbers), hours)
    print_whole(table, console=console)
    total = len(rows) * request.preset.expected_training_s / 3600
    unit = "CPU-core" if request.preset.is_for_cpus else "A100"
    console.print(
        f"{counted(len(rows), 'training')}, about {total:.3g} {unit} hours of training with preset "
        f"{request.preset.name}."
    )
    for leak in request.study.patient_leaks(request.trainings):
        _say(f"note: {leak.line}", console=console)


def simulate(request: RunRequest, options: argparse.Namespace, *, console: Console) -> int:
    """Print what would come of the run on the cluster, and of other sizes; returns 1 if none keeps the limits."""
    from orchestrator.cluster.prices import load_prices
    from orchestrator.simulation.forecast import Limits, best, simulate_run
    from orchestrator.simulation.text import compare, describe

    prices = load_prices(options.prices or PRICES) if request.cluster.kind == "aws" else None
    limits = Limits(deadline_hours=options.deadline, max_usd=options.max_cost)
    found = simulate_run(
        request.study,
        request.trainings,
        preset=request.preset,
        phantoms=request.data is None,
        cluster=request.cluster,
        prices=prices,
        seed=request.seed,
    )
    chosen = best([found.asked_for, *found.others], limits) if limits.are_set else None
    date = prices.date if prices else None
    lines = [
        f"{counted(len(request.trainings), 'training')} with preset {request.preset.name}, simulated: nothing is "
        "started."
    ]
    lines += describe(found.asked_for, prices_date=date)
    if found.others:
        lines += [
            "",
            "other clusters, none of which is beaten in time and cost:",
            *compare(found.others, chosen=chosen),
        ]
    if chosen:
        lines += ["", "the choice within the limits (*):", *describe(chosen, prices_date=date)]
    elif limits.are_set:
        lines += ["", "none of these clusters keeps the limits"]
    for line in lines:
        _say(line, console=console)
    return EXIT_FAILED if limits.are_set and chosen is None else EXIT_DONE


def run_here(request: RunRequest, options: argparse.Namespace, *, console: Console) -> int:
    """Run on the cluster that this machine can reach, and say what came out."""
    if request.cluster.auth_token is not None:
        # Before Ray is imported, which reads its environment then.
        use_token(request.cluster.auth_token)
    from orchestrator.driver.run import run

    check_data(request, console=console)
    outcome = run(request, console=console)
    for key in outcome.tables:
        if key.endswith(".md"):
            _say(f"{request.output}/{key}", console=console)
    num_done = f"{outcome.num_done} of {len(request.trainings)} trainings done"
    _say(f"{num_done}, {duration_text(outcome.elapsed_s)}.", console=console)
    for stage_id, text in outcome.failures.items():
        line, *log = text.splitlines()
        _say(f"failed: {stage_id}: {line}", console=console)
        for own_line in log:
            _say(f"    {own_line}", console=console)
    if outcome.lost_trainings:
        command = shlex.join(_command_for(options, outcome.lost_trainings))
        _say(f"To try only these again: {command}", console=console)
    _show_unpredicted(outcome.unpredicted, console=console)
    is_whole = outcome.num_done == len(request.trainings) and not outcome.unpredicted
    return EXIT_DONE if is_whole else EXIT_FAILED


def check_data(request: RunRequest, *, console: Console) -> None:
    """Print what the headers of the data show to be wrong; raises DataError if that is anything."""
    from orchestrator.driver.before_start import check_before_start

    problems = check_before_start(request)
    if not problems:
        return
    for problem in problems:
        _say(problem.line, console=console)
    raise DataError(
        f"{counted(len(problems), 'problem')} in {request.data}; nothing was started. "
        f"python -m orchestrator.doctor --data {shlex.quote(request.data or '')} looks deeper"
    )


def _show_unpredicted(unpredicted: Mapping[str, str], *, console: Console) -> None:
    """Print which trainings lack scores of cases, and how these cases are predicted again."""
    for training_id, line in unpredicted.items():
        _say(f"incomplete: {training_id}: {line}", console=console)
    if unpredicted:
        results, predictions = run_paths.results("TRAINING"), run_paths.predictions("TRAINING")
        _say(
            f"To try these cases again: mend what is named, remove {results} and {predictions}/ of each, and give the "
            "same command.",
            console=console,
        )


def launch_machines(request: RunRequest, options: argparse.Namespace, *, console: Console) -> int:
    """Start the machines of a cluster file, run there, follow, and fetch the tables."""
    from orchestrator.cluster.launch import Launch, RayJobs, ShellCommands, launch_and_follow

    def show(line: str) -> None:
        _say(line, console=console)

    def confirm(description: str) -> bool:
        show(description)
        if options.yes:
            return True
        try:
            answer = console.input("Start it? [y/N] ")
        except EOFError:
            raise ConfigError("nobody can answer whether to start machines; expected --yes") from None
        return answer.strip().lower() in {"y", "yes"}

    arguments = ["--output", request.output, "--preset", request.preset.name]
    arguments += ["--seed", str(request.seed)]
    arguments += ["--matrix", options.matrix] if options.matrix else []
    arguments += ["--study", _in_project(options.study)] if options.study != DEFAULT_STUDY else []
    arguments += ["--data", request.data] if request.data else []
    arguments += ["--redo-changed"] if options.redo_changed else []
    arguments += [part for pattern in options.only for part in ("--only", pattern)]
    launch = Launch(
        config=request.cluster,
        driver_arguments=tuple(arguments),
        training_hours=len(request.trainings) * request.preset.expected_training_s / 3600,
        keep=options.keep,
    )
    succeeded = launch_and_follow(launch, confirm=confirm, show=show, commands=ShellCommands(), connect=RayJobs)
    if succeeded is None:
        show("Nothing was started.")
        return EXIT_FAILED
    # Where some trainings failed the others are in the tables.
    storage = open_storage(request.output)
    folder = open_storage(f"runs/{launch.submission_id}")
    for key in run_paths.own_keys(storage, run_paths.TABLES):
        folder.write_bytes(key, storage.read_bytes(key))
        show(f"{folder.location}/{key}")
    return EXIT_DONE if succeeded else EXIT_FAILED


def _in_project(study: Path) -> str:
    """Return the path of a study file on a rented machine, to which this project's folder is copied."""
    path, project = study.resolve(), checkout()
    if not path.is_relative_to(project / "splits"):
        raise ConfigError(f"--study {study}: is not copied to rented machines; expected a file below {project}/splits")
    return path.relative_to(project).as_posix()


def _describe(training: Training, preset: Preset) -> dict[str, object]:
    tests = [evaluation for evaluation in training.evaluation_sets if evaluation.name != "val"]
    return {
        "id": training.id,
        **training.facets,
        "fold": training.fold,
        "configuration": training.model.configuration,
        "num_train_cases": len(training.train),
        "num_val_cases": len(training.val),
        "num_test_cases": sum(len(evaluation.cases) for evaluation in tests),
        "expected_hours": round(preset.expected_training_s / 3600, 4),
    }


def _command_for(options: argparse.Namespace, training_ids: Sequence[str]) -> list[str]:
    """Return the same command for some trainings alone."""
    command = ["python", "-m", "orchestrator.run_all"]
    defaults = vars(build_parser().parse_args([]))
    given = vars(options) | ({"cluster": os.environ[LAUNCHED_FROM]} if LAUNCHED_FROM in os.environ else {})
    for name, value in given.items():
        if value != defaults[name] and name != "only":
            command += [_flag(name), *([] if value is True else [str(value)])]
    return command + [part for training_id in training_ids for part in ("--only", training_id)]


def _say(line: str, *, console: Console) -> None:
    """Print a line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


if __name__ == "__main__":
    sys.exit(main())
