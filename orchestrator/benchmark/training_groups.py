"""Understands which trainings a study has: the part `trainings` of its file."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.benchmark.checks.names import (
    check_facets,
    check_letter_case,
    check_names_of_facets,
    check_names_of_sets,
)
from orchestrator.benchmark.definition import Dataset, LabelSet
from orchestrator.benchmark.folds import DatasetCases
from orchestrator.benchmark.study import ALL_MATRICES, Evaluation, Selector, TrainingGroup
from orchestrator.benchmark.study_file import ModelEntry, StudyFile, TrainingEntry
from orchestrator.benchmark.trainings.ensembles import Ensemble
from orchestrator.configuration import expect_known
from orchestrator.errors import ConfigError

ONLY_MATRIX = "all-trainings"
"""Matrix of trainings that do not say which they belong to."""


class TrainingReader:
    """Understands the part `trainings` of a study file."""

    def __init__(
        self,
        file: StudyFile,
        *,
        datasets: Mapping[str, Dataset],
        cases: Mapping[str, DatasetCases],
        label_sets: Mapping[str, LabelSet],
        where: str,
    ) -> None:
        self._file = file
        self._datasets = datasets
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
        named: list[TrainingGroup | Ensemble] = [*groups.values(), *self.ensembles()]
        check_facets([(one.name, one.facets) for one in named], where=self._where)
        sets = [test for entry in self._file.trainings.values() for test in entry.test]
        check_letter_case(sets, where=self._where, what="evaluation sets")
        return tuple(groups.values())

    def ensembles(self) -> tuple[Ensemble, ...]:
        """Return the ensembles; which trainings they mean is seen when there are cases."""
        found = []
        for name, entry in self._file.ensembles.items():
            where = f"{self._where.removesuffix('trainings')}ensembles.{name}"
            if name in self._file.models:
                raise ConfigError(f"{where}: is a model, too; expected another name")
            check_names_of_facets(entry.facets, where=where)
            if entry.choose is None and "by" in entry.model_fields_set:
                raise ConfigError(f"{where}: by without choose; expected both, or an ensemble of all members")
            found.append(
                Ensemble(
                    name=name,
                    members=tuple(entry.members),
                    over=tuple(entry.over),
                    choose=entry.choose,
                    by=entry.by,
                    facets=entry.facets,
                )
            )
        return tuple(found)

    def _group(self, name: str, entry: TrainingEntry) -> TrainingGroup:
        where = f"{self._where}.{name}"
        label_set = entry.label_set or self._only_label_set(entry, where=where)
        models = entry.models or dict.fromkeys(self._file.models, ONLY_MATRIX)
        expect_known([label_set], self._label_sets, where=f"{where}.label_set", what="label set")
        expect_known(models, self._file.models, where=f"{where}.models", what="model")
        if ALL_MATRICES in models.values():
            raise ConfigError(f"{where}.models: {ALL_MATRICES!r} is no name for a matrix; it means all of them")
        check_names_of_facets(entry.facets, where=where)
        train = self._selectors(entry.train, label_set=label_set, where=f"{where}.train")
        val = self._selectors(entry.val, label_set=label_set, where=f"{where}.val")
        check_names_of_sets(entry.test, where=f"{where}.test")
        evaluations = tuple(
            self._evaluation(entry, test, learned=label_set, where=f"{where}.test.{test}") for test in entry.test
        )
        selectors = [*train, *val, *(one.cases for one in evaluations)]
        self._check_channels(selectors, where=where)
        return TrainingGroup(
            name=name,
            facets=entry.facets,
            label_set=label_set,
            matrix_of_model=models,
            train=train,
            val=val,
            evaluations=evaluations,
            plans_from=entry.plans_from,
            num_folds=self._num_folds(selectors, where=where),
        )

    def _only_label_set(self, entry: TrainingEntry, *, where: str) -> str:
        """Return the label set of the first data set of a training."""
        dataset, _, _ = entry.train[0].partition("/")
        expect_known([dataset], self._datasets, where=f"{where}.train", what="data set")
        label_sets = self._datasets[dataset].label_sets
        if len(label_sets) > 1:
            raise ConfigError(
                f"{where}: key 'label_set' is missing; expected one of {', '.join(label_sets)}, which {dataset} has"
            )
        return label_sets[0]

    def _check_channels(self, selectors: Sequence[Selector], *, where: str) -> None:
        """Raise ConfigError if the cases of a training have different images."""
        channels = {one.dataset: self._datasets[one.dataset].channels for one in selectors}
        if len(set(channels.values())) > 1:
            words = "; ".join(f"{name} has {', '.join(found)}" for name, found in channels.items())
            raise ConfigError(f"{where}: {words}; expected the same images of every case of a training")

    def _evaluation(self, entry: TrainingEntry, test: str, *, learned: str, where: str) -> Evaluation:
        found = entry.test[test]
        cases, label_set = (found, learned) if isinstance(found, str) else (found.cases, found.label_set)
        expect_known([label_set], self._label_sets, where=f"{where}.label_set", what="label set")
        known, tested = (self._label_sets[name].structures for name in (learned, label_set))
        if not {s.name for s in known} & {s.name for s in tested}:
            raise ConfigError(f"{where}: {label_set} has no structure of {learned}; expected a common one")
        (selector,) = self._selectors([cases], label_set=label_set, where=where)
        return Evaluation(name=test, cases=selector, label_set=label_set)

    def _selectors(self, texts: Sequence[str], *, label_set: str, where: str) -> tuple[Selector, ...]:
        return tuple(self._selector(text, label_set=label_set, where=where) for text in texts)

    def _selector(self, text: str, *, label_set: str, where: str) -> Selector:
        dataset, _, part = text.partition("/")
        expect_known([dataset], self._datasets, where=where, what="data set")
        parts = self._cases[dataset].part_names
        if part not in parts:
            known = ", ".join(f"{dataset}/{known}" for known in parts)
            raise ConfigError(f"{where}: {text!r} is no part of the data set; expected one of {known}")
        offered = self._datasets[dataset].label_sets
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
            expect_known([donor.plans_from], groups, where=where, what="group")
            seen.append(donor.name)
            if donor.plans_from in seen:
                raise ConfigError(f"{where}: {' from '.join([*seen, donor.plans_from])} is a circle")
            donor = groups[donor.plans_from]
        direct = groups[group.plans_from or ""]
        if group.num_folds > direct.num_folds or not set(group.matrix_of_model) <= set(direct.matrix_of_model):
            raise ConfigError(f"{where}: {direct.name} lacks a fold or a model of {group.name}; expected all of them")


def _check_ids(groups: Iterable[TrainingGroup], *, models: Mapping[str, ModelEntry], where: str) -> None:
    """Raise ConfigError if two trainings would have one id."""
    suffixes = {name: model.suffix for name, model in models.items()}
    groups = list(groups)
    names = Counter(group.name + suffixes[model] for group in groups for model in group.matrix_of_model)
    if repeated := [name for name, number in names.items() if number > 1]:
        raise ConfigError(f"{where}: {repeated[0]} would be two groups; give their models different suffixes")
    with_seeds = {
        f"{group.name}{suffixes[model]}-seed{seed}"
        for group in groups
        for model in group.matrix_of_model
        for seed in models[model].seeds
    }
    check_letter_case(names, where=where, what="groups")
    if both := sorted(with_seeds.intersection(names)):
        raise ConfigError(f"{where}: {both[0]} is a group and what seeds of another one are named; rename it")
