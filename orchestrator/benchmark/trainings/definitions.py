"""What the results of each training follow from, as a digest: how a study that has grown is told from another one."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace

from orchestrator.benchmark.definition import Dataset, Training
from orchestrator.benchmark.presets import Preset
from orchestrator.benchmark.study import Study

DEFINITIONS_FORMAT = 2
"""Version of the digests; those of two versions cannot be compared. It is raised where a training that has not changed
gets another digest, as with another default, or another name of a field; a new field with a default is no reason."""
_NUM_DIGITS = 16


def definitions(study: Study, *, preset: Preset, phantoms: bool) -> dict[str, str]:
    """Return the digest of what each training of a study is, by its id.

    Models, trainings, tables, titles and notes that a study gains change none of them. Ensembles are left out, since
    their records say of what they are, and so are the trials of a search, which follow from more than themselves.

    Parameters
    ----------
    study
        With all its trainings.
    preset
        Which leaves out cases, and says nothing else here.
    phantoms
        Whether its cases are generated: then all of them together.
    """
    if study.is_search:
        return {}
    trainings = {one.id: one for one in study.all_trainings(preset=preset) if not one.members}
    generated = sorted({case.id for one in trainings.values() for case in one.cases}) if phantoms else []
    found: dict[str, str] = {}
    for training in trainings.values():
        _add(training, study=study, trainings=trainings, generated=generated, found=found)
    return found


def _add(
    training: Training, *, study: Study, trainings: dict[str, Training], generated: list[str], found: dict[str, str]
) -> None:
    """Add the digest of a training, after that of the one whose plans it takes over."""
    if training.id in found:
        return
    donor = training.plans_from
    if donor is not None:
        _add(trainings[donor], study=study, trainings=trainings, generated=generated, found=found)
    sets = sorted({training.label_set, *(one.label_set for one in training.evaluation_sets)})
    said = {
        "training": _said(replace(training, model=replace(training.model, note=""), plans_from=None)),
        "plans_from": found[donor] if donor is not None else None,
        "label_sets": [_said(study.label_set(name)) for name in sets],
        "datasets": [_of_dataset(study.dataset(name)) for name in sorted({case.dataset for case in training.cases})],
        "generated": generated,
    }
    text = json.dumps(said, sort_keys=True, default=str)
    found[training.id] = hashlib.sha256(text.encode()).hexdigest()[:_NUM_DIGITS]


def _of_dataset(dataset: Dataset) -> object:
    """Return what a data set is, but for what is only shown of it, and for cases that others use."""
    return _said(replace(dataset, title="", num_slices=0, case_names=()))


def _said(value: object) -> object:
    """Return a value for JSON, at any depth without fields that have their default: one that is new changes nothing."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: (getattr(value, field.name), field) for field in fields(value)}
        return {name: _said(one) for name, (one, field) in own.items() if one != _default(field)}
    match value:
        case Mapping():
            return {name: _said(one) for name, one in value.items()}
        case list() | tuple():
            return [_said(one) for one in value]
    return value


def _default(field: Field[object]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()
