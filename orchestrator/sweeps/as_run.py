"""A sweep as the run that it is to whoever reads it: a report of its trials."""

from orchestrator.driver.request import RunRequest
from orchestrator.results.trials import SearchRecord
from orchestrator.storage.interface import Storage
from orchestrator.sweeps.chosen import trials_of
from orchestrator.sweeps.inner_study import inner_study
from orchestrator.sweeps.request import run_of_trials, sweep_sha256


def run_of_sweep(storage: Storage, search: SearchRecord, run: RunRequest) -> RunRequest:
    """Return what the trials of a sweep were asked for.

    Parameters
    ----------
    storage
        Location of the sweep.
    search
        Its record.
    run
        Of the training on whose cases it searches, with the preset and the seed of the sweep.
    """
    (training,) = run.trainings
    digest = sweep_sha256(run, fidelities=search.fidelities, milestones=search.milestones, population=search.population)
    study = inner_study(
        run.study,
        training,
        trials=trials_of(storage),
        fidelities=search.fidelities,
        preset=run.preset,
        sha256=digest,
    )
    return run_of_trials(run, study, output=storage.location)
