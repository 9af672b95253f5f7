"""A sweep: trials are chosen, trained and scored, a few at a time or all at once, until there are enough."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.driver.backend import Connect, connected_once
from orchestrator.driver.results.shown import report_now
from orchestrator.driver.run import RunOutcome, run
from orchestrator.progress import ProgressListener
from orchestrator.search.samplers import SAMPLERS, KnownTrial, Trial
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_values import JsonMapping, JsonObject
from orchestrator.sweeps.budget import Budget
from orchestrator.sweeps.chosen import numbered, trials_of
from orchestrator.sweeps.population import evolve, results_of
from orchestrator.sweeps.request import SweepRequest
from orchestrator.sweeps.trial_results import TrialResult, best_of, promoted
from orchestrator.sweeps.warm_start import CASES, cases_seen, trials_of_others
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
        for trial in numbered(drawn)
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
    about = request.about | {CASES: cases_seen(request, storage)}
    go_on = _sweep_of_trials if request.population is None else _sweep_of_population
    with connected_once(connect) as connect_once:
        return go_on(request, storage, about=about, connect=connect_once, listener=listener)


def _sweep_of_trials(
    request: SweepRequest, storage: Storage, *, about: JsonObject, connect: Connect, listener: ProgressListener
) -> SweepOutcome:
    """Let trials begin, end early and go on to the next fidelity, until there are enough."""
    earlier = trials_of_others(request)
    outcome: RunOutcome | None = None
    stopped_for_hours = False
    tables: tuple[str, ...] = ()
    while True:
        trials, results = trials_of(storage), results_of(request, storage)
        best = best_of(results)
        if trials:
            tables = write_sweep(storage, results, best=best, about=about)
        # What was begun before goes first, also what failed; then the best go on, and there are more.
        if outcome is not None or not trials:
            budget = Budget(request, results)
            going_on, new = _next_trials(request, results, earlier=earlier, budget=budget)
            stopped_for_hours = budget.is_short
            if not (going_on or new):
                break
            _write_down(storage, going_on, new, about=about)
            trials = trials_of(storage)
        outcome = run(request.request_for(trials), connect=connect, listener=listener)
    # What the last call has written of itself does not know yet what has become of its trials.
    if outcome is not None:
        report_now(request.request_for(trials), storage)
    return SweepOutcome(
        results=tuple(results),
        best=best,
        failures=_failures(outcome),
        stopped_for_hours=stopped_for_hours,
        has_tried_all=not stopped_for_hours and len(results) < request.num_trials,
        tables=tables,
    )


def _sweep_of_population(
    request: SweepRequest, storage: Storage, *, about: JsonObject, connect: Connect, listener: ProgressListener
) -> SweepOutcome:
    """Let a population go on to its end, from where it is."""
    if not trials_of(storage):
        _write_down(storage, (), first_trials(request), about=about)
    outcome = evolve(request, storage, about=about, connect=connect, listener=listener)
    results = results_of(request, storage)
    best = best_of(results)
    tables = write_sweep(storage, results, best=best, about=about)
    alive = [one.trial for one in results if one.trial.ended_after is None]
    report_now(request.request_for(alive), storage)
    return SweepOutcome(
        results=tuple(results),
        best=best,
        failures=_failures(outcome),
        stopped_for_hours=len(alive) < len(results),
        has_tried_all=len(results) < request.num_trials,
        tables=tables,
    )


def _failures(outcome: RunOutcome | None) -> tuple[str, ...]:
    failures = outcome.failures if outcome else {}
    return tuple(f"{stage}: {text.splitlines()[0]}" for stage, text in failures.items())


def _next_trials(
    request: SweepRequest, results: Sequence[TrialResult], *, earlier: Sequence[KnownTrial], budget: Budget
) -> tuple[list[Trial], list[Trial]]:
    """Return which trials go on to the next fidelity, and which are new."""
    # Of fewer, one would go on that nobody has had a chance to beat: others begin first.
    is_early = len(results) < min(request.reduction, request.num_trials)
    going_on = [] if is_early else _going_on(request, results, budget=budget)
    new = _new_trials(request, results, earlier=earlier, budget=budget)
    if is_early and not new:
        going_on = _going_on(request, results, budget=budget)
    return going_on, new


def _going_on(request: SweepRequest, results: Sequence[TrialResult], *, budget: Budget) -> list[Trial]:
    found: list[Trial] = []
    for fidelity in range(len(request.fidelities) - 1):
        best = [one.trial for one in promoted(results, fidelity=fidelity, reduction=request.reduction)]
        found += budget.take(best, fidelity=fidelity + 1)
    return found


def _new_trials(
    request: SweepRequest, results: Sequence[TrialResult], *, earlier: Sequence[KnownTrial], budget: Budget
) -> list[Trial]:
    """Return the trials to begin next, none if there are enough; raises ConfigError if a setting does not fit."""
    sampler, first = SAMPLERS[request.sampler], len(results)
    is_bounded = sampler.learns or request.max_hours is not None
    at_once = request.num_at_once or (TRIALS_AT_ONCE if is_bounded else request.num_trials)
    num_trials = min(at_once, request.num_trials - first)
    if num_trials <= 0:
        return []
    # That of the first fidelity, which all have.
    known = [KnownTrial(settings=one.trial.settings, score=one.scores[0]) for one in results]
    settings = sampler(request.space, [*earlier, *known], num_trials=num_trials, seed=request.run.seed)
    trials = numbered(settings, first=first)
    request.request_for([replace(one, fidelity=len(request.fidelities) - 1) for one in trials])
    return budget.take(trials, fidelity=0)


def _write_down(storage: Storage, going_on: Sequence[Trial], new: Sequence[Trial], *, about: JsonMapping) -> None:
    """Write down which trials go on and which are new. Where another process has done so, its trials count."""
    if going_on:
        number = sum(1 for _ in run_paths.own_keys(storage, run_paths.PROMOTIONS))
        record: JsonObject = {"trials": [one.number for one in going_on]}
        storage.create_exclusive(run_paths.promotions(number), json.dumps(record, indent=1).encode())
    if new:
        if new[0].number == 0:
            # Before any trial is there, so that whoever goes on knows what they are of.
            write_sweep(storage, (), best=None, about=about)
        record = {"first": new[0].number, "trials": [dict(one.settings) for one in new]}
        storage.create_exclusive(run_paths.trials(new[0].number), json.dumps(record, indent=1).encode())
