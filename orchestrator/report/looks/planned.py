"""The plan of the looks at a study: which tests share the error, and which trainings each look adds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.benchmark.definition import Case, Training
from orchestrator.benchmark.tables import ComparisonSpec, compared_groups
from orchestrator.errors import ConfigError
from orchestrator.report.answers import METRICS, paired_by
from orchestrator.statistics.comparison import FEWEST_DIFFERENCES
from orchestrator.workflow.looks import DifferenceKey, LookPlan

FIRST_FOLDS = 2
"""Trainings of each group in the first look: nothing is decided by one pair of trainings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTest:
    """A test that is to be made, whatever the scores will be."""

    key: DifferenceKey
    by: tuple[str, ...]
    """What cases are paired by, of `paired_by`."""
    looks: tuple[frozenset[str], ...]
    """Trainings of both groups in each look and those before it."""
    num_patients: int
    """Once all trainings are done."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Of its trainings that are in each look."""
        return tuple(len(own) / len(self.looks[-1]) for own in self.looks)


def plan_looks(
    trainings: Sequence[Training], comparisons: Sequence[ComparisonSpec], *, patients: Mapping[Case, str]
) -> LookPlan:
    """Return the looks at some trainings: two folds of each group that is compared, then one more at each look.

    Tests are all that the comparisons ask for, but those with fewer patients than a test needs.

    Parameters
    ----------
    trainings
        Those that are asked for.
    comparisons
        Of the study.
    patients
        Of `patient_of_case`.

    Raises
    ------
    ConfigError
        If nothing could be tested, or left out.
    """
    folds = _by_group(trainings)
    tests = [
        key
        for spec in comparisons
        for baseline, against in compared_groups(spec, trainings)
        for key in _keys(spec, folds[baseline.group], folds[against.group], patients=patients)
    ]
    if not tests:
        raise ConfigError(
            f"--until-decided: no question of the study compares two groups of these trainings on {FEWEST_DIFFERENCES} "
            "patients or more; expected one that does (`comparisons` of tables.yaml, or several models)"
        )
    groups = dict.fromkeys(group for test in tests for group in (test.baseline, test.against))
    ids = [[training.id for training in folds[group]] for group in groups]
    most = max(map(len, ids))
    if most <= FIRST_FOLDS:
        raise ConfigError(
            f"--until-decided: at most {most} of these trainings in each group, and none could be left out; expected "
            f"groups with more than {FIRST_FOLDS} folds or seeds"
        )
    further = [[own[place] for own in ids if place < len(own)] for place in range(FIRST_FOLDS, most)]
    first = [id_ for own in ids for id_ in own[:FIRST_FOLDS]]
    plan = LookPlan(tests=list(dict.fromkeys(tests)), looks=[first, *further])
    _check_ensembles(plan, trainings)
    return plan


def _check_ensembles(plan: LookPlan, trainings: Sequence[Training]) -> None:
    """Raise ConfigError for an ensemble of trainings that could be left out: it needs all of its members."""
    for ensemble in trainings:
        compared = [member.id for member in ensemble.members if member.id in plan.trainings]
        if compared:
            raise ConfigError(
                f"--until-decided: {ensemble.id} averages {', '.join(compared)}; none of these could be left out; "
                "expected no ensemble of trainings that are compared. Name what is to be trained with --only"
            )


def planned_tests(
    plan: LookPlan, *, trainings: Sequence[Training], patients: Mapping[Case, str]
) -> tuple[PlannedTest, ...]:
    """Return the tests of a plan; raises ConfigError if it is one of other trainings."""
    folds = _by_group([training for training in trainings if training.id in plan.trainings])
    if plan.groups - folds.keys() or plan.trainings - {training.id for own in folds.values() for training in own}:
        raise ConfigError(
            "the plan of looks names trainings or groups that the study does not have; expected those that the run was "
            "started with. Restore its record or choose another --output"
        )
    found = []
    for key in plan.tests:
        baseline, against = folds[key.baseline], folds[key.against]
        ids = {training.id for training in (*baseline, *against)}
        scored = _scored_by_both(baseline, against)
        found.append(
            PlannedTest(
                key=key,
                by=paired_by(baseline[0], against[0]),
                looks=tuple(plan.until(number) & ids for number in range(1, len(plan.looks) + 1)),
                num_patients=_num_patients(scored.get((key.evaluation_set, key.structure), set()), patients),
            )
        )
    return tuple(found)


def _by_group(trainings: Sequence[Training]) -> dict[str, list[Training]]:
    """Return the trainings of each group, all folds with one seed before those with the next."""
    folds: dict[str, list[Training]] = {}
    for training in sorted(trainings, key=_place):
        folds.setdefault(training.group, []).append(training)
    return folds


def _place(training: Training) -> tuple[int, int]:
    return 0 if training.seed is None else training.model.seeds.index(training.seed), training.fold


def _keys(
    spec: ComparisonSpec, baseline: Sequence[Training], against: Sequence[Training], *, patients: Mapping[Case, str]
) -> Iterator[DifferenceKey]:
    for (evaluation_set, structure), cases in _scored_by_both(baseline, against).items():
        for metric in METRICS:
            if spec.asks(evaluation_set, structure, metric) and _num_patients(cases, patients) >= FEWEST_DIFFERENCES:
                yield DifferenceKey(
                    baseline=baseline[0].group,
                    against=against[0].group,
                    evaluation_set=evaluation_set,
                    structure=structure,
                    metric=metric,
                )


def _scored_by_both(baseline: Sequence[Training], against: Sequence[Training]) -> dict[tuple[str, str], set[Case]]:
    """Return the cases that both groups are scored on, by evaluation set and structure."""
    first, second = _scored(baseline), _scored(against)
    return {key: cases & second[key] for key, cases in first.items() if key in second}


def _scored(folds: Sequence[Training]) -> dict[tuple[str, str], set[Case]]:
    found: dict[tuple[str, str], set[Case]] = {}
    for one in (evaluation for training in folds for evaluation in training.evaluation_sets):
        for structure in one.structures:
            found.setdefault((one.name, structure), set()).update(one.cases)
    return found


def _num_patients(cases: set[Case], patients: Mapping[Case, str]) -> int:
    return len({patients.get(case, case.id) for case in cases})
