"""What the questions of a study would take to be answered, from what the scores of a run vary by."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import TRAINING_SEED, Case, Training
from orchestrator.benchmark.study import Study
from orchestrator.benchmark.tables import ComparisonSpec, compared_groups
from orchestrator.report.answers import METRICS, paired_by, paired_scores
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import patient_of_case, scores_frame
from orchestrator.statistics.planning import VarianceComponents, variance_components

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedComparison:
    """Two groups of trainings in one structure and metric, and what their differences vary by."""

    question: str
    """Title of the question."""
    baseline: str
    """Group."""
    against: str
    """Group."""
    evaluation_set: str
    structure: str
    metric: str
    components: VarianceComponents
    """In the runs that there are; `share_tested` is of their trainings."""
    share_tested: float
    """Of all folds of the study, in how many it tests a patient."""
    num_patients: int
    """Of the study, who would have a score once all of its folds are trained."""
    num_folds: int
    """Of each group."""
    hours_a_pair: float
    """Of training, of one training of each group."""
    num_tests: int
    """Of the question, over which a correction goes."""


def planned_comparisons(runs: Sequence[Reported]) -> tuple[PlannedComparison, ...]:
    """Return what there is to be planned: every difference that the questions of a study ask for.

    Parameters
    ----------
    runs
        Of one study, each with a `--seed` of its own.
    """
    frames = [scores_frame(run) for run in runs]
    trainings = list({training.id: training for run in runs for training in run.trainings}.values())
    found: list[PlannedComparison] = []
    for spec in runs[0].layout.comparisons:
        parts = [
            part
            for baseline, against in compared_groups(spec, trainings)
            for part in _of_groups(spec, frames, pair=(baseline, against), study=runs[0].study)
        ]
        found += [replace(part, num_tests=len(parts)) for part in parts]
    return tuple(found)


def _of_groups(
    spec: ComparisonSpec, frames: Sequence["pd.DataFrame"], *, pair: tuple[Training, Training], study: Study
) -> Iterator[PlannedComparison]:
    """Yield the differences of two groups; how many tests the question has is left to be filled in."""
    import pandas as pd

    baseline, against = pair
    by = paired_by(baseline, against, with_seeds=True)
    paired = [
        paired_scores(rows, baseline=baseline.group, against=against.group, by=by).assign(run=number)
        for number, rows in enumerate(frames)
    ]
    joined = pd.concat(paired, ignore_index=True)
    if joined.empty:
        return
    hours = sum(_hours(frames, group=one.group) for one in pair)
    (preset, *_) = (rows["preset"].iloc[0] for rows in frames if len(rows))
    planned = study.all_trainings(preset=study.preset(preset))
    for (evaluation_set, structure), part in joined.groupby(["evaluation_set", "structure"], sort=False):
        name, of = str(evaluation_set), str(structure)
        tested = _tested(planned, pair=pair, evaluation_set=name, structure=of, patients=patient_of_case(study))
        for metric in METRICS:
            components = _components(part, metric=metric)
            if components is None or not spec.asks(name, of, metric):
                continue
            everyone = set[str]().union(*tested)
            # Some patients have no score, as those without the structure: as many of those to come.
            with_score = components.num_patients / part["patient"].nunique()
            yield PlannedComparison(
                question=spec.title,
                baseline=baseline.group,
                against=against.group,
                evaluation_set=name,
                structure=of,
                metric=metric,
                components=components,
                share_tested=sum(map(len, tested)) / (len(everyone) * len(tested)) if by else components.share_tested,
                num_patients=round(len(everyone) * with_score),
                num_folds=baseline.num_folds,
                hours_a_pair=hours,
                num_tests=0,
            )


def _tested(
    planned: Sequence[Training],
    *,
    pair: tuple[Training, Training],
    evaluation_set: str,
    structure: str,
    patients: Mapping[Case, str],
) -> list[set[str]]:
    """Return the patients that each fold of a study tests in both groups, whatever was trained of it so far."""
    of_fold: dict[str, dict[int, set[str]]] = {one.group: {} for one in pair}
    for training in planned:
        for found in training.evaluation_sets if training.group in of_fold else ():
            if found.name == evaluation_set and structure in found.structures:
                names = {patients.get(case, case.id) for case in found.cases}
                of_fold[training.group].setdefault(training.fold, set()).update(names)
    baseline, against = (of_fold[one.group] for one in pair)
    if pair[0].num_folds != pair[1].num_folds:
        return [set[str]().union(*baseline.values()) & set[str]().union(*against.values())]
    return [names & against.get(fold, set()) for fold, names in baseline.items()]


def _components(part: "pd.DataFrame", *, metric: str) -> VarianceComponents | None:
    """Return what the differences in one structure vary by; None where there are none."""
    difference = part[f"{metric}_against"] - part[f"{metric}_baseline"]
    scored = part.assign(difference=difference)[difference.notna()]
    if scored.empty:
        return None
    # Groups with other numbers of folds are paired case by case: then a run is one training.
    names = [name for name in ("run", "fold", TRAINING_SEED) if name in scored]
    trainings = list(zip(*(scored[name] for name in names), strict=True))
    return variance_components(scored["difference"].tolist(), scored["patient"].tolist(), trainings)


def _hours(frames: Sequence["pd.DataFrame"], *, group: str) -> float:
    """Return the mean hours of a training of a group."""
    seconds = [
        taken
        for rows in frames
        for taken in rows[rows["group"] == group].groupby("training_id")["train_elapsed_s"].first().tolist()
    ]
    return sum(seconds) / len(seconds) / 3600 if seconds else 0.0
