"""Trained models of a run as zips that nnU-Net installs and runs, each with a card, and an index of all."""

import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.loading import load_study
from orchestrator.errors import ConfigError
from orchestrator.inference.model_card import CardFacts, model_card
from orchestrator.inference.models import (
    SETTINGS,
    ModelSource,
    OpenModel,
    finished_trainings,
    members_of,
    names_in_run,
    opened,
)
from orchestrator.results.store import ResultsStore, from_table
from orchestrator.sources.registry import LAYOUTS
from orchestrator.stages.records.cases import has_phantoms
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.storage.json_values import JsonObject

INDEX = "index.json"
CARD = "model_card.md"
FIRST_NUMBER = 700
"""Of the data sets under which nnU-Net installs the models; it has numbers up to 999."""
_LAST_NUMBER = 999
_OF_A_FOLD = re.compile(r"([A-Za-z0-9][\w.-]*)-fold(\d+)")
"""What a training is called unless its study says it otherwise."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first time that a zip knows: the same on every machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """A zip."""

    file: str
    training: str
    dataset: str
    """`DatasetNNN_Name` under which nnU-Net installs it."""
    group: str
    """Of the training."""
    fold: int
    sha256: str
    num_bytes: int


def export_models(
    run: str | Path,
    output: str | Path | None = None,
    *,
    trainings: Sequence[str] | str = (),
    first_number: int = FIRST_NUMBER,
    on_model: Callable[[ExportedModel], None] = lambda _: None,
) -> list[ExportedModel]:
    """Write a zip for each training, and an index with their digests; the same models give the same bytes.

    Folds are models of their own: their plans follow from their own training cases, and nnU-Net holds one plan a model.
    A file `<group>.yaml` names them together, for `predict`, and `<ensemble>.yaml` the members of an ensemble.

    Parameters
    ----------
    run
        Output location of a run.
    output
        Folder of the zips; `models` of the run unless given.
    trainings
        Which one or several; all that are finished unless given.
    first_number
        Number of the first data set; each training of the run has its own, whichever are exported.
    on_model
        Called after each.

    Raises
    ------
    ConfigError
        If there is no such training, or no number left.
    """
    source, target = open_storage(run), open_storage(output or default_output(run))
    there, numbered = finished_trainings(source), names_in_run(source)
    chosen = _chosen(str(run), [trainings] if isinstance(trainings, str) else trainings, there=there)
    if not 1 <= first_number <= _LAST_NUMBER - len(numbered) + 1:
        raise ConfigError(
            f"numbers from {first_number}: expected room for {len(numbered)} data sets up to {_LAST_NUMBER}"
        )
    made, groups = [], _group_and_fold(source, there)
    for training in chosen:
        dataset = f"Dataset{first_number + numbered.index(training):03d}_{training.replace('-', '_')}"
        content = _zip(source, training, dataset=dataset)
        target.write_bytes(f"{training}.zip", content)
        made.append(_exported(training, content, dataset=dataset, group_and_fold=groups[training]))
        on_model(made[-1])
    _write_index(target, made)
    _write_ensembles(target)
    for name in numbered:
        _write_members(target, name, members_of(source, name))
    return made


def default_output(run: str | Path) -> str:
    """Return where the models of a run are put unless something else is asked for."""
    return f"{str(run).rstrip('/')}/models"


def _group_and_fold(source: Storage, trainings: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return group and fold of trainings, as their rows tell them; of those without, as usual names do."""
    store, found = ResultsStore(source), dict[str, tuple[str, int]]()
    for name in trainings:
        match = _OF_A_FOLD.fullmatch(name)
        found[name] = (match[1], int(match[2])) if match else (name, 0)
    rows = from_table(store.read()) if store.finished() else []
    return found | {row.training_id: (row.group, row.fold) for row in rows}


def _exported(training: str, content: bytes, *, dataset: str, group_and_fold: tuple[str, int]) -> ExportedModel:
    group, fold = group_and_fold
    return ExportedModel(
        file=f"{training}.zip",
        training=training,
        dataset=dataset,
        group=group,
        fold=fold,
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
    )


def _chosen(run: str, trainings: Sequence[str], *, there: Sequence[str]) -> Sequence[str]:
    """Return the trainings that were asked for, or all; raises ConfigError for one that is not there."""
    if missing := [training for training in trainings if training not in there]:
        raise ConfigError(f"{run}: no finished training {', '.join(missing)}; expected some of {', '.join(there)}")
    if not there:
        raise ConfigError(f"{run}: no finished training; expected at least one")
    return trainings or there


def _write_index(target: Storage, made: Sequence[ExportedModel]) -> None:
    """List the models of this call, and those of calls before whose files are there."""
    models = read_json(target, INDEX, {"models": dict})["models"] if target.exists(INDEX) else {}
    models = {file: entry for file, entry in models.items() if target.exists(file)}
    models |= {
        one.file: {
            "training": one.training,
            "group": one.group,
            "fold": one.fold,
            "dataset": one.dataset,
            "sha256": one.sha256,
            "bytes": one.num_bytes,
        }
        for one in made
    }
    write_json(target, INDEX, {"models": dict(sorted(models.items()))})


def _write_ensembles(target: Storage) -> None:
    """Name the folds of each group together, which nnU-Net cannot hold in one model as their plans differ."""
    groups: dict[str, dict[str, int]] = {}
    for file, entry in read_json(target, INDEX, {"models": dict})["models"].items():
        # An index of an earlier release has no groups: what it lists is exported again before it is named here.
        if "group" in entry:
            groups.setdefault(entry["group"], {})[file] = entry["fold"]
    for group, files in groups.items():
        if len(files) > 1:
            by_fold = sorted(files, key=lambda file: (files[file], file))
            _name_together(target, group, by_fold, what=f"The folds of {group}")


def _write_members(target: Storage, ensemble: str, members: Sequence[str]) -> None:
    """Name the members of an ensemble of the study together, if all of them are there."""
    files = [f"{member}.zip" for member in members]
    if files and all(map(target.exists, files)):
        _name_together(target, ensemble, files, what=ensemble)


def _name_together(target: Storage, name: str, files: Sequence[str], *, what: str) -> None:
    """Write the file by which several models are named as one."""
    named = "".join(f"  - {{model: {file}}}\n" for file in files)
    text = f"# {what}: orchestrator predict IMAGES --model {name}.yaml --output LABELS\n"
    target.write_bytes(f"{name}.yaml", f"{text}models:\n{named}".encode())


def _zip(source: Storage, training: str, *, dataset: str) -> bytes:
    from orchestrator.training.nnunet.model_files import PLANS, model_files

    with opened(ModelSource(location=source.location, training=training)) as found:
        files = model_files(found.model, dataset=dataset, mirrors=found.settings.mirrors)
        files[SETTINGS] = _settings(found)
        files[CARD] = model_card(found, _facts(source, found, dataset=dataset)).encode()
        folder = f"{dataset}/{found.model.trainer}__{PLANS}__{found.model.plan.configuration}"
    return packed({f"{folder}/{name}": content for name, content in files.items()})


def _settings(found: OpenModel) -> bytes:
    prediction = asdict(found.settings)
    record = {"name": found.name, "checkpoint_sha256": found.model.sha256, "prediction": prediction}
    return (json.dumps(record, indent=1) + "\n").encode()


def _facts(source: Storage, found: OpenModel, *, dataset: str) -> CardFacts:
    record = read_json(source, run_paths.RUN, {"preset": dict, "seed": int})
    store = ResultsStore(source)
    table = store.read() if found.name in store.finished() else None
    rows = [] if table is None else [row for row in from_table(table) if row.training_id == found.name]
    named = (case.partition("--") for case in found.model.train_cases)
    train_cases = [Case(dataset=of, name=name) for of, _, name in named]
    return CardFacts(
        dataset=dataset,
        num_train_cases=dict(Counter(case.dataset for case in train_cases)),
        preset=str(record["preset"].get("name", "")),
        seed=record["seed"],
        licences=_licences(record),
        phantoms=record.get("data") == "phantoms" or has_phantoms(source, train_cases),
        rows=rows,
    )


def _licences(record: JsonObject) -> dict[str, str]:
    """Return the licences of the data sets of a run, if its study is the one that comes along."""
    shipped = load_study()
    if record.get("study_sha256") != shipped.sha256:
        return {}
    known = {dataset.name: LAYOUTS.get(dataset.source) for dataset in shipped.datasets}
    return {name: layout.licence for name, layout in known.items() if layout is not None}


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return a zip, stored as it is: what compresses differs between machines, and weights hardly get smaller."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, _EPOCH)
            member.create_system, member.external_attr = 3, 0o644 << 16
            target.writestr(member, files[name])
    return buffer.getvalue()
