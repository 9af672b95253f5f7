"""The matrix of trainings: every combination of task, subtask, source, fold and network, with its cases."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

from orchestrator.benchmark.definition import Case, Dataset, EvaluationSet, LabelSet, Network, Training
from orchestrator.benchmark.presets import CaseCaps, Preset
from orchestrator.errors import ConfigError

MATRICES = ("core", "2d", "80-20", "msd-lung", "all")
COVID, MOSMED = "covid-19-ct-seg", "mosmed"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSplit:
    """Training and validation cases of a source data set of tasks 2 and 3."""

    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """One row of the matrix: a training a fold, for each of its networks."""

    task: int
    subtask: str
    source: str
    """Short name in training ids; `covid` for task 1."""
    dataset: str
    """Data set of the training cases."""
    split: Literal["20-80", "80-20"]
    matrix: Mapping[Network, str]
    """Network to the name of the matrix that holds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatientLeak:
    """A patient who is in the training and in the test cases of one training, by two scans."""

    train_case: Case
    test_case: Case
    training_ids: tuple[str, ...]

    @property
    def line(self) -> str:
        """All of it in one sentence."""
        return (
            f"{self.train_case.name} and {self.test_case.name} are scans of one patient: the first is trained on "
            f"and the second tested in {', '.join(self.training_ids)}. The published splits are kept."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """The whole benchmark."""

    datasets: tuple[Dataset, ...]
    label_sets: tuple[LabelSet, ...]
    rows: tuple[TrainingRow, ...]
    covid_folds: tuple[tuple[str, ...], ...]
    """Training cases of the folds of task 1; they partition COVID-19-CT-Seg."""
    source_splits: Mapping[str, SourceSplit]
    """By data set."""
    patients_with_several_scans: tuple[tuple[Case, ...], ...]
    sha256: str
    """Digest of the files that define it."""

    def dataset(self, name: str) -> Dataset:
        """Return the data set of that name; raises ConfigError if there is none."""
        return _by_name(self.datasets, name, "data set")

    def label_set(self, name: str) -> LabelSet:
        """Return the label set of that name; raises ConfigError if there is none."""
        return _by_name(self.label_sets, name, "label set")

    def trainings(self, *, matrix: str = "core", only: Sequence[str] = (), preset: Preset) -> tuple[Training, ...]:
        """Return the trainings of a matrix in the order of the benchmark file.

        Parameters
        ----------
        matrix
            `core` (45), `2d`, `80-20`, `msd-lung` or `all` (110).
        only
            Shell patterns; a training is kept if its id or its group matches one of them. None keeps all.
        preset
            Caps the cases of each part: the names are sorted and evenly spaced ones kept, so that both sources of
            COVID-19-CT-Seg stay. The four COVID-19-CT-Seg training cases of a fold are never capped.

        Raises
        ------
        ConfigError
            If the matrix is unknown or a pattern matches nothing.
        """
        if matrix not in MATRICES:
            raise ConfigError(f"--matrix {matrix}: unknown; expected one of {', '.join(MATRICES)}")
        found = [
            self._training(row, network=network, fold=fold, caps=preset.caps)
            for row in self.rows
            for network, name in row.matrix.items()
            if matrix in {name, "all"}
            for fold in (range(1) if row.task == 2 else range(len(self.covid_folds)))
        ]
        return _select(found, only=only, matrix=matrix)

    def patient_leaks(self, trainings: Sequence[Training]) -> tuple[PatientLeak, ...]:
        """Return which of these trainings train on one scan of a patient and test on another."""
        leaks = []
        for scans in self.patients_with_several_scans:
            for trained in scans:
                for tested in scans:
                    touched = tuple(t.id for t in trainings if trained != tested and _leaks(t, trained, tested))
                    if touched:
                        leaks.append(PatientLeak(train_case=trained, test_case=tested, training_ids=touched))
        return tuple(leaks)

    def _training(self, row: TrainingRow, *, network: Network, fold: int, caps: CaseCaps) -> Training:
        published = self._cases(row, fold=fold, caps=CaseCaps())
        train, val, evaluation_sets = self._cases(row, fold=fold, caps=caps)
        return Training(
            task=row.task,
            subtask=row.subtask,
            source=row.source,
            split=row.split,
            fold=fold,
            network=network,
            train=train,
            val=val,
            evaluation_sets=evaluation_sets,
            num_published_cases=sum(map(len, published[:2])) + _num_tests(published[2]),
        )

    def _cases(
        self, row: TrainingRow, *, fold: int, caps: CaseCaps
    ) -> tuple[tuple[Case, ...], tuple[Case, ...], tuple[EvaluationSet, ...]]:
        """Return train and validation cases and the evaluation sets of one fold of a row."""
        all_covid = self.dataset(COVID).case_names
        fold_cases = self.covid_folds[fold]
        others = tuple(name for name in all_covid if name not in fold_cases)
        few, many = (others, fold_cases) if row.split == "80-20" else (fold_cases, others)
        covid_train = {1: few, 2: (), 3: few}[row.task]
        covid_test = all_covid if row.task == 2 else many
        source = self.source_splits[row.dataset] if row.task > 1 else SourceSplit(train=(), val=())
        val = _cases(row.dataset, source.val, limit=caps.val)
        train = (*_cases(row.dataset, source.train, limit=caps.train), *_cases(COVID, covid_train, limit=None))
        structures = tuple(structure.name for structure in self.label_set(row.subtask).structures)
        sets = []
        if val:
            sets.append(EvaluationSet(name="val", label_set=row.subtask, structures=structures, cases=val))
        tests = _cases(COVID, covid_test, limit=caps.test)
        sets.append(EvaluationSet(name="test", label_set=row.subtask, structures=structures, cases=tests))
        if "infection" in structures and row.split == "20-80":
            mosmed = _cases(MOSMED, self.dataset(MOSMED).case_names, limit=caps.test_mosmed)
            sets.append(
                EvaluationSet(name="test-mosmed", label_set="infection", structures=("infection",), cases=mosmed)
            )
        return train, val, tuple(sets)


def split_sha256(training: Training) -> str:
    """Return the digest of the names of a training's cases, part by part."""
    parts = {"train": training.train, "val": training.val} | {s.name: s.cases for s in training.evaluation_sets}
    names = {part: [case.id for case in cases] for part, cases in parts.items()}
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()


def _cases(dataset: str, names: Sequence[str], *, limit: int | None) -> tuple[Case, ...]:
    """Return the cases of these names, sorted; if there are more than `limit`, evenly spaced ones."""
    ordered = sorted(names)
    if limit is not None and limit < len(ordered):
        last = len(ordered) - 1
        positions = [round(i * last / (limit - 1)) for i in range(limit)] if limit > 1 else [0] * limit
        ordered = [ordered[position] for position in positions]
    return tuple(Case(dataset=dataset, name=name) for name in ordered)


def _num_tests(sets: Sequence[EvaluationSet]) -> int:
    return sum(len(evaluation.cases) for evaluation in sets if evaluation.name != "val")


def _leaks(training: Training, trained: Case, tested: Case) -> bool:
    in_test = any(tested in evaluation.cases for evaluation in training.evaluation_sets)
    return trained in training.train and in_test


def _select(trainings: Sequence[Training], *, only: Sequence[str], matrix: str) -> tuple[Training, ...]:
    for pattern in only:
        if not any(_matches(training, pattern) for training in trainings):
            names = sorted({training.group for training in trainings} | {training.id for training in trainings})
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
            hint = f"close to it: {', '.join(near)}" if near else "patterns look like 'T1-*' or 'T2-lung-nsclc-fold0'"
            raise ConfigError(f"--only {pattern}: matches none of the {len(trainings)} trainings of {matrix}; {hint}")
    return tuple(t for t in trainings if not only or any(_matches(t, pattern) for pattern in only))


def _matches(training: Training, pattern: str) -> bool:
    return fnmatchcase(training.id, pattern) or fnmatchcase(training.group, pattern)


Named = TypeVar("Named", Dataset, LabelSet)


def _by_name(items: Sequence[Named], name: str, kind: str) -> Named:
    for item in items:
        if item.name == name:
            return item
    raise ConfigError(f"{kind} {name!r}: unknown; expected one of {', '.join(item.name for item in items)}")


def find_donors(benchmark: Benchmark, trainings: Sequence[Training], *, preset: Preset) -> dict[str, Training]:
    """Return by id the task-1 trainings whose patch size and network these trainings take over."""
    ids = {training.plan_donor for training in trainings if training.plan_donor}
    if not ids:
        return {}
    return {t.id: t for t in benchmark.trainings(matrix="all", preset=preset) if t.id in ids}
