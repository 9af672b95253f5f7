"""What a tracking tool is told of a training: settings, losses of each epoch, scores, and where all of it comes from.

Nothing of a machine is in it, no path, and nothing of a patient but the names of cases.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import Training
from orchestrator.driver.claim import trainings_asked_for
from orchestrator.driver.request import RunRequest, identity_of, preset_record
from orchestrator.driver.results.shown import shown_of
from orchestrator.errors import StorageError
from orchestrator.events import read_events
from orchestrator.report.scores_frame import scores_frame
from orchestrator.results.store import ResultsStore
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_values import JsonMapping, JsonObject
from orchestrator.workflow.keys import StageKey, StageKind

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.report.reported import Reported

_CURVES = ("train_loss", "val_loss", "pseudo_dice", "elapsed_s", "loader_wait_s")
"""Of an event that an epoch has ended."""
_MEANS, _MEDIANS = ("dsc", "nsd"), ("hd95_mm", "assd_mm")
_CASE_COLUMNS = ("evaluation_set", "dataset", "case", "structure", "status", "dsc", "nsd", "hd95_mm", "assd_mm",
                 "reference_ml", "predicted_ml")  # fmt: skip
_PLANNED = ("patch_size", "batch_size", "spacing", "data_identifier")
"""Of nnU-Net's plans, of the configuration that is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """What was measured in an epoch."""

    number: int
    """From 0."""
    time: datetime
    """When it ended."""
    metrics: Mapping[str, float]
    """Finite numbers by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """A training as a tracking tool has it."""

    id: str
    """32 hexadecimal digits: the same each time that this training of this run is exported."""
    name: str
    group: str
    """The trainings that differ in nothing but their fold."""
    project: str
    """Title of the study."""
    start: datetime
    end: datetime
    is_whole: bool
    """Whether it has scores."""
    params: Mapping[str, str]
    tags: Mapping[str, str]
    epochs: tuple[Epoch, ...]
    scores: Mapping[str, float]
    """`EVALUATION SET/STRUCTURE/METRIC`: means of DSC and NSD, medians of distances, numbers of cases."""
    cases: tuple[JsonObject, ...]
    """A row a structure of a case."""


def runs_of(request: RunRequest, storage: Storage) -> Iterator[TrackedRun]:
    """Yield the trainings of a run that have begun, in the order of the study."""
    shown = shown_of(request, storage, table=ResultsStore(storage).read(), asked_for=trainings_asked_for(storage))
    return _tracked(request, storage, shown=shown, events=read_events(storage))


def _tracked(
    request: RunRequest, storage: Storage, *, shown: "Reported", events: Sequence[JsonMapping]
) -> Iterator[TrackedRun]:
    scores = scores_frame(shown)
    rows = dict(iter(scores.groupby("training_id", sort=False)))
    names = metric_names(set(scores["structure"]))
    times = _times(events)
    epochs = _epochs(events)
    first = min((str(event["time"]) for event in events), default="")
    # Whatever the study has become since, and wherever its data lie: the same training of the same run is not two.
    fixed = {**identity_of(request), "study_sha256": "", "data": "", "began": first}
    identity = json.dumps(fixed, sort_keys=True)
    for training in shown.trainings:
        scored, own = rows.get(training.id), epochs.get(training.id, ())
        found = [*times.get(training.id, ()), *(epoch.time for epoch in own)]
        # Scores without any event, as of a run whose events were removed, have no time.
        if not found:
            continue
        yield TrackedRun(
            id=hashlib.sha256(f"{identity} {training.id}".encode()).hexdigest()[:32],
            name=training.id,
            group=training.group,
            project=request.study.title,
            start=min(found),
            end=max(found),
            is_whole=scored is not None,
            params=_params(request, storage, training),
            tags=_tags(request, training, scored=scored, run_id=hashlib.sha256(identity.encode()).hexdigest()[:8]),
            epochs=own,
            scores={} if scored is None else dict(_scores(scored, names=names)),
            cases=() if scored is None else tuple(_cases(scored)),
        )


def _times(events: Sequence[JsonMapping]) -> dict[str, list[datetime]]:
    """Return when something began or ended with a training itself, by its id."""
    times: dict[str, list[datetime]] = {}
    for event in events:
        key = StageKey.parse(str(event["stage"])) if "stage" in event else None
        if key is not None and key.training and key.kind in {StageKind.TRAIN, StageKind.PREDICT, StageKind.SCORE}:
            times.setdefault(key.training, []).append(datetime.fromisoformat(str(event["time"])))
    return times


def _epochs(events: Sequence[JsonMapping]) -> dict[str, tuple[Epoch, ...]]:
    """Return the epochs of each training; of one that was carried out twice the last."""
    found: dict[str, dict[int, Epoch]] = {}
    for event in events:
        if event["kind"] != "training_epoch":
            continue
        number = int(event["epoch"])
        metrics = {name: float(event[name]) for name in _CURVES if isinstance(event.get(name), int | float)}
        epoch = Epoch(number=number, time=datetime.fromisoformat(str(event["time"])), metrics=metrics)
        found.setdefault(str(event["training"]), {})[number] = epoch
    return {training: tuple(own[number] for number in sorted(own)) for training, own in found.items()}


def _params(request: RunRequest, storage: Storage, training: Training) -> dict[str, str]:
    """Return what a training was set to: its facets, model, preset and plan."""
    preset = preset_record(request.preset.changed_by(training.model.changes))
    params = {
        name: value for name, value in preset.items() if value is not None and name not in {"name", "case_limits"}
    }
    params |= {f"facet_{name}": value for name, value in training.facets.items()}
    params |= {
        "preset": request.preset.name,
        "seed": request.seed,
        "fold": training.fold,
        "configuration": training.model.configuration,
        "planner": training.model.planner,
        "trainer": training.model.trainer,
        "num_train_cases": len(training.train),
        "num_val_cases": len(training.val),
        **_planned(storage, training),
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()}


def _planned(storage: Storage, training: Training) -> dict[str, object]:
    """Return what nnU-Net has planned for a training; nothing if its plan cannot be read."""
    try:
        plan = json.loads(storage.read_bytes(run_paths.plan(training.id)))
        configuration = plan["plans"]["configurations"][training.model.configuration]
        return {f"plan_{name}": configuration[name] for name in _PLANNED if name in configuration}
    except (StorageError, KeyError, RecursionError, TypeError, ValueError):
        return {}


def _tags(request: RunRequest, training: Training, *, scored: "pd.DataFrame | None", run_id: str) -> dict[str, str]:
    """Return where a training comes from."""
    tags = {
        "run": run_id,
        "study": request.study.title,
        "study_sha256": request.study.sha256,
        "group": training.group,
        "data": "phantoms" if _are_phantoms(request, scored) else "data sets",
    }
    if scored is not None:
        first = scored.iloc[0]
        versions = json.loads(first["versions"])
        tags |= {f"version_{name}": str(version) for name, version in versions.items()}
        tags |= {name: str(first[name]) for name in ("data_sha256", "split_sha256", "plan_sha256", "checkpoint_sha256")}
    return tags


def _are_phantoms(request: RunRequest, scored: "pd.DataFrame | None") -> bool:
    return request.data is None or (scored is not None and bool(scored["phantoms"].any()))


def _scores(scored: "pd.DataFrame", *, names: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """Yield the scores of a training by name, those that are numbers."""
    for (evaluation_set, structure), part in scored.groupby(["evaluation_set", "structure"], sort=False):
        where = f"{evaluation_set}/{names[structure]}"
        values = {f"{name}_mean": part[name].mean() for name in _MEANS}
        values |= {f"{name}_median": part[name].median() for name in _MEDIANS}
        values |= {"num_cases": len(part), "num_missing": int((part["status"] == "missing").sum())}
        yield from ((f"{where}/{name}", float(value)) for name, value in values.items() if not math.isnan(value))


def _cases(scored: "pd.DataFrame") -> Iterator[JsonObject]:
    for row in scored[list(_CASE_COLUMNS)].to_dict("records"):
        yield {str(name): None if isinstance(value, float) and math.isnan(value) else value
               for name, value in row.items()}  # fmt: skip


def metric_names(texts: Collection[str]) -> dict[str, str]:
    """Return each text as part of the name of a metric, as all tools take it; no two are alike."""
    names = {text: re.sub(r"[^\w.-]", "_", text, flags=re.ASCII) for text in texts}
    counts = Counter(names.values())
    # Of two in other scripts than Latin nothing but their length may be left.
    return {
        text: name if counts[name] == 1 else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
        for text, name in names.items()
    }
