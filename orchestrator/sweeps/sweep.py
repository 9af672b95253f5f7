"""A sweep: trials are chosen, trained and scored, a few at a time or all at once, until there are enough."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.driver.backend import Connect
from orchestrator.driver.results.shown import report_now
from orchestrator.driver.run import RunOutcome, run
from orchestrator.errors import ConfigError, IntegrityError
from orchestrator.progress import ProgressListener
from orchestrator.results.trials import read_search
from orchestrator.search.samplers import SAMPLERS, KnownTrial, Trial
from orchestrator.search.space import Settings
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.sweeps.budget import Budget
from orchestrator.sweeps.request import SweepRequest
from orchestrator.sweeps.trial_results import TrialResult, best_of, promoted, results_of_trials
from orchestrator.sweeps.written import expect_same, write_sweep

TRIALS_AT_ONCE = 4
"""That a sampler which learns is asked for before it hears of results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOutcome:
    """What has become of a sweep."""

    results: tuple[TrialResult, ...]
    """Of every trial, in the order of their numbers."""
    best: TrialResult | None
    """None if no trial has trained to its end."""
    failures: tuple[str, ...]
    """A line for each trial that failed."""
    stopped_for_hours: bool
    """Whether fewer trials were begun than asked for, since the hours would not have lasted."""
    has_tried_all: bool
    """Whether fewer trials were begun than asked for, since there are no more settings."""
    tables: tuple[str, ...]
    """Keys of the tables of trials, below the location of the sweep."""


def first_trials(request: SweepRequest) -> list[Trial]:
    """Return trials as they would be chosen if nothing were known, for a forecast; the first of them go on."""
    drawn = SAMPLERS[request.sampler](request.space, (), num_trials=request.num_trials, seed=request.run.seed)
    most = len(request.fidelities) - 1
    return [
        replace(trial, fidelity=sum(trial.number < -(-len(drawn) // request.reduction**k) for k in range(1, most + 1)))
        for trial in _numbered(drawn)
    ]


def sweep(request: SweepRequest, *, connect: Connect, listener: ProgressListener) -> SweepOutcome:
    """Carry out what is not done yet of a sweep.

    Which trials there are is written down before they begin, so that the same call goes on wherever it was interrupted.

    Raises
    ------
    ConfigError
        If a setting does not fit, or the location holds another sweep.
    DataError, ClusterError
        As `run`.
    """
    storage = open_storage(request.output)
    if trials_of(storage):
        expect_same(storage, request.about)
    outcome: RunOutcome | None = None
    stopped_for_hours = False
    tables: tuple[str, ...] = ()
    while True:
        trials = trials_of(storage)
        results = results_of_trials(
            storage, trials, fidelities=request.fidelities, preset=request.run.preset.name, metric=request.metric
        )
        best = best_of(results)
        if trials:
            tables = write_sweep(storage, results, best=best, about=request.about)
        # What was begun before goes first, also what failed; then the best go on, and there are more.
        if outcome is not None or not trials:
            budget = Budget(request, results)
            some_go_on = _promote(request, storage, results, budget=budget)
            num_more = _num_more(request, results, budget=budget)
            stopped_for_hours = budget.is_short
            has_more = num_more > 0 and _choose(request, storage, results, num_trials=num_more)
            if not (some_go_on or has_more):
                break
            trials = trials_of(storage)
        outcome = run(request.request_for(trials), connect=connect, listener=listener)
    # What the last call has written of itself does not know yet what has become of its trials.
    if outcome is not None:
        report_now(request.request_for(trials), storage)
    failures = outcome.failures if outcome else {}
    return SweepOutcome(
        results=tuple(results),
        best=best,
        failures=tuple(f"{stage}: {text.splitlines()[0]}" for stage, text in failures.items()),
        stopped_for_hours=stopped_for_hours,
        has_tried_all=not stopped_for_hours and len(results) < request.num_trials,
        tables=tables,
    )


def _num_more(request: SweepRequest, results: Sequence[TrialResult], *, budget: Budget) -> int:
    """Return how many trials to begin next."""
    learns = SAMPLERS[request.sampler].learns
    is_bounded = learns or request.max_hours is not None
    at_once = request.num_at_once or (TRIALS_AT_ONCE if is_bounded else request.num_trials)
    return budget.take(max(0, min(at_once, request.num_trials - len(results))), fidelity=0)


def _promote(request: SweepRequest, storage: Storage, results: Sequence[TrialResult], *, budget: Budget) -> bool:
    """Write down which trials go on to the next fidelity; False if none does."""
    found = []
    for fidelity in range(len(request.fidelities) - 1):
        best = promoted(results, fidelity=fidelity, reduction=request.reduction)
        found += best[: budget.take(len(best), fidelity=fidelity + 1)]
    if not found:
        return False
    number = sum(1 for _ in run_paths.own_keys(storage, run_paths.PROMOTIONS))
    record = {"trials": [one.trial.number for one in found]}
    storage.create_exclusive(run_paths.promotions(number), json.dumps(record, indent=1).encode())
    return True


def _choose(request: SweepRequest, storage: Storage, results: Sequence[TrialResult], *, num_trials: int) -> bool:
    """Write down the next trials; False if there are no more. Where another process has done so, its trials count."""
    # That of the first fidelity, which all have.
    known = [KnownTrial(settings=one.trial.settings, score=one.scores[0]) for one in results]
    chosen = SAMPLERS[request.sampler](
        request.space, [*_earlier(request), *known], num_trials=num_trials, seed=request.run.seed
    )
    if not chosen:
        return False
    # What does not fit is refused before it is written down.
    request.request_for([replace(one, fidelity=len(request.fidelities) - 1) for one in _numbered(chosen)])
    if not results:
        # Before any trial is there, so that whoever goes on knows what they are of.
        write_sweep(storage, (), best=None, about=request.about)
    record = {"first": len(results), "trials": [dict(settings) for settings in chosen]}
    storage.create_exclusive(run_paths.trials(len(results)), json.dumps(record, indent=1).encode())
    return True


def _earlier(request: SweepRequest) -> list[KnownTrial]:
    """Return the trials of other sweeps that are to be learnt from."""
    found: list[KnownTrial] = []
    for name in request.warm_start:
        storage = open_storage(f"{request.run.output.rstrip('/')}/{run_paths.sweep(name)}")
        search = read_search(storage)
        if search is None:
            raise ConfigError(f"--warm-start {name}: no sweep in {storage.location}; expected the name of one")
        results = results_of_trials(
            storage,
            trials_of(storage),
            fidelities=search.fidelities,
            preset=search.fidelities[-1].preset,
            metric=request.metric,
        )
        found += [KnownTrial(settings=one.trial.settings, score=one.scores[0], is_earlier=True) for one in results]
    return found


def trials_of(storage: Storage) -> list[Trial]:
    """Return every trial that was begun; raises IntegrityError if a record of them is not what was written."""
    settings: list[Settings] = []
    for key in run_paths.own_keys(storage, run_paths.TRIALS):
        record = read_json(storage, key, {"first": int, "trials": list})
        if record["first"] != len(settings) or not all(isinstance(one, dict) for one in record["trials"]):
            raise IntegrityError(f"{storage.location}/{key}: not the trials that were begun; expected what was written")
        settings += [_as_settings(one) for one in record["trials"]]
    numbers = Counter(_promoted_trials(storage))
    return [replace(trial, fidelity=numbers[trial.number]) for trial in _numbered(settings)]


def _promoted_trials(storage: Storage) -> Iterator[object]:
    """Yield the number of a trial for each time that it has gone on to the next fidelity."""
    for key in run_paths.own_keys(storage, run_paths.PROMOTIONS):
        yield from read_json(storage, key, {"trials": list})["trials"]


def _as_settings(record: dict[str, object]) -> Settings:
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in record.items())


def _numbered(settings: Sequence[Settings]) -> list[Trial]:
    return [Trial(number=number, settings=one) for number, one in enumerate(settings)]
