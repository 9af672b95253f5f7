"""Trainings as offline runs of Weights & Biases, which `wandb sync` hands to a server.

W&B takes the time of its own start for that of a run, and knows no other: while a training is written, the clock
that it reads is set to when that began. What it notes of the machine is switched off, or removed.
"""

import csv
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import wandb

from orchestrator.tracking.tracked import TrackedRun

_FORBIDDEN = re.compile(r"[/\\#?%:]")
"""In the name of a project."""
_LONGEST_NAME = 128


def write(runs: Iterable[TrackedRun], *, folder: Path, told: Callable[[TrackedRun], None]) -> None:
    """Write trainings to `wandb/offline-run-*` of a folder; `told` gets each when it is there."""
    place = folder / "wandb"
    place.mkdir(parents=True, exist_ok=True)
    for run in runs:
        for before in place.glob(f"offline-run-*-{run.id}"):
            shutil.rmtree(before)
        with _clock_at(run.start.timestamp()):
            _write(run, folder=folder)
        for log in [*place.glob("debug*.log"), place / "latest-run"]:
            log.unlink(missing_ok=True)
        for logs in place.glob(f"offline-run-*-{run.id}/logs"):
            shutil.rmtree(logs)
        told(run)


def _write(run: TrackedRun, *, folder: Path) -> None:
    settings = wandb.Settings(
        mode="offline",
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        save_code=False,
        host="none",
        username="none",
        email="",
        program="export-tracking",
        root_dir=str(folder),
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    there = wandb.init(
        project=_FORBIDDEN.sub("_", run.project)[:_LONGEST_NAME],
        id=run.id,
        name=run.name,
        group=run.group,
        dir=str(folder),
        config={**run.params, **run.tags},
        settings=settings,
        reinit="create_new",
    )
    for epoch in run.epochs:
        there.log({**epoch.metrics, "_timestamp": epoch.time.timestamp()}, step=epoch.number)
    there.summary.update(dict(run.scores))
    if run.cases:
        table = Path(there.dir) / "cases.csv"
        with table.open("w", newline="", encoding="utf-8") as opened:
            rows = csv.DictWriter(opened, fieldnames=list(run.cases[0]))
            rows.writeheader()
            rows.writerows(run.cases)
        there.save(str(table), base_path=there.dir, policy="now")
    there.finish(exit_code=0 if run.is_whole else 1)


@contextmanager
def _clock_at(start_s: float) -> Iterator[None]:
    """Context in which the clock of this process goes on from another time."""
    real = time.time
    ahead_s = real() - start_s

    def shifted() -> float:
        return real() - ahead_s

    time.time = shifted
    try:
        yield
    finally:
        time.time = real
