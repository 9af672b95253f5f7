"""What goes into a bundle of a run: its rows, its study, what happened; nothing of machines and places."""

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from orchestrator.bundle import names
from orchestrator.bundle.facts import FORMAT, RunFacts, made_with
from orchestrator.bundle.redaction import check_tells_nothing, redacted, telling_locations
from orchestrator.bundle.study_files import study_files
from orchestrator.driver.claim import looks_of, trainings_asked_for
from orchestrator.driver.request import RunRequest, preset_record
from orchestrator.driver.results.shown import failures_of, shown_of
from orchestrator.driver.status import read_status
from orchestrator.errors import ConfigError
from orchestrator.events import finite_or_null, read_events
from orchestrator.results.records import ResultRow
from orchestrator.results.store import ResultsStore, from_table
from orchestrator.stages.records.alike import record_of
from orchestrator.storage.interface import Storage
from orchestrator.storage.memory import MemoryStorage
from orchestrator.workflow.keys import StageKind

_EVENTS = {
    "run_started": ("trainings",),
    "training_epoch": ("training", "epoch", "num_epochs", "train_loss", "val_loss", "pseudo_dice", "elapsed_s"),
    "stage_started": ("stage", "stage_kind", "attempt", "gpu_kind", "gpus"),
    "stage_finished": ("stage", "stage_kind", "elapsed_s"),
    "stage_failed": ("stage", "stage_kind", "error", "final"),
}
"""Kinds of events that the report is made of, with those of their fields that say nothing of a machine."""


def inputs_of(request: RunRequest, storage: Storage, *, license_url: str = "") -> dict[str, bytes]:
    """Return the files that everything else in a bundle follows from, by path.

    Parameters
    ----------
    request
        Of the run.
    storage
        Its output location.
    license_url
        Address of the licence under which the bundle is handed on.

    Raises
    ------
    ConfigError
        If nothing is scored yet, or a file of the study says something that nobody else should read.
    """
    locations = telling_locations(storage.location, request.output, request.data or "", str(request.study.path.parent))
    table = ResultsStore(storage).read()
    if not table.num_rows:
        raise ConfigError(f"{storage.location}: no training has scores yet; expected at least one")
    asked_for = trainings_asked_for(storage)
    failures = failures_of(storage, read_status(storage))
    shown = shown_of(request, storage, table=table, asked_for=asked_for)
    rows = from_table(table)
    files = {**study_files(request), **_results(rows, locations=locations)}
    if events := _events(storage, locations=locations):
        files[names.EVENTS] = events
    facts = RunFacts(
        format=FORMAT,
        study_sha256=request.study.sha256,
        preset=json.loads(json.dumps(preset_record(request.preset))),
        seed=request.seed,
        phantoms=any(row.provenance.phantoms for row in rows),
        trainings=list(asked_for),
        until_decided=looks_of(storage),
        failures={stage: redacted(text.partition("\n")[0], locations=locations) for stage, text in failures.items()},
        warnings=[redacted(warning, locations=locations) for warning in shown.warnings],
        alike=list(map(record_of, shown.alike)),
        license=license_url,
        made_with=made_with(),
        sealed={name: sha256(content).hexdigest() for name, content in sorted(files.items())},
    )
    files[names.RUN] = facts.to_bytes()
    for name, content in files.items():
        check_tells_nothing(name, content, locations=locations)
    return dict(sorted(files.items()))


def _results(rows: Sequence[ResultRow], *, locations: tuple[str, ...]) -> dict[str, bytes]:
    """Return the files of the results store, whose messages say nothing of a machine."""
    target = MemoryStorage("bundle")
    rows_of: dict[str, list[ResultRow]] = {}
    for row in rows:
        message = redacted(row.score.message, locations=locations)
        rows_of.setdefault(row.training_id, []).append(replace(row, score=replace(row.score, message=message)))
    for training_id, own_rows in rows_of.items():
        ResultsStore(target).commit(training_id, own_rows)
    return target.files


def _events(storage: Storage, *, locations: tuple[str, ...]) -> bytes:
    """Return what has happened to the trainings, an event a line, in the order of time."""
    lines: list[str] = []
    begun = []
    for event in read_events(storage):
        fields = _EVENTS.get(event["kind"])
        is_of_a_case = "stage_kind" in event and event["stage_kind"] != StageKind.TRAIN
        if fields is None or is_of_a_case:
            continue
        kept = {"time": event["time"], "kind": event["kind"], **{name: event[name] for name in fields if name in event}}
        if "error" in kept:
            kept["error"] = redacted(str(kept["error"]), locations=locations)
        line = json.dumps(finite_or_null(kept))
        if event["kind"] == "run_started":
            # A call that has found nothing to do changes no bundle.
            begun = [line]
        else:
            lines += [*begun, line]
            begun = []
    return "".join(f"{line}\n" for line in sorted(lines)).encode()
