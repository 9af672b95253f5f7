"""The study of a sweep: each trial is a model, trained and scored within the training cases of one training.

Nothing but these cases is in the study, so no trial can open a validation or test case of the training: neither its
plan nor its scores know of one.
"""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.benchmark.definition import Case, Model, Training
from orchestrator.benchmark.folds import DatasetCases, Fold, drawn
from orchestrator.benchmark.study import Selector, Study, TrainingGroup
from orchestrator.benchmark.study_file import FOLD, OTHER_FOLDS, RESERVED_FACETS, FoldRule
from orchestrator.benchmark.training_groups import ONLY_MATRIX
from orchestrator.errors import ConfigError
from orchestrator.search.samplers import Trial
from orchestrator.search.space import OF_A_MODEL, Settings

TRIAL = "trial"
"""Facet of the trainings of a sweep."""
_MOST_FOLDS = 5


def inner_study(study: Study, training: Training, *, trials: Sequence[Trial], num_folds: int, sha256: str) -> Study:
    """Return the study of a sweep.

    Parameters
    ----------
    study
        That of the training.
    training
        Whose training cases are divided anew, patient by patient and as nnU-Net divides cases: into five folds, or
        fewer, so that each has two cases.
    trials
        The models that are compared.
    num_folds
        Of these folds, on which each trial is trained and scored.
    sha256
        Digest of what the sweep follows from; the trials may become more.

    Raises
    ------
    ConfigError
        If there are too few cases or patients, or fewer folds.
    """
    folds = _folds(study, training)
    if num_folds > len(folds):
        raise ConfigError(
            f"--folds {num_folds}: the {len(training.train)} training cases of {training.id} make {len(folds)} folds; "
            "expected at most as many"
        )
    cases = {name: _cases_of(name, training, folds) for name in dict.fromkeys(case.dataset for case in training.train)}
    return replace(
        study,
        # Tables and published values are beside its file, and nothing of that is about trials.
        path=study.path.parent / f"trials-of-{training.id}" / study.path.name,
        title=f"Trials on the training cases of {training.id}",
        datasets=tuple(
            replace(one, case_names=cases[one.name].everything) for one in study.datasets if one.name in cases
        ),
        models=tuple(_trial_model(training.model, trial) for trial in trials),
        groups=tuple(_group(training, trial, datasets=list(cases), num_folds=num_folds) for trial in trials),
        ensembles=(),
        cases=cases,
        case_limits={},
        sha256=sha256,
        patterns=(),
        is_search=True,
    )


def _trial_model(base: Model, trial: Trial) -> Model:
    """Return the model of a trial: that of the training, with what the trial sets."""
    own = {field: str(value) for field, value in trial.settings if field in OF_A_MODEL}
    changed = dict(base.changes) | {field: value for field, value in trial.settings if field not in OF_A_MODEL}
    return replace(base, **own, name=trial.name, suffix="", changes=tuple(changed.items()))


def _group(training: Training, trial: Trial, *, datasets: Sequence[str], num_folds: int) -> TrainingGroup:
    return TrainingGroup(
        name=trial.name,
        facets={TRIAL: trial.number, **_facets(trial.settings)},
        label_set=training.label_set,
        matrix_of_model={trial.name: ONLY_MATRIX},
        train=tuple(Selector(dataset=name, part=OTHER_FOLDS) for name in datasets),
        val=tuple(Selector(dataset=name, part=FOLD) for name in datasets),
        evaluations=(),
        plans_from=None,
        num_folds=num_folds,
    )


def _facets(settings: Settings) -> dict[str, str | int]:
    """Return settings as columns of the results; what has a column already is there."""
    return {name: str(value) for name, value in settings if name not in RESERVED_FACETS}


def _folds(study: Study, training: Training) -> list[list[Case]]:
    """Divide the training cases; scans of one patient stay together, also those of two data sets."""
    by_id = {case.id: case for case in sorted(training.train)}
    patients = dict(zip(by_id, by_id, strict=True))
    for scans in _scans_of_patients(study):
        own = [case.id for case in scans if case.id in by_id]
        patients |= dict.fromkeys(own, min(own, default=""))
    num_patients = len(set(patients.values()))
    if num_patients < 2:
        raise ConfigError(
            f"{training.id}: {len(training.train)} training cases of {num_patients} patients; expected several, so "
            "that trials can be compared on some of them"
        )
    rule = FoldRule(number=max(2, min(_MOST_FOLDS, num_patients // 2)))
    return [[by_id[name] for name in names] for names in drawn(list(by_id), patients, rule=rule, where=training.id)]


def _scans_of_patients(study: Study) -> list[tuple[Case, ...]]:
    listed = [
        tuple(Case(dataset=name, name=scan) for scan in scans)
        for name, cases in study.cases.items()
        for scans in cases.patients
    ]
    return [*study.patients_with_several_scans, *listed]


def _cases_of(dataset: str, training: Training, folds: Sequence[Sequence[Case]]) -> DatasetCases:
    """Return the training cases of one data set, divided."""
    names = [sorted(case.name for case in fold if case.dataset == dataset) for fold in folds]
    everything = tuple(sorted(case.name for case in training.train if case.dataset == dataset))
    return DatasetCases(
        everything=everything,
        parts={},
        folds=tuple(
            Fold(own=tuple(own), others=tuple(name for name in everything if name not in own)) for own in names
        ),
    )


def settings_text(settings: Settings) -> str:
    """Return settings for people: `initial_learning_rate 0.003, optimizer adamw`."""
    return ", ".join(f"{name} {value}" for name, value in settings)
