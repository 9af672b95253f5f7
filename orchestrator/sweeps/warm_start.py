"""The trials of other sweeps that a sampler may learn from: none that has seen what this training is scored on."""

from dataclasses import replace

from orchestrator.benchmark.definition import Case
from orchestrator.errors import ConfigError
from orchestrator.search.samplers import KnownTrial
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.sweeps.chosen import trials_of
from orchestrator.sweeps.request import SweepRequest
from orchestrator.sweeps.trial_results import results_of_trials

CASES = "cases"
"""Of the record of a sweep: the cases of which its trials, and those that they were chosen by, know anything."""
_SAME = ("preset", "metric")
"""What scores of two sweeps must have in common to be compared."""


def trials_of_others(request: SweepRequest) -> list[KnownTrial]:
    """Return the trials of the sweeps that a sweep begins with; their scores are of the first fidelity.

    Raises
    ------
    ConfigError
        If there is no such sweep, its scores are of something else, or its trials have seen a case on which this
        training is validated or tested, or another scan of such a patient.
    """
    found: list[KnownTrial] = []
    for name in request.warm_start:
        storage = open_storage(_location(request, name))
        _check(request, storage, name=name)
        results = results_of_trials(
            storage,
            trials_of(storage),
            fidelities=request.fidelities[:1],
            preset=request.run.preset.name,
            metric=request.metric,
        )
        found += [KnownTrial(settings=one.trial.settings, score=one.scores[0], is_earlier=True) for one in results]
    return found


def cases_seen(request: SweepRequest, storage: Storage) -> list[str]:
    """Return the cases of which the trials of a sweep know anything, also by the sweeps that they learnt from."""
    found = {case.id for case in request.training.train}
    places = [storage, *(open_storage(_location(request, name)) for name in request.warm_start)]
    for place in places:
        if place.exists(run_paths.SWEEP):
            found.update(read_json(place, run_paths.SWEEP).get(CASES, ()))
    return sorted(found)


def _location(request: SweepRequest, name: str) -> str:
    return f"{request.run.output.rstrip('/')}/{run_paths.sweep(name)}"


def _check(request: SweepRequest, storage: Storage, *, name: str) -> None:
    where = f"--warm-start {name}"
    if not storage.exists(run_paths.SWEEP):
        raise ConfigError(f"{where}: no sweep in {storage.location}; expected the name of one")
    said, own = read_json(storage, run_paths.SWEEP), request.about
    if "population" in said:
        raise ConfigError(f"{where}: its trials changed their settings on the way; expected one without --stopping pbt")
    if CASES not in said:
        raise ConfigError(f"{where}: of another version, which does not say its cases; expected one of this version")
    for field in _SAME:
        if said[field] != own[field]:
            raise ConfigError(f"{where}: its {field} is {said[field]}; expected {own[field]}, that of this sweep")
    if said["fidelities"][0] != own["fidelities"][0]:
        raise ConfigError(
            f"{where}: looks at its trials in another way first; expected the first fidelity of this sweep"
        )
    seen = sorted(set(said[CASES]) & {case.id for case in _held_out(request)})
    if seen:
        raise ConfigError(
            f"{where}: was on the training cases of {said['training']}, and {request.training.id} is validated or "
            f"tested on {len(seen)} of these ({seen[0]} ...); expected a sweep that has seen none of them"
        )


def _held_out(request: SweepRequest) -> set[Case]:
    """Return the cases that score a training, before a preset leaves any out, and the other cases of these patients."""
    study, preset = request.run.study, replace(request.run.preset, case_limits={})
    training = next(one for one in study.all_trainings(preset=preset) if one.id == request.training.id)
    cases = {*training.val, *(case for one in training.evaluation_sets for case in one.cases)}
    for own in study.patients_with_several_scans:
        if cases.intersection(own):
            cases.update(own)
    return cases
