"""Which trials a sweep has begun, and how far they have come, as it has written it down."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.errors import IntegrityError
from orchestrator.search.samplers import Trial
from orchestrator.search.space import Settings
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json


def trials_of(storage: Storage) -> list[Trial]:
    """Return every trial that was begun; raises IntegrityError if a record of them is not what was written."""
    settings: list[Settings] = []
    for key in run_paths.own_keys(storage, run_paths.TRIALS):
        record = read_json(storage, key, {"first": int, "trials": list})
        if record["first"] != len(settings) or not all(isinstance(one, dict) for one in record["trials"]):
            raise IntegrityError(f"{storage.location}/{key}: not the trials that were begun; expected what was written")
        settings += [_as_settings(one) for one in record["trials"]]
    numbers = Counter(_promoted_trials(storage))
    return [replace(trial, fidelity=numbers[trial.number]) for trial in numbered(settings)]


def _promoted_trials(storage: Storage) -> Iterator[object]:
    """Yield the number of a trial for each time that it has gone on to the next fidelity."""
    for key in run_paths.own_keys(storage, run_paths.PROMOTIONS):
        yield from read_json(storage, key, {"trials": list})["trials"]


def _as_settings(record: dict[str, object]) -> Settings:
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in record.items())


def numbered(settings: Sequence[Settings], *, first: int = 0) -> list[Trial]:
    """Return trials with these settings, numbered from `first`."""
    return [Trial(number=number, settings=one) for number, one in enumerate(settings, first)]
