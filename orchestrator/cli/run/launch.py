"""A run on machines that are started for it: asked for, followed, and its tables fetched."""

import argparse
from functools import partial
from pathlib import Path

from rich.console import Console

from orchestrator.benchmark.loading import DEFAULT_STUDY
from orchestrator.cli.console import EXIT_DONE, EXIT_NOT_DONE, say
from orchestrator.cli.run.options import words_of
from orchestrator.cluster.config import Driver
from orchestrator.driver.before_start import training_hours
from orchestrator.driver.request import RunRequest, name_of
from orchestrator.errors import ConfigError
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage


def launch_machines(request: RunRequest, options: argparse.Namespace, *, console: Console) -> int:
    """Start the machines of a cluster file, run there, follow, and fetch the tables."""
    return launch_driver(request, driver_of(request, options), is_sure=options.yes, console=console)


def launch_driver(request: RunRequest, driver: Driver, *, is_sure: bool, console: Console) -> int:
    """Start the machines of a cluster file, run a driver there, follow, and fetch the tables."""
    show = partial(say, console=console)
    if request.cluster.is_rented and request.data is not None and "://" not in request.data:
        raise ConfigError(
            f"--data {request.data}: machines that are started for the run cannot reach it; expected s3://bucket/prefix"
        )
    confirm = partial(_confirm, console=console, is_sure=is_sure)
    outcome = request.cluster.launch(driver, confirm=confirm, show=show)
    if outcome is None:
        show("Nothing was started.")
        return EXIT_NOT_DONE
    # Where some trainings failed the others are in the tables.
    if outcome.folder is not None:
        storage = open_storage(driver.run.output)
        folder = open_storage(str(outcome.folder))
        for key in run_paths.own_keys(storage, run_paths.TABLES):
            folder.write_bytes(key, storage.read_bytes(key))
            show(f"{folder.location}/{key}")
    return EXIT_DONE if outcome.succeeded else EXIT_NOT_DONE


def driver_of(request: RunRequest, options: argparse.Namespace) -> Driver:
    """Return the driver of a run that is carried out elsewhere; raises ConfigError for what no machine could do."""
    study = study_argument(request, options.study)
    driver_options = {
        "output": request.output,
        "preset": request.preset.name,
        "seed": request.seed,
        "matrix": options.matrix,
        "study": study,
        "data": request.data,
        "redo_changed": options.redo_changed,
        "until_decided": options.until_decided,
        "only": options.only,
    }
    return Driver(
        run=name_of(request),
        arguments=tuple(words_of(driver_options)),
        training_hours=training_hours(request),
        keep=options.keep,
        needs_gpus=not request.preset.is_for_cpus,
    )


def study_argument(request: RunRequest, study: Path) -> str | None:
    """Return what a driver elsewhere finds the study by; None for the one that comes along."""
    return None if study == DEFAULT_STUDY else request.cluster.file_argument(study, option="--study")


def _confirm(description: str, *, console: Console, is_sure: bool) -> bool:
    say(description, console=console)
    if is_sure:
        return True
    try:
        answer = console.input("Start it? [y/N] ", markup=False)
    except EOFError:
        raise ConfigError("nobody can answer whether to start machines; expected --yes") from None
    return answer.strip().lower() in {"y", "yes"}
