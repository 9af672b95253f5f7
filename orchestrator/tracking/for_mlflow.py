"""Trainings as runs of MLflow: a database with experiments, and the tables of cases beside it.

MLflow names a run itself; ours is known by a tag, and by the digest of what was written whether it is still the same.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from orchestrator.tracking.tracked import TrackedRun

DATABASE, ARTIFACTS = "mlflow.db", "artifacts"
_ID, _DIGEST = "export.id", "export.sha256"
_MOST_AT_ONCE = 500
"""Metrics of one call of MLflow, which takes 1,000."""
_LONGEST = 5000
"""Characters of a parameter or tag; MLflow refuses longer ones."""


def write(runs: Iterable[TrackedRun], *, folder: Path, told: Callable[[TrackedRun], None]) -> None:
    """Write trainings to the database of a folder; `told` gets each when it is there."""
    client = MlflowClient(tracking_uri=f"sqlite:///{(folder / DATABASE).resolve()}")
    for run in runs:
        _write(run, client=client, folder=folder)
        told(run)


def _write(run: TrackedRun, *, client: MlflowClient, folder: Path) -> None:
    digest = hashlib.sha256(json.dumps(asdict(run), default=str, sort_keys=True).encode()).hexdigest()
    experiment_id = _experiment(run.project, client=client, folder=folder)
    there = client.search_runs([experiment_id], f"tags.`{_ID}` = '{run.id}'")
    if any(one.data.tags.get(_DIGEST) == digest for one in there):
        return
    for one in there:
        client.delete_run(one.info.run_id)
    # Whatever ends this call early, the next one finds and replaces what it has begun.
    made = client.create_run(experiment_id, start_time=_ms(run.start), run_name=run.name, tags={_ID: run.id})
    id_ = made.info.run_id
    params = [Param(name, value[:_LONGEST]) for name, value in run.params.items()]
    client.log_batch(id_, params=params, tags=[RunTag(name, value[:_LONGEST]) for name, value in run.tags.items()])
    metrics = [
        Metric(name, value, _ms(epoch.time), epoch.number)
        for epoch in run.epochs
        for name, value in epoch.metrics.items()
    ]
    metrics += [Metric(name, value, _ms(run.end), 0) for name, value in run.scores.items()]
    for start in range(0, len(metrics), _MOST_AT_ONCE):
        client.log_batch(id_, metrics=metrics[start : start + _MOST_AT_ONCE])
    if run.cases:
        _write_cases(run, folder / ARTIFACTS / experiment_id / id_ / "artifacts")
    client.set_tag(id_, _DIGEST, digest)
    client.set_terminated(id_, "FINISHED" if run.is_whole else "FAILED", _ms(run.end))


def _experiment(name: str, *, client: MlflowClient, folder: Path) -> str:
    """Return the id of the experiment of a study."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    id_ = str(client.create_experiment(name))
    # MLflow makes each location absolute: a path of this machine, that is wrong where the folder is taken to.
    with closing(sqlite3.connect(folder / DATABASE)) as connection, connection:
        for one in (id_, "0"):
            values = (f"./{ARTIFACTS}/{one}", one)
            connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", values)
    return id_


def _write_cases(run: TrackedRun, folder: Path) -> None:
    """Write the table of cases as MLflow writes tables, which its page shows."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(run.cases[0])
    content = {"columns": columns, "data": [[row[name] for name in columns] for row in run.cases]}
    (folder / "cases.json").write_text(json.dumps(content), encoding="utf-8")


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)
