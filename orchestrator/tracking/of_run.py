"""The trainings of a run as a tracking tool has them."""

from collections.abc import Iterator

from orchestrator.driver.claim import trainings_asked_for
from orchestrator.driver.request import RunRequest
from orchestrator.driver.results.shown import shown_of
from orchestrator.events import read_events
from orchestrator.results.store import ResultsStore
from orchestrator.storage.interface import Storage
from orchestrator.tracking.tracked import TrackedRun, tracked_runs


def runs_of(request: RunRequest, storage: Storage) -> Iterator[TrackedRun]:
    """Yield what a run has done so far, training by training."""
    shown = shown_of(request, storage, table=ResultsStore(storage).read(), asked_for=trainings_asked_for(storage))
    return tracked_runs(request, storage, shown=shown, events=read_events(storage))
