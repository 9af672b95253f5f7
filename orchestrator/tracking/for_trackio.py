"""Trainings as runs of trackio: a database a study, in the folder that it is told to look in."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trackio.sqlite_storage import SQLiteStorage

from orchestrator.storage.json_values import JsonObject
from orchestrator.tracking.tracked import TrackedRun

_FOLDER = "TRACKIO_DIR"
"""What the modules of trackio call the place of their files; read from the environment once."""


def write(runs: Iterable[TrackedRun], *, folder: Path, told: Callable[[TrackedRun], None]) -> None:
    """Write trainings to the databases of a folder; `told` gets each when it is there."""
    with _in_folder(folder):
        for run in runs:
            _write(run, project=re.sub(r"[^\w-]+", "-", run.project, flags=re.ASCII))
            told(run)


def _write(run: TrackedRun, *, project: str) -> None:
    SQLiteStorage.delete_run(project, run.name, run_id=run.id)
    last = run.epochs[-1].number + 1 if run.epochs else 0
    metrics: list[JsonObject] = [dict(epoch.metrics) for epoch in run.epochs]
    metrics.append({**run.scores, "cases": {"_type": "trackio.table", "_value": list(run.cases)}})
    times = [*(epoch.time for epoch in run.epochs), run.end]
    SQLiteStorage.bulk_log(
        project,
        run.name,
        metrics,
        steps=[*(epoch.number for epoch in run.epochs), last],
        timestamps=[one.isoformat() for one in times],
        config={**run.params, **run.tags, "_Group": run.group, "_Created": run.start.isoformat()},
        run_id=run.id,
    )


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Context in which trackio's files are in a folder."""
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "trackio"]
    before = {module: getattr(module, _FOLDER) for module in modules if hasattr(module, _FOLDER)}
    for module in before:
        setattr(module, _FOLDER, folder.resolve())
    try:
        yield
    finally:
        for module, place in before.items():
            setattr(module, _FOLDER, place)
