"""What the looks of a run have decided: a function of its plan and its committed scores, and of nothing else."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import Case, Training
from orchestrator.report.answers import METRICS, Answer, Decision, paired_scores
from orchestrator.report.looks.planned import PlannedTest, planned_tests
from orchestrator.statistics.sequential import (
    Family,
    Flips,
    InterimDifferences,
    InterimState,
    look_by_look,
    num_flips_for,
)
from orchestrator.workflow.looks import DifferenceKey, LookPlan

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True)
class InterimLook:
    """What is known after a look."""

    number: int
    """From 1."""
    num_trainings: int
    """Of all looks so far, without those that were left out."""
    num_higher: int
    num_lower: int
    num_hopeless: int
    """Tests that are undecided and would most likely stay so."""
    num_open: int
    left_out: tuple[str, ...]
    """Ids of the trainings to come that no open test needs, and no earlier look has named."""

    @property
    def line(self) -> str:
        """All of it in one sentence."""
        found = (
            f"look {self.number} at {self.num_trainings} trainings: {self.num_higher} differences are shown to be "
            f"higher, {self.num_lower} lower, {self.num_hopeless} will hardly be shown, {self.num_open} are open"
        )
        return f"{found}; not needed any more: {', '.join(self.left_out)}" if self.left_out else found


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisions:
    """What a run has decided so far."""

    looks: tuple[InterimLook, ...]
    """Those that were taken."""
    num_planned: int
    """Looks, if none ends the run."""
    tests: tuple[Decision, ...]
    """Each planned test, after the last of these looks; none before the first."""
    needed: frozenset[str]
    """Trainings of the plan whose scores are needed by now."""
    lacking: tuple[str, ...]
    """Those of them that have none."""
    left_out: Mapping[str, int]
    """Id of each training that will not be needed to the look that said so."""

    @property
    def lines(self) -> tuple[str, ...]:
        """What each look has decided, and what the next one waits for."""
        waiting = f"look {len(self.looks) + 1} waits for the scores of {', '.join(self.lacking)}"
        return (*(look.line for look in self.looks), *([waiting] if self.lacking else []))

    @property
    def is_over(self) -> bool:
        """Whether no look is to come."""
        return bool(self.looks) and (self.looks[-1].num_open == 0 or len(self.looks) == self.num_planned)


def decisions_of(
    plan: LookPlan,
    rows: "pd.DataFrame",
    *,
    trainings: Sequence[Training],
    patients: Mapping[Case, str],
) -> Decisions:
    """Return what the looks of a run have decided.

    A look is taken when all trainings that it needs have scores. One that has failed for good holds up what comes after
    it: whether that is needed is not known.

    Parameters
    ----------
    plan
        Of the run.
    rows
        Of `scores_frame`.
    trainings
        Those of the plan; others are ignored.
    patients
        Of `patient_of_case`.
    """
    tests = planned_tests(plan, trainings=trainings, patients=patients)
    committed = frozenset(rows["training_id"].unique())
    interims = list(_interims(tests, rows, committed=committed))
    family = Family(interims=interims, num_tests=len(tests), flips=Flips(_num_flips(tests)))
    group_of = {training.id: training.group for training in trainings}
    looks, decisions = list[InterimLook](), tuple[Decision, ...]()
    needed, left_out = frozenset(plan.looks[0]), dict[str, int]()
    for number, standings in enumerate(look_by_look(family, num_looks=len(plan.looks)), start=1):
        if not needed <= committed:
            break
        decisions = tuple(map(_decision, tests, interims, standings))
        open_groups = {group for one in decisions if not one.is_closed for group in (one.key.baseline, one.key.against)}
        to_come = plan.trainings - plan.until(number) - left_out.keys()
        without = tuple(sorted(id_ for id_ in to_come if group_of[id_] not in open_groups))
        looks.append(_look(number, decisions, num_trainings=len(needed), left_out=without))
        left_out |= dict.fromkeys(without, number)
        if not open_groups:
            break
        needed = plan.until(number + 1) - left_out.keys()
    return Decisions(
        looks=tuple(looks),
        num_planned=len(plan.looks),
        tests=decisions,
        needed=needed,
        lacking=tuple(sorted(needed - committed)),
        left_out=left_out,
    )


def _decision(test: PlannedTest, interim: InterimDifferences, standing: InterimState) -> Decision:
    took_part = standing.num_looks > 0
    return Decision(
        key=test.key,
        look=standing.num_looks,
        num_trainings=len(test.looks[standing.num_looks - 1]) if took_part else 0,
        num_patients=len(interim.differences[standing.num_looks - 1]) if took_part else 0,
        crossing=standing.crossing,
        level=standing.level,
        chance=standing.chance,
        is_closed=standing.is_closed,
    )


def _look(number: int, decisions: Sequence[Decision], *, num_trainings: int, left_out: tuple[str, ...]) -> InterimLook:
    verdicts = [one.verdict for one in decisions]
    num_open = sum(not one.is_closed for one in decisions)
    num_higher, num_lower = verdicts.count("higher"), verdicts.count("lower")
    return InterimLook(
        number=number,
        num_trainings=num_trainings,
        num_higher=num_higher,
        num_lower=num_lower,
        num_hopeless=len(decisions) - num_open - num_higher - num_lower,
        num_open=num_open,
        left_out=left_out,
    )


def _num_flips(tests: Sequence[PlannedTest]) -> int:
    """Return how many flips these tests need: the same number at every look."""
    steps = [now - before for test in tests for before, now in pairwise((0.0, *test.shares)) if now > before]
    # The patients of one evaluation set are the same in all tests of it, more often than not.
    largest: dict[str, int] = {}
    for test in tests:
        largest[test.key.evaluation_set] = max(test.num_patients, largest.get(test.key.evaluation_set, 0))
    return num_flips_for(len(tests), num_patients=sum(largest.values()), least_step=min(steps, default=1.0))


def _interims(
    tests: Sequence[PlannedTest], rows: "pd.DataFrame", *, committed: Collection[str]
) -> Iterator[InterimDifferences]:
    """Yield what is known of each test: its looks until the first that lacks a training of its own."""
    known: dict[tuple[str, str, frozenset[str]], dict[DifferenceKey, dict[str, float]]] = {}
    for test in tests:
        differences = []
        for ids in test.looks:
            if not ids.issubset(committed):
                break
            of = test.key.baseline, test.key.against, ids
            if of not in known:
                known[of] = _differences(rows[rows["training_id"].isin(ids)], test)
            differences.append(known[of].get(test.key, {}))
        yield InterimDifferences(shares=test.shares, differences=tuple(differences))


def _differences(rows: "pd.DataFrame", test: PlannedTest) -> dict[DifferenceKey, dict[str, float]]:
    """Return the mean difference of each patient in every test of the same two groups."""
    baseline, against = test.key.baseline, test.key.against
    joined = paired_scores(rows, baseline=baseline, against=against, by=test.by)
    found = {}
    for metric in METRICS:
        joined["difference"] = joined[f"{metric}_against"] - joined[f"{metric}_baseline"]
        scored = joined[joined["difference"].notna()]
        for (evaluation_set, structure), part in scored.groupby(["evaluation_set", "structure"], sort=False):
            key = DifferenceKey(
                baseline=baseline,
                against=against,
                evaluation_set=str(evaluation_set),
                structure=str(structure),
                metric=metric,
            )
            found[key] = {str(name): float(one) for name, one in part.groupby("patient")["difference"].mean().items()}
    return found


def decided_by(decisions: Decisions | None, found: Answer) -> Answer:
    """Return an answer as the looks of its run give it, if any: the test of all that there is would not hold then."""
    if decisions is None:
        return found
    of_tests = {one.key: one for one in decisions.tests}
    differences = tuple(
        replace(
            one,
            result=replace(one.result, p_corrected=math.nan),
            is_sequential=True,
            decision=of_tests.get(one.key),
        )
        for one in found.differences
    )
    return replace(found, differences=differences)
