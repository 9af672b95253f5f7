"""Which trials a sweep has begun, and how far they have come, as it has written it down."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.errors import IntegrityError
from orchestrator.search.samplers import Trial
from orchestrator.search.space import Settings
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.storage.json_values import JsonObject


def trials_of(storage: Storage) -> list[Trial]:
    """Return every trial that was begun; raises IntegrityError if a record of them is not what was written."""
    numbers = Counter(_promoted_trials(storage))
    trials = [replace(trial, fidelity=numbers[trial.number]) for trial in numbered(_first_settings(storage))]
    for generation in generations_of(storage):
        trials = _gone_on(trials, generation)
    return trials


def _first_settings(storage: Storage) -> list[Settings]:
    """Return with what each trial was begun."""
    settings: list[Settings] = []
    for key in run_paths.own_keys(storage, run_paths.TRIALS):
        record = read_json(storage, key, {"first": int, "trials": list})
        if record["first"] != len(settings) or not all(isinstance(one, dict) for one in record["trials"]):
            raise IntegrityError(f"{storage.location}/{key}: not the trials that were begun; expected what was written")
        settings += [as_settings(one) for one in record["trials"]]
    return settings


def generations_of(storage: Storage) -> list[JsonObject]:
    """Return how the members of a population went on with each generation but the first, as it was written down.

    Each has `from_epoch` and `members`, with the fields of `search.population.Member`.
    """
    keys = run_paths.own_keys(storage, run_paths.GENERATIONS)
    return [read_json(storage, key, {"from_epoch": int, "members": list}) for key in keys]


def all_generations_of(storage: Storage) -> list[JsonObject]:
    """Return the same with the first one before it, in which each member begins; none before that."""
    begun = [
        {"trial": number, "value": None, "source": number, "settings": dict(settings)}
        for number, settings in enumerate(_first_settings(storage))
    ]
    return [{"from_epoch": 0, "members": begun}, *generations_of(storage)] if begun else []


def _gone_on(trials: Sequence[Trial], generation: JsonObject) -> list[Trial]:
    """Return trials as they go on with a generation."""
    members, epoch = {one["trial"]: one for one in generation["members"]}, generation["from_epoch"]
    found = []
    for trial in trials:
        if (member := members.get(trial.number)) is None:
            found.append(trial)
        elif member["source"] is None:
            found.append(replace(trial, ended_after=epoch))
        else:
            source, settings = trials[member["source"]], as_settings(member["settings"])
            before = source.schedule or ((0, source.settings),)
            schedule = before if settings == source.settings else (*before, (epoch, settings))
            found.append(replace(trial, settings=settings, schedule=schedule, source=source.number))
    return found


def _promoted_trials(storage: Storage) -> Iterator[object]:
    """Yield the number of a trial for each time that it has gone on to the next fidelity."""
    for key in run_paths.own_keys(storage, run_paths.PROMOTIONS):
        yield from read_json(storage, key, {"trials": list})["trials"]


def as_settings(record: Mapping[str, object]) -> Settings:
    """Return settings of which a file has lists for tuples."""
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in record.items())


def numbered(settings: Sequence[Settings], *, first: int = 0) -> list[Trial]:
    """Return trials with these settings, numbered from `first`."""
    return [Trial(number=number, settings=one) for number, one in enumerate(settings, first)]
