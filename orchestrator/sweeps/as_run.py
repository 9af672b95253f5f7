"""A sweep as the run that it is to whoever reads it: a report of its trials."""

from orchestrator.benchmark.trainings.definitions import DEFINITIONS_FORMAT
from orchestrator.driver.request import RunRequest
from orchestrator.results.trials import SearchRecord, read_search
from orchestrator.storage.interface import Storage
from orchestrator.sweeps.chosen import trials_of
from orchestrator.sweeps.inner_study import inner_study
from orchestrator.sweeps.request import run_of_trials, sweep_sha256
from orchestrator.sweeps.written import expect_same


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
    study = inner_study(
        run.study,
        training,
        trials=trials_of(storage),
        fidelities=search.fidelities,
        preset=run.preset,
        sha256=_sha256(search, run),
    )
    return run_of_trials(run, study, output=storage.location)


def expect_searched(storage: Storage, run: RunRequest) -> None:
    """Raise ConfigError unless the sweep of a location is of the training of a run as that is now.

    Its study may have gained whatever this training does not follow from.
    """
    search = read_search(storage)
    if search is not None:
        about = {"preset": run.preset.name, "definitions_format": DEFINITIONS_FORMAT, "sha256": _sha256(search, run)}
        expect_same(storage, about)


def _sha256(search: SearchRecord, run: RunRequest) -> str:
    """Return the digest that a sweep would have if it looked at its trials in the same way."""
    return sweep_sha256(run, fidelities=search.fidelities, milestones=search.milestones, population=search.population)
