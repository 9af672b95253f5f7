"""What the questions of a study would take to be answered, from what the scores of a run vary by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import TRAINING_SEED, Training
from orchestrator.benchmark.tables import ComparisonSpec, compared_groups
from orchestrator.report.answers import METRICS, paired_by, paired_scores
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import scores_frame
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
        found += _of_question(spec, frames, trainings)
    return tuple(found)


def _of_question(
    spec: ComparisonSpec, frames: Sequence["pd.DataFrame"], trainings: Sequence[Training]
) -> list[PlannedComparison]:
    import pandas as pd

    parts = []
    for baseline, against in compared_groups(spec, trainings):
        paired = [
            paired_scores(
                rows,
                baseline=baseline.group,
                against=against.group,
                by=paired_by(baseline, against, with_seeds=True),
            ).assign(run=number)
            for number, rows in enumerate(frames)
        ]
        joined = pd.concat(paired, ignore_index=True)
        hours = sum(_hours(frames, group=one.group) for one in (baseline, against))
        for (evaluation_set, structure), part in joined.groupby(["evaluation_set", "structure"], sort=False):
            for metric in METRICS:
                components = _components(part, metric=metric)
                if components is not None and spec.asks(str(evaluation_set), str(structure), metric):
                    parts.append((baseline, against, str(evaluation_set), str(structure), metric, components, hours))
    return [
        PlannedComparison(
            question=spec.title,
            baseline=baseline.group,
            against=against.group,
            evaluation_set=evaluation_set,
            structure=structure,
            metric=metric,
            components=components,
            num_folds=baseline.num_folds,
            hours_a_pair=hours,
            num_tests=len(parts),
        )
        for baseline, against, evaluation_set, structure, metric, components, hours in parts
    ]


def _components(part: "pd.DataFrame", *, metric: str) -> VarianceComponents | None:
    """Return what the differences in one structure vary by; None where there are too few."""
    difference = part[f"{metric}_against"] - part[f"{metric}_baseline"]
    scored = part.assign(difference=difference)[difference.notna()]
    if scored["patient"].nunique() < 2:
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
