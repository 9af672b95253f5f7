"""Reads a study from its files, strictly, and checks that what they name is there."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from orchestrator.benchmark.checks.metrics import further_metrics
from orchestrator.benchmark.checks.names import check_letter_case
from orchestrator.benchmark.definition import TEST, TRAIN, VALIDATION, Case, Dataset, LabelSet, Model
from orchestrator.benchmark.folds import DatasetCases
from orchestrator.benchmark.presets import CASES, LIKE, PRESETS, Preset, read_presets
from orchestrator.benchmark.raw_dataset import Describe
from orchestrator.benchmark.study import Study
from orchestrator.benchmark.study_datasets import DatasetReader, label_set_of
from orchestrator.benchmark.study_file import CaseLimits, FoldsFile, ModelEntry, StudyFile
from orchestrator.benchmark.training_groups import TrainingReader
from orchestrator.benchmark.trainings.ids import check_ids, check_template
from orchestrator.configuration import expect_known, load_yaml, understood
from orchestrator.errors import ConfigError
from orchestrator.shipped import or_shipped, shipped_file

_ENSEMBLES = re.compile(rb"ensembles\s*:")
DEFAULT_STUDY = shipped_file("splits", shipped_file("splits", "default.txt").read_text(encoding="utf-8").strip())
"""The study that comes along and is meant where none is named."""


def load_study(path: Path | None = None, *, describe: Describe | None = None) -> Study:
    """Return the study that a file defines; cases that it does not name are in `folds.yaml` beside it.

    Parameters
    ----------
    path
        The study file, or one that comes along, such as `splits/brain_mri/study.yaml`; None for the default of these.
    describe
        Looks up what data sets in nnU-Net's layout say of themselves.

    Raises
    ------
    ConfigError
        If a file is missing, has an unknown key or a wrong value, or names something that is not there.
    """
    path = or_shipped(path) if path else DEFAULT_STUDY
    folds_path, content = path.with_name("folds.yaml"), understood(load_yaml(path), StudyFile, where=str(path))
    listed = _listed(folds_path, content)
    label_sets = {name: label_set_of(name, entries, where=str(path)) for name, entries in content.label_sets.items()}
    presets, case_limits = _presets(content, where=f"{path}: presets")
    check_letter_case(content.datasets, where=f"{path}: datasets", what="data sets")
    reader = DatasetReader(content, listed=listed, label_sets=label_sets, describe=describe, path=path)
    read = {name: reader.read(name) for name in content.datasets}
    datasets = {name: one.dataset for name, one in read.items()}
    cases = {name: one.cases for name, one in read.items()}
    label_sets |= {one.own_label_set.name: one.own_label_set for one in read.values() if one.own_label_set}
    check_letter_case(label_sets, where=f"{path}: label_sets", what="label sets")
    trainings = TrainingReader(content, datasets=datasets, cases=cases, label_sets=label_sets, where=str(path))
    files = [_without_ensembles(path.read_bytes()), folds_path.read_bytes() if listed else b""]
    files += [one.read_file for one in read.values()]
    described = {name: _facts(one.dataset, one.own_label_set) for name, one in read.items() if one.is_described}
    found = Study(
        path=path,
        title=content.title,
        label_sets=tuple(label_sets.values()),
        datasets=tuple(datasets.values()),
        models=tuple(_model(name, one, where=f"{path}: models.{name}.preset") for name, one in content.models.items()),
        groups=trainings.groups(),
        ensembles=trainings.ensembles(),
        cases=cases,
        patients_with_several_scans=_patients(
            content.patients, cases=cases, datasets=datasets, where=f"{path}: patients"
        ),
        presets=presets,
        case_limits=case_limits,
        sha256=hashlib.sha256(b"".join(files) + (_json(described) if described else b"")).hexdigest(),
        ids=content.ids,
        metrics=further_metrics(content, where=f"{path}: metrics"),
    )
    return _with_ids(found)


def _with_ids(study: Study) -> Study:
    """Return a study; raises ConfigError unless its template makes an id of its own for each training."""
    where = f"{study.path}: ids"
    if not study.ids:
        return study
    for group in study.groups:
        check_template(study.ids, facets=[*group.facets, "model"], where=where)
    trainings = study.trainings_by_any_preset()
    check_ids([training.id for training in trainings], template=study.ids, where=where)
    return study


def _listed(path: Path, content: StudyFile) -> FoldsFile | None:
    """Return the lists of cases of a study; None if it needs none."""
    # A study may need no list of cases, but a study file that is alone may also have lost its own.
    if not path.exists() and all(entry.nnunet or not entry.source for entry in content.datasets.values()):
        return None
    listed = understood(load_yaml(path), FoldsFile, where=str(path), below="datasets")
    expect_known(listed.datasets, content.datasets, where=str(path), what="data set")
    return listed


def _presets(content: StudyFile, *, where: str) -> tuple[dict[str, Preset], dict[str, dict[str, int]]]:
    """Return all presets of a study, and the limits of cases that it sets itself, by preset."""
    own = read_presets(content.presets, known=PRESETS, where=where)
    limits: dict[str, dict[str, int]] = {}
    parts = dict.fromkeys([TRAIN, VALIDATION, TEST, *(test for one in content.trainings.values() for test in one.test)])
    for name, entry in content.presets.items():
        said = understood({CASES: entry.get(CASES, {})}, CaseLimits, where=f"{where}.{name}")
        expect_known(said.cases, parts, where=f"{where}.{name}.{CASES}", what="part of a training")
        limits[name] = {**limits.get(entry.get(LIKE, name), {}), **said.cases}
    return {**PRESETS, **own}, limits


def _model(name: str, entry: ModelEntry, *, where: str) -> Model:
    said = entry.model_dump()
    changes = tuple(
        (field, tuple(value) if isinstance(value, list) else value) for field, value in said.pop("preset").items()
    )
    if len(set(entry.seeds)) < len(entry.seeds):
        raise ConfigError(f"{where.removesuffix('preset')}seeds: {entry.seeds}; expected each once")
    said["seeds"] = tuple(entry.seeds)
    # Whether they fit does not depend on the preset.
    next(iter(PRESETS.values())).changed_by(changes, where=where)
    return Model(name=name, changes=changes, **said)


def _facts(dataset: Dataset, own: LabelSet | None) -> object:
    """Return what a data set has said of itself: a study with other answers is another one, larger files are none."""
    return [asdict(replace(dataset, title="", num_slices=0)), asdict(own) if own else None]


def _without_ensembles(content: bytes) -> bytes:
    """Return a study file without its ensembles: whoever adds one need not train again what it is made of."""
    lines = content.splitlines(keepends=True)
    first = next((number for number, line in enumerate(lines) if _ENSEMBLES.match(line)), None)
    if first is None:
        return content
    # Blank lines and comments belong to what follows them.
    end = first + 1
    for number, line in enumerate(lines[end:], start=end):
        if line[:1] not in b" \t#\r\n":
            break
        if line[:1] in b" \t" and not line.lstrip().startswith(b"#") and line.strip():
            end = number + 1
    while first and (not lines[first - 1].strip() or lines[first - 1].startswith(b"#")):
        first -= 1
    return b"".join([*lines[:first], *lines[end:]])


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _patients(
    patients: Sequence[Sequence[str]],
    *,
    cases: Mapping[str, DatasetCases],
    datasets: Mapping[str, Dataset],
    where: str,
) -> tuple[tuple[Case, ...], ...]:
    """Return the cases of each patient with several: other scans, or one image as a case of several data sets."""
    found = [
        tuple(Case(dataset=dataset, name=name) for name in scans)
        for dataset, divided in cases.items()
        for scans in divided.patients
    ]
    for number, ids in enumerate(patients):
        scans = tuple(Case(dataset=dataset, name=name) for dataset, _, name in (id_.partition("/") for id_ in ids))
        for scan in scans:
            if scan.dataset not in cases or scan.name not in cases[scan.dataset].everything:
                raise ConfigError(f"{where}[{number}]: {scan.id} is no case; expected DATASET/CASE of folds.yaml")
        found.append(scans)
    same: dict[object, list[Case]] = {}
    for dataset, divided in cases.items():
        for name in divided.everything:
            same.setdefault(datasets[dataset].image(name), []).append(Case(dataset=dataset, name=name))
    return _united([*found, *(tuple(one) for one in same.values() if len(one) > 1)])


def _united(groups: Iterable[tuple[Case, ...]]) -> tuple[tuple[Case, ...], ...]:
    """Return groups of which no two share a case: whoever is one patient with two others makes all three one."""
    united: dict[int, tuple[Case, ...]] = {}
    place: dict[Case, int] = {}
    for number, group in enumerate(groups):
        touched = [united.pop(other) for other in sorted({place[case] for case in group if case in place})]
        united[number] = tuple(dict.fromkeys(case for part in (*touched, group) for case in part))
        place.update(dict.fromkeys(united[number], number))
    return tuple(united.values())
