"""What a report says of how its scores came about: the paragraph on methods, and which folds they are of."""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.trainings.ensembles import fitted_trainings
from orchestrator.report.answers import Answer
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import patient_of_case
from orchestrator.report.texts.numbers import span
from orchestrator.results.records import ScoreStatus
from orchestrator.usage import Usage

if TYPE_CHECKING:
    import pandas as pd

_OF_ALL = (
    "; differences were tested with Wilcoxon's signed rank test over patients and corrected by Holm's method within "
    "each question"
)
_OF_LOOKS = (
    "; differences were tested with a group sequential signed rank test over patients, looked at as folds ended, with "
    "limits from random signs of patients, errors spent evenly over the trainings and divided by Holm's method over "
    "all tests; trainings that no open test needed were not carried out"
)
_OF_NOTHING = ", with two empty masks as 1 where either method predicted something"
_OF_MODELS = (
    "; beside the tests stand linear mixed models with patients, folds and trainings drawn at random (restricted "
    "likelihood, Satterthwaite's degrees of freedom)"
)


def notes_of_folds(trainings: Sequence[Training], *, scored: Collection[str]) -> tuple[str, ...]:
    """Return which groups of trainings have scores of some of their folds alone; nothing if none has.

    `scored` are the ids of the trainings with scores, whatever the run was asked for.
    """
    found = _folds(trainings, scored=scored)
    lacking = [f"{done} of {number} in {', '.join(own)}" for (done, number), own in found.items() if done < number]
    if not lacking:
        return ()
    return (
        f"Not all {_parts(trainings)} have scores: {'; '.join(lacking)}. All means, tests and figures are of those "
        "that have.",
    )


def _parts(trainings: Sequence[Training]) -> str:
    return "folds and seeds" if any(one.seed is not None for one in trainings) else "folds"


def _folds(trainings: Sequence[Training], *, scored: Collection[str]) -> dict[tuple[int, int], list[str]]:
    """Return the groups by how many of their trainings have scores, and of how many; those without are left out."""
    of_group: dict[str, list[Training]] = {}
    for training in trainings:
        if training.id in scored:
            of_group.setdefault(training.group, []).append(training)
    found: dict[tuple[int, int], list[str]] = {}
    for group, own in of_group.items():
        found.setdefault((len(own), own[0].num_in_group), []).append(group)
    return found


def methods(
    rows: "pd.DataFrame", *, reported: Reported, answers: Sequence[Answer] = (), usage: Usage | None = None
) -> str:
    """Return the paragraph on methods, ready to be pasted; `rows` are those of `scores_frame`."""
    if rows.empty:
        return "No training has scores yet."
    scored = set(rows["training_id"])
    of_scores = [one for one in reported.trainings if one.id in scored]
    fitted = fitted_trainings(of_scores)
    # What an ensemble says of its origin is what its members say, of which some may have no scores of their own.
    telling = [one for one in of_scores if not one.members or not scored.issuperset(each.id for each in one.members)]
    each = rows[rows["training_id"].isin({one.id for one in telling})].drop_duplicates("training_id")
    num_ensembles = sum(bool(one.members) for one in of_scores)
    averaged = f" {num_ensembles} ensembles average the probabilities of such models." if num_ensembles else ""
    tolerances_mm = rows.groupby("structure", sort=False)["tolerance_mm"].first()
    tolerances = ", ".join(f"{mm:g} mm ({name})" for name, mm in tolerances_mm.items())
    further = "".join(f", {one.title}" for one in reported.layout.metrics)
    phantoms = " The data are generated phantoms." if bool(each["phantoms"].any()) else ""
    return (
        f"{len(fitted)} models of the study “{reported.study.title}” were trained with nnU-Net "
        f"{_machines(each, usage)}, preset "
        f"{', '.join(sorted(set(each['preset'])))}, seed {', '.join(map(str, sorted(set(each['seed']))))}"
        f"{_hours(each, telling)}; {evaluated_weights(fitted)} were evaluated."
        f"{_cases(rows, fitted, reported)}{averaged}{phantoms} Dice similarity coefficient (DSC), normalised "
        f"surface Dice (NSD) at {tolerances}, 95 % Hausdorff distance (HD95){further} and average symmetric surface "
        "distance (ASSD) were calculated for each case and structure. Means have 95 % intervals by the studentised "
        f"bootstrap over patients{_comparisons(rows, answers, has_looks=reported.decisions is not None)}."
    )


def _hours(each: "pd.DataFrame", telling: Sequence[Training]) -> str:
    """Return how long models were trained; nothing where ensembles of the same models, or of chosen ones, tell it."""
    times_told = Counter(one.id for training in telling for one in training.members or (training,))
    if max(times_told.values()) > 1 or any(one.members and one.choose is not None for one in telling):
        return ""
    return f", in {each['train_elapsed_s'].sum() / 3600:.2f} hours of training in all"


def evaluated_weights(trainings: Sequence[Training]) -> str:
    """Return which weights of trainings are scored."""
    by = {metric: sum(one.chosen_by == metric for one in trainings) for metric in ("", "dsc", "nsd")}
    parts = [
        f"the weights of the epoch with the best {metric.upper()} of validation cases, among those looked at"
        if metric
        else "final checkpoints"
        for metric, number in by.items()
        if number
    ]
    if len(parts) < 2:
        return "".join(parts) or "final checkpoints"
    return " and ".join(f"{part} ({number})" for part, number in zip(parts, filter(None, by.values()), strict=True))


def _comparisons(rows: "pd.DataFrame", answers: Sequence[Answer], *, has_looks: bool) -> str:
    """Return how methods were compared; nothing where none were."""
    tested = (_OF_LOOKS if has_looks else _OF_ALL) if any(one.num_tests for one in answers) else ""
    if tested and bool((rows["status"] == ScoreStatus.BOTH_EMPTY).any()):
        tested += _OF_NOTHING
    return tested + (_OF_MODELS if any(one.modelled for one in answers) else "")


def _machines(each: "pd.DataFrame", usage: Usage | None) -> str:
    """Return with which software models were trained, and on what."""
    versions: dict[str, set[str]] = {}
    for text in each["versions"]:
        for name, version in json.loads(text).items():
            versions.setdefault(name, set()).add(version)
    devices = versions.pop("device", {"unknown devices"})
    software = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in versions.items())
    sizes = " and ".join(one.size for one in usage.machines) if usage else ""
    return f"({software}) on {' and '.join(sorted(devices))}{f' (machines of {sizes})' if sizes else ''}"


def _cases(rows: "pd.DataFrame", fitted: Sequence[Training], reported: Reported) -> str:
    """Return how many folds there were, and of how many cases and patients in training and evaluation."""
    patients = patient_of_case(reported.study)
    folds = _folds(fitted, scored={one.id for one in fitted})
    what = _parts(fitted)
    groups = " and ".join(
        f"{done} of {number} {what} each of {', '.join(own)}" for (done, number), own in folds.items()
    )
    train = span(len(one.train) for one in fitted)
    of_patients = span(len({patients.get(case, case.id) for case in one.train}) for one in fitted)
    sets = [
        f"{len(part[['dataset', 'case']].drop_duplicates())} cases of {part['patient'].nunique()} patients "
        f"({reported.layout.set_titles.get(str(name), str(name))})"
        for name, part in rows.groupby("evaluation_set", sort=False)
    ]
    return (
        f" They are {groups}; each was fitted to {train} cases of {of_patients} patients. Evaluated on "
        f"{', '.join(sets)}."
    )
