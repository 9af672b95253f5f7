"""Which trainings of a run are needed by now, where it ends once the questions of its study are answered."""

from collections.abc import Collection

from orchestrator.benchmark.tables import load_tables
from orchestrator.driver.claim import looks_of
from orchestrator.driver.request import RunRequest, trainings_of
from orchestrator.driver.results.shown import with_decisions
from orchestrator.errors import ConfigError
from orchestrator.report.looks.decisions import Decisions, InterimLook
from orchestrator.report.looks.planned import plan_looks
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import patient_of_case
from orchestrator.results.store import SCHEMA, ResultsStore
from orchestrator.storage.interface import Storage
from orchestrator.workflow.keys import StageKey
from orchestrator.workflow.looks import LookPlan


def planned_looks(request: RunRequest, storage: Storage) -> LookPlan | None:
    """Return the plan of looks of a run, that of its first call; None for a call that is to train everything.

    Raises ConfigError if the run was begun without one, or with one of other trainings, or if there is nothing to plan.
    """
    if not request.until_decided:
        return None
    plan = looks_of(storage)
    if plan is not None:
        _check_is_of(request, plan)
        return plan
    if ResultsStore(storage).finished():
        raise ConfigError(
            f"{storage.location}: has scores already, without a plan of looks; expected another --output for "
            "--until-decided: a test that is chosen when scores are known has no bound on its errors"
        )
    return plan_of(request)


def plan_of(request: RunRequest) -> LookPlan:
    """Return the plan of looks that a run would begin with; raises ConfigError if there is nothing to plan."""
    comparisons = load_tables(request.study).comparisons
    return plan_looks(request.trainings, comparisons, patients=patient_of_case(request.study))


def _check_is_of(request: RunRequest, plan: LookPlan) -> None:
    others = [one.id for one in request.trainings if one.group in plan.groups and one.id not in plan.trainings]
    if others:
        raise ConfigError(
            f"{request.output}: {', '.join(others)}: not in the plan of looks that this run was started with; expected "
            "the trainings of its first call, or some of them. Choose another --output"
        )


class Looks:
    """Takes the looks of a run as its trainings end."""

    def __init__(self, plan: LookPlan, *, request: RunRequest, storage: Storage) -> None:
        self._plan = plan
        self._request = request
        self._storage = storage
        self.latest = self._decide()
        """What is decided."""

    @property
    def withheld(self) -> frozenset[str]:
        """Ids of the trainings that are not needed, or not yet."""
        return self._plan.trainings - self.latest.needed

    def take(self, *, done: Collection[StageKey]) -> tuple[InterimLook, ...]:
        """Return the looks that can be taken now; none as long as a training is not scored that the next one needs."""
        if self.latest.is_over or not set(map(StageKey.score_of, self.latest.needed)).issubset(done):
            return ()
        num_before = len(self.latest.looks)
        self.latest = self._decide()
        return self.latest.looks[num_before:]

    def _decide(self) -> Decisions:
        store, request = ResultsStore(self._storage), self._request
        shown = Reported(
            study=request.study,
            trainings=trainings_of(request, ids=self._plan.trainings),
            table=store.read() if store.finished() else SCHEMA.empty_table(),
            layout=load_tables(request.study),
        )
        decisions = with_decisions(shown, plan=self._plan).decisions
        assert decisions is not None, self._plan
        return decisions
