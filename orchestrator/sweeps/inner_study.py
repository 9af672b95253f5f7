"""The study of a sweep: each trial is a model, trained and scored within the training cases of one training.

Nothing but these cases is in the study, so no trial can open a validation or test case of the training: neither its
plan nor its scores know of one.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

from orchestrator.benchmark.checks.names import RESERVED_FACETS
from orchestrator.benchmark.definition import Case, Model, Training
from orchestrator.benchmark.folds import DatasetCases, Fold, drawn
from orchestrator.benchmark.presets import MODEL_FIELDS, Preset
from orchestrator.benchmark.study import Selector, Study, TrainingGroup
from orchestrator.benchmark.study_file import FOLD, OTHER_FOLDS, FoldRule
from orchestrator.benchmark.training_groups import ONLY_MATRIX
from orchestrator.errors import ConfigError
from orchestrator.results.trials import Fidelity
from orchestrator.search.samplers import Trial
from orchestrator.search.space import OF_A_MODEL, Settings
from orchestrator.storage.json_values import JsonMapping

TRIAL, FIDELITY = "trial", "fidelity"
"""Facets of the trainings of a sweep: number, and the preset that says how much it is trained."""
_MOST_FOLDS = 5


def inner_study(
    study: Study,
    training: Training,
    *,
    trials: Sequence[Trial],
    fidelities: Sequence[Fidelity],
    preset: Preset,
    sha256: str,
) -> Study:
    """Return the study of a sweep.

    Parameters
    ----------
    study
        That of the training.
    training
        Whose training cases are divided anew, patient by patient and as nnU-Net does, into two to five folds.
    trials
        The models that are compared.
    fidelities, preset
        How much, and on how many of these folds, trials are trained, up to that of each; the preset of the sweep.
    sha256
        Digest of what the sweep follows from; the trials may become more.

    Raises
    ------
    ConfigError
        If there are too few cases or patients, or fewer folds.
    """
    cases = _divided(study, training, least=max(one.folds for one in fidelities))
    looks = [(trial, one) for trial in trials for one in looks_at(trial, fidelities)]
    return replace(
        study,
        # Tables and published values are beside its file, ids of its facets, and nothing of that is about trials.
        path=study.path.parent / f"trials-of-{training.id}" / study.path.name,
        title=f"Trials on the training cases of {training.id}",
        ids="",
        datasets=tuple(
            replace(one, case_names=cases[one.name].everything) for one in study.datasets if one.name in cases
        ),
        models=tuple(_trial_model(training.model, trial, one, study=study, preset=preset) for trial, one in looks),
        groups=tuple(_group(training, trial, one, fidelities=fidelities, preset=preset) for trial, one in looks),
        ensembles=(),
        cases=cases,
        patients_with_several_scans=_patients_of(study, training),
        case_limits={},
        sha256=sha256,
        patterns=(),
        is_search=True,
    )


def looks_at(trial: Trial, fidelities: Sequence[Fidelity]) -> list[Fidelity]:
    """Return what a trial is trained for: every preset that it has come to, with the most folds."""
    found: dict[str, int] = {}
    for one in fidelities[: trial.fidelity + 1]:
        found[one.preset] = max(one.folds, found.get(one.preset, 0))
    return [Fidelity(preset=name, folds=folds) for name, folds in found.items()]


def group_of(trial: Trial, fidelity: Fidelity, *, preset: str) -> str:
    """Return the name of the trainings of a trial; `preset` is that of the sweep."""
    return trial.name if fidelity.preset == preset else f"{trial.name}-{fidelity.preset}"


def changes_for(study: Study, fidelity: Fidelity, *, preset: Preset) -> dict[str, object]:
    """Return what a fidelity changes of the preset of a sweep: how a model is planned and fitted."""
    other = preset if fidelity.preset == preset.name else study.preset(fidelity.preset)
    before, after = asdict(preset), asdict(other)
    return {name: after[name] for name in MODEL_FIELDS if before[name] != after[name]}


def changes_of_trial(
    base: Model, settings: Settings, fidelity: Fidelity, *, study: Study, preset: Preset
) -> dict[str, object]:
    """Return what the model of a trial changes of the preset of a sweep; `base` is that of the training."""
    changed = changes_for(study, fidelity, preset=preset) | dict(base.changes)
    return changed | {field: value for field, value in settings if field not in OF_A_MODEL}


def _trial_model(base: Model, trial: Trial, fidelity: Fidelity, *, study: Study, preset: Preset) -> Model:
    """Return the model of a trial: that of the training, with what fidelity and trial set."""
    own = {field: str(value) for field, value in trial.settings if field in OF_A_MODEL}
    changed = changes_of_trial(base, trial.changes, fidelity, study=study, preset=preset)
    name = group_of(trial, fidelity, preset=preset.name)
    return replace(base, **own, name=name, suffix="", seeds=(), changes=tuple(changed.items()))


def _group(
    training: Training, trial: Trial, fidelity: Fidelity, *, fidelities: Sequence[Fidelity], preset: Preset
) -> TrainingGroup:
    datasets = dict.fromkeys(case.dataset for case in training.train)
    name = group_of(trial, fidelity, preset=preset.name)
    return TrainingGroup(
        name=name,
        facets={
            TRIAL: trial.number,
            **({FIDELITY: fidelity.preset} if len(fidelities) > 1 else {}),
            **_facets(trial.settings),
        },
        label_set=training.label_set,
        matrix_of_model={name: ONLY_MATRIX},
        train=tuple(Selector(dataset=name, part=OTHER_FOLDS) for name in datasets),
        val=tuple(Selector(dataset=name, part=FOLD) for name in datasets),
        evaluations=(),
        plans_from=None,
        num_folds=fidelity.folds,
    )


def _facets(settings: Settings) -> dict[str, str | int]:
    """Return settings as columns of the results; what has a column already is there.

    Texts: a column has one type in all files of a location, and a setting may be a number in one trial and null, for
    nnU-Net's own value, in another.
    """
    return {name: str(value) for name, value in settings if name not in RESERVED_FACETS}


def _divided(study: Study, training: Training, *, least: int) -> dict[str, DatasetCases]:
    """Return the training cases of each data set, divided; raises as `_folds`."""
    folds = _folds(training, _patients_of(study, training), least=least)
    return {name: _cases_of(name, training, folds) for name in dict.fromkeys(case.dataset for case in training.train)}


def _folds(training: Training, patients: Sequence[Sequence[Case]], *, least: int) -> list[list[Case]]:
    """Divide the training cases; scans of one patient stay together, also those of two data sets.

    Raises ConfigError if there are fewer folds than `least`.
    """
    by_id = {case.id: case for case in sorted(training.train)}
    patient_of = dict(zip(by_id, by_id, strict=True))
    for scans in patients:
        own = [case.id for case in scans]
        patient_of |= dict.fromkeys(own, min(own))
    num_patients = len(set(patient_of.values()))
    if num_patients < 2:
        raise ConfigError(
            f"{training.id}: {len(training.train)} training cases of {num_patients} patients; expected several, so "
            "that trials can be compared on some of them"
        )
    rule = FoldRule(number=max(2, min(_MOST_FOLDS, num_patients // 2)))
    if least > rule.number:
        raise ConfigError(
            f"{least} folds: the {len(training.train)} training cases of {training.id} make {rule.number}; expected at "
            "most as many"
        )
    return [[by_id[name] for name in names] for names in drawn(list(by_id), patient_of, rule=rule, where=training.id)]


def _patients_of(study: Study, training: Training) -> tuple[tuple[Case, ...], ...]:
    """Return the training cases of each patient with several."""
    own = set(training.train)
    found = (tuple(case for case in scans if case in own) for scans in study.patients_with_several_scans)
    return tuple(scans for scans in found if len(scans) > 1)


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
    """Return settings for people: `initial_learning_rate 0.003, optimizer adamw`; of a schedule, step by step."""
    steps = dict(settings).get("schedule")
    if isinstance(steps, tuple | list):
        return "; ".join(f"from epoch {one['from_epoch']} {settings_text(_of_step(one))}" for one in steps)
    return ", ".join(f"{name} {value}" for name, value in settings)


def _of_step(step: JsonMapping) -> Settings:
    return tuple((name, value) for name, value in step.items() if name != "from_epoch")
