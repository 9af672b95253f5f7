"""Reads a study from its files, strictly, and checks that what they name is there."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from orchestrator.benchmark.definition import Case, Dataset, LabelSet, Model, Structure
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.study import (
    ALL_MATRICES,
    DatasetCases,
    Evaluation,
    Selector,
    Study,
    TrainingGroup,
)
from orchestrator.benchmark.study_file import (
    ALL,
    FOLD,
    OTHER_FOLDS,
    RESERVED_FACETS,
    Folds,
    FoldsFile,
    StructureEntry,
    StudyFile,
    TrainingEntry,
)
from orchestrator.configuration import load_yaml, understood
from orchestrator.errors import ConfigError
from orchestrator.shipped import shipped_file

DEFAULT_STUDY = shipped_file("splits", "covid19", "study.yaml")


def load_study(path: Path | None = None) -> Study:
    """Return the study that a file defines; its cases are in `folds.yaml` beside it.

    Parameters
    ----------
    path
        The study file; None for the one that comes with the project.

    Raises
    ------
    ConfigError
        If a file is missing, has an unknown key or a wrong value, or names something that is not there.
    """
    path = DEFAULT_STUDY if path is None else path
    folds_path = path.with_name("folds.yaml")
    content = understood(load_yaml(path), StudyFile, where=str(path))
    folds = understood({"datasets": load_yaml(folds_path)}, FoldsFile, where=str(folds_path))
    cases = {name: _cases(entry, where=f"{folds_path}: {name}") for name, entry in folds.datasets.items()}
    _expect(content.datasets, cases, where=f"{path}: datasets", what="data set in folds.yaml")
    _expect(cases, content.datasets, where=str(folds_path), what=f"data set in {path.name}")
    label_sets = {name: _label_set(name, entries, where=str(path)) for name, entries in content.label_sets.items()}
    for name, dataset in content.datasets.items():
        _expect(dataset.label_sets, label_sets, where=f"{path}: datasets.{name}.label_sets", what="label set")
    _expect(content.presets, PRESETS, where=f"{path}: presets", what="preset")
    reader = _TrainingReader(file=content, cases=cases, label_sets=label_sets, where=str(path))
    return Study(
        path=path,
        title=content.title,
        label_sets=tuple(label_sets.values()),
        datasets=tuple(
            Dataset(
                name=name,
                title=entry.title,
                source=entry.source,
                label_sets=tuple(entry.label_sets),
                case_names=cases[name].everything,
                num_slices=entry.slices,
            )
            for name, entry in content.datasets.items()
        ),
        models=tuple(
            Model(name=name, configuration=entry.configuration, suffix=entry.suffix)
            for name, entry in content.models.items()
        ),
        groups=reader.groups(),
        cases=cases,
        patients_with_several_scans=_patients(content.patients, cases=cases, where=f"{path}: patients"),
        case_limits={name: entry.cases for name, entry in content.presets.items()},
        sha256=hashlib.sha256(path.read_bytes() + folds_path.read_bytes()).hexdigest(),
    )


load_benchmark = load_study
"""The name that scripts know from before there were other studies."""


def _cases(entry: Folds | Mapping[str, Sequence[str]] | Sequence[str], *, where: str) -> DatasetCases:
    if isinstance(entry, Folds):
        found = DatasetCases(parts={}, folds=tuple(tuple(names) for names in entry.folds))
    elif isinstance(entry, Mapping):
        if reserved := sorted({FOLD, OTHER_FOLDS, ALL} & set(entry)):
            raise ConfigError(f"{where}: {reserved[0]!r} is no name for a part; it always means the same")
        found = DatasetCases(parts={part: tuple(names) for part, names in entry.items()})
    else:
        found = DatasetCases(parts={ALL: tuple(entry)})
    if repeated := [name for name, number in Counter(found.everything).items() if number > 1]:
        raise ConfigError(f"{where}: {', '.join(repeated)} stands twice; expected each case in one part or fold")
    return found


def _label_set(name: str, entries: Mapping[str, StructureEntry], *, where: str) -> LabelSet:
    labels = [entry.label for entry in entries.values()]
    if not labels or labels != list(range(1, len(labels) + 1)):
        raise ConfigError(f"{where}: label_sets.{name}: labels are {labels}; expected 1, 2, ... in this order")
    structures = (Structure(name=key, **entry.model_dump()) for key, entry in entries.items())
    return LabelSet(name=name, structures=tuple(structures))


def _patients(
    patients: Sequence[Sequence[str]], *, cases: Mapping[str, DatasetCases], where: str
) -> tuple[tuple[Case, ...], ...]:
    found = []
    for number, ids in enumerate(patients):
        scans = tuple(Case(dataset=dataset, name=name) for dataset, _, name in (id_.partition("/") for id_ in ids))
        for scan in scans:
            if scan.dataset not in cases or scan.name not in cases[scan.dataset].everything:
                raise ConfigError(f"{where}[{number}]: {scan.id} is no case; expected DATASET/CASE of folds.yaml")
        found.append(scans)
    return tuple(found)


class _TrainingReader:
    """Understands the part `trainings` of a study file."""

    def __init__(
        self, *, file: StudyFile, cases: Mapping[str, DatasetCases], label_sets: Mapping[str, LabelSet], where: str
    ) -> None:
        self._file = file
        self._cases = cases
        self._label_sets = label_sets
        self._where = f"{where}: trainings"

    def groups(self) -> tuple[TrainingGroup, ...]:
        """Return all groups, with everything that they name checked."""
        groups = {name: self._group(name, entry) for name, entry in self._file.trainings.items()}
        for name, group in groups.items():
            if group.plans_from is not None:
                self._check_donor(group, groups, where=f"{self._where}.{name}.plans_from")
        _check_ids(groups.values(), models=self._file.models, where=self._where)
        _check_facets(groups.values(), where=self._where)
        return tuple(groups.values())

    def _group(self, name: str, entry: TrainingEntry) -> TrainingGroup:
        where = f"{self._where}.{name}"
        _expect([entry.label_set], self._label_sets, where=f"{where}.label_set", what="label set")
        _expect(entry.models, self._file.models, where=f"{where}.models", what="model")
        if ALL_MATRICES in entry.models.values():
            raise ConfigError(f"{where}.models: {ALL_MATRICES!r} is no name for a matrix; it means all of them")
        if reserved := sorted(RESERVED_FACETS & set(entry.facets)):
            raise ConfigError(f"{where}.facets: {reserved[0]!r} is a column of every study; expected another name")
        train = self._selectors(entry.train, label_set=entry.label_set, where=f"{where}.train")
        val = self._selectors(entry.val, label_set=entry.label_set, where=f"{where}.val")
        evaluations = tuple(self._evaluation(entry, test, where=f"{where}.test.{test}") for test in entry.test)
        return TrainingGroup(
            name=name,
            facets=entry.facets,
            label_set=entry.label_set,
            matrix_of_model=entry.models,
            train=train,
            val=val,
            evaluations=evaluations,
            plans_from=entry.plans_from,
            num_folds=self._num_folds([*train, *val, *(one.cases for one in evaluations)], where=where),
        )

    def _evaluation(self, entry: TrainingEntry, test: str, *, where: str) -> Evaluation:
        found = entry.test[test]
        cases, label_set = (found, entry.label_set) if isinstance(found, str) else (found.cases, found.label_set)
        _expect([label_set], self._label_sets, where=f"{where}.label_set", what="label set")
        learned, tested = (self._label_sets[name].structures for name in (entry.label_set, label_set))
        if not {s.name for s in learned} & {s.name for s in tested}:
            raise ConfigError(f"{where}: {label_set} has no structure of {entry.label_set}; expected a common one")
        (selector,) = self._selectors([cases], label_set=label_set, where=where)
        return Evaluation(name=test, cases=selector, label_set=label_set)

    def _selectors(self, texts: Sequence[str], *, label_set: str, where: str) -> tuple[Selector, ...]:
        return tuple(self._selector(text, label_set=label_set, where=where) for text in texts)

    def _selector(self, text: str, *, label_set: str, where: str) -> Selector:
        dataset, _, part = text.partition("/")
        _expect([dataset], self._cases, where=where, what="data set")
        parts = [*self._cases[dataset].parts, *((FOLD, OTHER_FOLDS) if self._cases[dataset].folds else ()), ALL]
        if part not in parts:
            known = ", ".join(f"{dataset}/{known}" for known in dict.fromkeys(parts))
            raise ConfigError(f"{where}: {text!r} is no part of the data set; expected one of {known}")
        offered = self._file.datasets[dataset].label_sets
        if label_set not in offered:
            raise ConfigError(f"{where}: {dataset} has no label set {label_set}; expected one of {', '.join(offered)}")
        return Selector(dataset=dataset, part=part)

    def _num_folds(self, selectors: Sequence[Selector], *, where: str) -> int:
        numbers = {one.dataset: len(self._cases[one.dataset].folds) for one in selectors if one.depends_on_fold}
        if len(set(numbers.values())) > 1:
            raise ConfigError(f"{where}: data sets with {numbers} folds; expected as many of each")
        return next(iter(numbers.values()), 1)

    def _check_donor(self, group: TrainingGroup, groups: Mapping[str, TrainingGroup], *, where: str) -> None:
        donor: TrainingGroup | None = group
        seen: list[str] = []
        while donor is not None and donor.plans_from is not None:
            _expect([donor.plans_from], groups, where=where, what="group")
            seen.append(donor.name)
            if donor.plans_from in seen:
                raise ConfigError(f"{where}: {' from '.join([*seen, donor.plans_from])} is a circle")
            donor = groups[donor.plans_from]
        direct = groups[group.plans_from or ""]
        if group.num_folds > direct.num_folds or not set(group.matrix_of_model) <= set(direct.matrix_of_model):
            raise ConfigError(f"{where}: {direct.name} lacks a fold or a model of {group.name}; expected all of them")


def _check_ids(groups: Iterable[TrainingGroup], *, models: Mapping[str, object], where: str) -> None:
    """Raise ConfigError if two trainings would have one id."""
    suffixes = {name: getattr(model, "suffix", "") for name, model in models.items()}
    names = Counter(group.name + suffixes[model] for group in groups for model in group.matrix_of_model)
    if repeated := [name for name, number in names.items() if number > 1]:
        raise ConfigError(f"{where}: {repeated[0]} would be two groups; give their models different suffixes")


def _check_facets(groups: Iterable[TrainingGroup], *, where: str) -> None:
    """Raise ConfigError if a facet is a number here and a text there: its column in the results has one type."""
    kinds: dict[str, type] = {}
    for group in groups:
        for name, value in group.facets.items():
            if kinds.setdefault(name, type(value)) is not type(value):
                raise ConfigError(
                    f"{where}.{group.name}.facets: {name} is {value!r}; expected {kinds[name].__name__} as in the "
                    "groups before it"
                )


def _expect(names: Iterable[str], known: Iterable[str], *, where: str, what: str) -> None:
    """Raise ConfigError for a name that is not known."""
    offered = list(known)
    for name in names:
        if name not in offered:
            near = difflib.get_close_matches(name, offered, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(offered)}"
            raise ConfigError(f"{where}: unknown {what} {name!r}; {hint}")
