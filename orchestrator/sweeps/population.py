"""A sweep by population based training: all trials begin together, and go on generation by generation.

How each goes on is written down before any does, and follows from what the generation before has left: the same call
goes on wherever it was interrupted.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from orchestrator.benchmark.definition import training_id
from orchestrator.driver.backend import Connect
from orchestrator.driver.run import RunOutcome, run
from orchestrator.progress import ProgressListener
from orchestrator.results.trials import trial_name
from orchestrator.search.early_stopping import arrivals
from orchestrator.search.population import Generation, Member, Population, next_generation
from orchestrator.search.samplers import Trial
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_values import JsonObject
from orchestrator.sweeps.budget import most_to_the_end
from orchestrator.sweeps.chosen import generations_of, trials_of
from orchestrator.sweeps.request import SweepRequest
from orchestrator.sweeps.trial_results import TrialResult, results_of_trials
from orchestrator.sweeps.written import write_sweep


def evolve(
    request: SweepRequest, storage: Storage, *, about: JsonObject, connect: Connect, listener: ProgressListener
) -> RunOutcome:
    """Carry out what is not done yet of the generations of a population whose first settings are written down.

    Parameters
    ----------
    request
        Of the sweep.
    storage
        Its location.
    about
        What its record says of it.
    connect, listener
        As `run` takes them.

    Returns
    -------
    RunOutcome
        Of the last generation, or of one of which nothing is left.
    """
    population = _population(request)
    while True:
        trials = [one for one in trials_of(storage) if one.ended_after is None]
        generation = generation_under_way(request, storage, trials)
        outcome = run(request.request_for(trials, generation=generation), connect=connect, listener=listener)
        # From that of the generation before, this one went on; where it has failed it will again.
        is_over = generation.until_epoch is None and not outcome.failures
        for number in (generation.number - 2, *([generation.number - 1] if is_over else [])):
            _remove_checkpoints(storage, request, number=number)
        if generation.until_epoch is None:
            return outcome
        members = _decided(request, storage, trials, generation=generation)
        if not members:
            return outcome
        record = {"from_epoch": generation.until_epoch, "members": [_record(one) for one in members]}
        storage.create_exclusive(run_paths.generation(generation.number + 1), json.dumps(record, indent=1).encode())
        write_sweep(storage, results_of(request, storage), best=None, about=about)
        listener.note(_line(members, number=generation.number + 1, of=len(population.boundaries) + 1))


def generation_under_way(request: SweepRequest, storage: Storage, trials: Sequence[Trial]) -> Generation:
    """Return the generation that is to be trained next, or goes on."""
    boundaries = _population(request).boundaries
    number = len(generations_of(storage))
    sources = {
        training_id(trial.name, seed=None, fold=fold): training_id(trial_name(trial.source), seed=None, fold=fold)
        for trial in trials
        if trial.source is not None
        for fold in range(request.num_folds)
    }
    return Generation(
        number=number,
        first_epoch=boundaries[number - 1] if number else 0,
        until_epoch=boundaries[number] if number < len(boundaries) else None,
        sources=sources,
    )


def results_of(request: SweepRequest, storage: Storage) -> list[TrialResult]:
    """Return what is committed of all trials."""
    preset, trials = request.run.preset.name, trials_of(storage)
    return results_of_trials(storage, trials, fidelities=request.fidelities, preset=preset, metric=request.metric)


def _population(request: SweepRequest) -> Population:
    assert request.population is not None
    return request.population


def _decided(
    request: SweepRequest, storage: Storage, trials: Sequence[Trial], *, generation: Generation
) -> list[Member]:
    """Return how each member goes on; empty if all have failed."""
    values = _values(storage, trials, folds=request.num_folds, generation=generation)
    if all(value is None for value in values.values()):
        return []
    return next_generation(
        request.space,
        {trial.number: (trial.settings, values[trial.number]) for trial in trials},
        reduction=_population(request).reduction,
        most=_most_going_on(request, storage, trials, epochs=generation.until_epoch or 0),
        seed=f"{request.run.seed} {generation.number}",
    )


def _values(
    storage: Storage, trials: Sequence[Trial], *, folds: int, generation: Generation
) -> Mapping[int, float | None]:
    """Return the patch Dice of each member, the mean over its folds; None of one that failed."""
    told = {str(one["trial"]): float(one["value"]) for one in arrivals(storage, epoch=generation.until_epoch or 0)}
    found: dict[int, float | None] = {}
    for trial in trials:
        names = [training_id(trial.name, seed=None, fold=fold) for fold in range(folds)]
        is_done = all(storage.exists(run_paths.training_record(generation.place(name))) for name in names)
        found[trial.number] = math.fsum(told[name] for name in names) / folds if is_done else None
    return found


def _most_going_on(request: SweepRequest, storage: Storage, trials: Sequence[Trial], *, epochs: int) -> int:
    """Return for how many members the hours last to the end, each as slow as the slowest so far; one goes on anyway."""
    if request.max_hours is None:
        return len(trials)
    results = results_of(request, storage)
    alive = {trial.number for trial in trials}
    slowest = max(one.hours for one in results if one.trial.number in alive) / epochs
    left = request.max_hours - sum(one.hours for one in results)
    hours_of_each = slowest * (_population(request).num_epochs - epochs)
    return most_to_the_end(left, hours_of_each=hours_of_each) if hours_of_each else len(trials)


def _record(member: Member) -> JsonObject:
    return asdict(member) | {"settings": dict(member.settings)}


def _line(members: Sequence[Member], *, number: int, of: int) -> str:
    """Say how a generation begins."""
    copied = ((one.trial, one.source) for one in members if one.source not in {None, one.trial})
    copies = [f"{trial_name(trial)} from {trial_name(source)}" for trial, source in copied]
    over = [trial_name(one.trial) for one in members if one.source is None]
    return f"generation {number + 1} of {of}: {', '.join(copies) or 'none'} copied" + (
        f"; {', '.join(over)} ended, since hours are short" if over else ""
    )


def _remove_checkpoints(storage: Storage, request: SweepRequest, *, number: int) -> None:
    """Remove the checkpoints of a generation, from which none goes on any more."""
    for trial in trials_of(storage) if number >= 0 else ():
        for fold in range(request.num_folds):
            place = run_paths.generation_of(training_id(trial.name, seed=None, fold=fold), number=number)
            storage.delete(run_paths.final_checkpoint(place))
