"""A study as a whole: its trainings for a preset, chosen by matrix and pattern, and the patients that they mix."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from orchestrator.benchmark.checks.names import check_letter_case
from orchestrator.benchmark.definition import (
    TEST,
    TRAIN,
    TRAINING_SEED,
    VALIDATION,
    Case,
    Dataset,
    EvaluationSet,
    FurtherMetric,
    LabelSet,
    Model,
    Training,
    training_id,
)
from orchestrator.benchmark.folds import DatasetCases
from orchestrator.benchmark.leaks import CaseUses, PatientLeak, same_image_leaks
from orchestrator.benchmark.presets import Preset, find_preset
from orchestrator.benchmark.study_file import FOLD, OTHER_FOLDS
from orchestrator.benchmark.trainings.ensembles import Ensemble, ensemble_trainings
from orchestrator.benchmark.trainings.ids import filled
from orchestrator.benchmark.trainings.selection import select
from orchestrator.errors import ConfigError

ALL_MATRICES = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selector:
    """Cases of a data set, which may depend on the fold of a training."""

    dataset: str
    part: str
    """`fold`, `other-folds`, `all` or the name of a part."""

    @property
    def depends_on_fold(self) -> bool:
        """Whether each fold has cases of its own."""
        return self.part in {FOLD, OTHER_FOLDS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """An evaluation set before its cases are known."""

    name: str
    cases: Selector
    label_set: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingGroup:
    """Trainings that differ in fold, model and seed alone."""

    name: str
    facets: Mapping[str, str | int]
    label_set: str
    matrix_of_model: Mapping[str, str]
    train: tuple[Selector, ...]
    val: tuple[Selector, ...]
    evaluations: tuple[Evaluation, ...]
    """Without that of its validation cases."""
    plans_from: str | None
    """Name of a group."""
    num_folds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Everything that is trained and tested."""

    path: Path
    """Its file; others that belong to it are beside it."""
    title: str
    datasets: tuple[Dataset, ...]
    label_sets: tuple[LabelSet, ...]
    models: tuple[Model, ...]
    groups: tuple[TrainingGroup, ...]
    cases: Mapping[str, DatasetCases]
    """By data set."""
    patients_with_several_scans: tuple[tuple[Case, ...], ...]
    """Cases of one patient; those of one image in several data sets are among them."""
    presets: Mapping[str, Preset]
    """By name: those that come along, and its own."""
    case_limits: Mapping[str, Mapping[str, int]]
    """By preset, then by part of a training: where they differ from the preset's own."""
    sha256: str
    """Digest of the files that define it."""
    patterns: tuple[str, ...] = ()
    """What `trainings` is limited to where it is not told anything else."""
    is_search: bool = False
    """Whether its trainings are trials, one of which is to be chosen."""
    ensembles: tuple[Ensemble, ...] = ()
    """Trainings that predict together."""
    metrics: tuple[FurtherMetric, ...] = ()
    """What its trainings are scored by besides DSC, NSD, HD95 and ASSD."""
    ids: str = ""
    """Template of the ids of its trainings; GROUP-foldN, or GROUP-seedM-foldN, if empty."""
    _dataset_of: Mapping[str, Dataset] = field(init=False, repr=False, compare=False)
    """By name: each case of each training asks for its data set."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_dataset_of", {one.name: one for one in self.datasets})

    def __repr__(self) -> str:
        # With every case name it would be tens of kB.
        numbers = {"groups": len(self.groups), "models": len(self.models), "data sets": len(self.datasets)}
        found = [f"{what}: {number}" for what, number in numbers.items()]
        found += [f"selected by {', '.join(self.patterns)}"] if self.patterns else []
        return f"<Study {self.title!r} of {self.path}; {'; '.join(found)}>"

    def select(self, *patterns: str) -> "Study":
        """Return this study with those trainings alone that match one of the patterns; see `trainings`."""
        return replace(self, patterns=patterns)

    def dataset(self, name: str) -> Dataset:
        """Return the data set of that name; raises ConfigError if there is none."""
        return _by_name(self._dataset_of, name, "data set")

    def label_set(self, name: str) -> LabelSet:
        """Return the label set of that name; raises ConfigError if there is none."""
        return _by_name({one.name: one for one in self.label_sets}, name, "label set")

    def preset(self, name: str) -> Preset:
        """Return the preset of that name; raises ConfigError with the names that exist."""
        return find_preset(name, self.presets)

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of its matrices, the default first, and `all`."""
        names = dict.fromkeys(matrix for group in self.groups for matrix in group.matrix_of_model.values())
        return (*names, ALL_MATRICES)

    def trainings(self, *, matrix: str | None = None, only: Sequence[str] = (), preset: Preset) -> tuple[Training, ...]:
        """Return the trainings of a matrix in the order of the study file, then the ensembles of these.

        Parameters
        ----------
        matrix
            One of `matrices`; None is the default, the first.
        only
            A training is kept if its id or its group matches one of these shell patterns, or its facet one of the form
            `facet=pattern`. None keeps those of `patterns`, or all.
        preset
            Limits the cases of each part: the names are sorted and evenly spaced ones kept.

        Raises
        ------
        ConfigError
            If the matrix is unknown or a pattern matches nothing.
        """
        matrix = self.matrices[0] if matrix is None else matrix
        if matrix not in self.matrices:
            raise ConfigError(f"--matrix {matrix}: unknown; expected one of {', '.join(self.matrices)}")
        found = self._fitted(matrix, preset=preset)
        if self.ensembles:
            found += self._ensembles(preset, among={training.id for training in found})
        return select(found, only=only or self.patterns, asked="--only", of=matrix)

    def _fitted(self, matrix: str, *, preset: Preset) -> list[Training]:
        models = {model.name: model for model in self.models}
        return [
            self._training(group, model=models[name], seed=seed, fold=fold, preset=preset)
            for group in self.groups
            for name, own_matrix in group.matrix_of_model.items()
            if matrix in {own_matrix, ALL_MATRICES}
            for seed in models[name].seeds or (None,)
            for fold in range(group.num_folds)
        ]

    def _ensembles(self, preset: Preset, *, among: Collection[str]) -> list[Training]:
        """Return the ensembles all of whose members are among some trainings."""
        everything = self._fitted(ALL_MATRICES, preset=preset)
        found = [
            one
            for spec in self.ensembles
            for one in ensemble_trainings(
                spec, everything, image_of=self.image, where=f"{self.path}: ensembles.{spec.name}"
            )
        ]
        ids = Counter(training.id for training in (*everything, *found))
        check_letter_case(ids, where=f"{self.path}: ensembles", what="trainings")
        if repeated := [name for name, number in ids.items() if number > 1]:
            raise ConfigError(
                f"{self.path}: ensembles: {repeated[0]} would be two; expected names that make others, or an entry for "
                "each"
            )
        return [one for one in found if all(member.id in among for member in one.members)]

    @property
    def names_of_models(self) -> tuple[str, ...]:
        """Names of the models, then of what stands for those of ensembles."""
        names = dict.fromkeys(model.name for model in self.models)
        if self.ensembles:
            names |= dict.fromkeys(one.model.name for one in self.trainings_by_any_preset() if one.members)
        return tuple(names)

    def all_trainings(self, *, preset: Preset) -> tuple[Training, ...]:
        """Return the trainings of every matrix, whatever was selected."""
        return self.select().trainings(matrix=ALL_MATRICES, preset=preset)

    def trainings_by_any_preset(self) -> tuple[Training, ...]:
        """Return those of every matrix for their names, groups and facets, which are the same with every preset."""
        return self.all_trainings(preset=next(iter(self.presets.values())))

    def donors(self, trainings: Sequence[Training], *, preset: Preset) -> dict[str, Training]:
        """Return by id the trainings whose patch size and network these take over, and those that they take over.

        What the members of ensembles take over is among them.
        """
        everything = {training.id: training for training in self.all_trainings(preset=preset)}
        donors: dict[str, Training] = {}
        wanted = [one.plans_from for training in trainings for one in (training, *training.members)]
        while wanted:
            name = wanted.pop()
            if name is not None and name not in donors:
                donors[name] = everything[name]
                wanted.append(everything[name].plans_from)
        return donors

    def patient_leaks(self, trainings: Sequence[Training]) -> tuple[PatientLeak, ...]:
        """Return which of these trainings train on one scan of a patient, or on an image, and test on another or it."""
        uses, leaks = CaseUses(trainings), list(same_image_leaks(trainings, image_of=self.image))
        for scans in self.patients_with_several_scans:
            for trained in scans:
                for tested in scans:
                    if self.image(trained) == self.image(tested):
                        continue
                    if touched := uses.leaking(trained=trained, tested=tested):
                        leaks.append(PatientLeak(train_case=trained, test_case=tested, training_ids=touched))
        return tuple(leaks)

    def image(self, case: Case) -> tuple[str, ...]:
        """Return what is equal for cases of one image, whatever data sets they are of."""
        return self.dataset(case.dataset).image(case.name)

    def _training(self, group: TrainingGroup, *, model: Model, seed: int | None, fold: int, preset: Preset) -> Training:
        limits = {**preset.case_limits, **self.case_limits.get(preset.name, {})}
        train, val, evaluations = self._parts(group, fold=fold, limits=limits)
        whole = self._parts(group, fold=fold, limits={})
        tested = sum(len(found.cases) for found in whole[2] if found.name != VALIDATION)
        donor = next((one for one in self.groups if one.name == group.plans_from), None)
        chosen_by = preset.chosen_by if val else ""
        if chosen_by:
            self._check_chosen(val, evaluations, where=f"{self.path}: {group.name}", preset=preset)
        return Training(
            group=group.name + model.suffix,
            fold=fold,
            num_folds=group.num_folds,
            facets=_facets(group, model=model, seed=seed),
            label_set=group.label_set,
            model=model,
            train=train,
            val=val,
            evaluation_sets=evaluations,
            plans_from=self._id(donor, model=model, seed=seed, fold=fold) if donor else None,
            seed=seed,
            num_uncapped_cases=len(whole[0]) + len(whole[1]) + tested,
            chosen_by=chosen_by,
            given_id=self._id(group, model=model, seed=seed, fold=fold) if self.ids else "",
        )

    def _id(self, group: TrainingGroup, *, model: Model, seed: int | None, fold: int) -> str:
        name = group.name + model.suffix
        if not self.ids:
            return training_id(name, seed=seed, fold=fold)
        return filled(self.ids, _facets(group, model=model, seed=seed), group=name, fold=fold, seed=seed)

    def _parts(
        self, group: TrainingGroup, *, fold: int, limits: Mapping[str, int]
    ) -> tuple[tuple[Case, ...], tuple[Case, ...], tuple[EvaluationSet, ...]]:
        """Return train and validation cases and the evaluation sets of one fold of a group."""

        def cases(selectors: Sequence[Selector], part: str) -> tuple[Case, ...]:
            limit = limits.get(part, limits.get(TEST) if part not in {TRAIN, VALIDATION} else None)
            found = tuple(case for one in selectors for case in self._cases(one, fold=fold, limit=limit))
            self._check_once(found, where=f"{self.path}: trainings.{group.name}.{part}")
            return found

        val = cases(group.val, VALIDATION)
        sets = [self._evaluation_set(group, name=VALIDATION, label_set=group.label_set, cases=val)] if val else []
        for evaluation in group.evaluations:
            tested = cases([evaluation.cases], evaluation.name)
            sets.append(self._evaluation_set(group, name=evaluation.name, label_set=evaluation.label_set, cases=tested))
        return cases(group.train, TRAIN), val, tuple(sets)

    def _cases(self, selector: Selector, *, fold: int, limit: int | None) -> tuple[Case, ...]:
        """Return the cases of a selector, sorted; if there are more than `limit`, evenly spaced ones."""
        names = _evenly_spaced(sorted(self.cases[selector.dataset].select(selector.part, fold=fold)), limit=limit)
        return tuple(Case(dataset=selector.dataset, name=name) for name in names)

    def _check_once(self, cases: Sequence[Case], *, where: str) -> None:
        images: dict[object, Case] = {}
        for case in cases:
            if (other := images.setdefault(self.image(case), case)) is not case:
                also = "twice" if other == case else f"as {other.id} as well"
                raise ConfigError(f"{where}: {case.id} is there {also}; expected parts that share no image")

    def _check_chosen(self, val: Sequence[Case], sets: Sequence[EvaluationSet], *, where: str, preset: Preset) -> None:
        """Raise ConfigError if weights would be chosen by cases on which they are tested."""
        tested = {self.image(case): one.name for one in sets if one.name != VALIDATION for case in one.cases}
        if both := sorted(case for case in val if self.image(case) in tested):
            raise ConfigError(
                f"{where}: preset {preset.name} chooses a checkpoint by validation cases, {len(both)} of which are "
                f"tested as {tested[self.image(both[0])]}, such as {both[0].id}; expected validation cases that are in "
                "no other evaluation set"
            )

    def _evaluation_set(
        self, group: TrainingGroup, *, name: str, label_set: str, cases: tuple[Case, ...]
    ) -> EvaluationSet:
        learned = {structure.name for structure in self.label_set(group.label_set).structures}
        structures = tuple(s.name for s in self.label_set(label_set).structures if s.name in learned)
        return EvaluationSet(name=name, label_set=label_set, structures=structures, cases=cases)


def _facets(group: TrainingGroup, *, model: Model, seed: int | None) -> dict[str, str | int]:
    return {**group.facets, "model": model.name, **({} if seed is None else {TRAINING_SEED: seed})}


def split_sha256(training: Training) -> str:
    """Return the digest of the names of a training's cases, part by part."""
    parts = {TRAIN: training.train, VALIDATION: training.val} | {s.name: s.cases for s in training.evaluation_sets}
    names = {part: [case.id for case in cases] for part, cases in parts.items()}
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()


def _evenly_spaced(ordered: Sequence[str], *, limit: int | None) -> Sequence[str]:
    if limit is None or limit >= len(ordered):
        return ordered
    last = len(ordered) - 1
    positions = [round(i * last / (limit - 1)) for i in range(limit)] if limit > 1 else [0]
    return [ordered[position] for position in positions]


Named = TypeVar("Named", Dataset, LabelSet)


def _by_name(items: Mapping[str, Named], name: str, kind: str) -> Named:
    if name in items:
        return items[name]
    raise ConfigError(f"{kind} {name!r}: unknown; expected one of {', '.join(items)}")
