"""Whose output location it is: the record of a run, which no run with other results may share."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.configuration import understood
from orchestrator.errors import ConfigError, IntegrityError
from orchestrator.results.store import ResultsStore
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.workflow.looks import LookPlan

RUN_FORMAT = 2
"""Version of the layout of a run's output."""
_LOOKS = "until_decided"
"""Field with the plan of its looks, of a run that ends once its questions are answered."""
_WITHOUT_INFLUENCE = {
    "preset.expected_s_per_iteration",
    "preset.workers",
    "trainings",
    f"{_LOOKS}.tests",
    f"{_LOOKS}.looks",
}
"""Fields of the record of a run that change no result but for rounding; rows say how many workers there were."""
_NOTHING = "nothing"
"""Stands for a field that a record lacks, as one of another version may."""


def claim_output(
    storage: Storage, *, identity: Mapping[str, object], trainings: Sequence[str], looks: LookPlan | None = None
) -> tuple[str, ...]:
    """Mark an output location as a run's.

    Parameters
    ----------
    storage
        The location.
    identity
        What the results of the run follow from, by name.
    trainings
        Ids of those that this call is asked for.
    looks
        Plan of its looks, if it ends once its questions are answered; the first one that is given stays.

    Returns
    -------
    tuple of str
        Ids of all trainings that this call or an earlier one was asked for.

    Raises
    ------
    ConfigError
        If a run with other results lives there.
    """
    record = json.loads(json.dumps({"format": RUN_FORMAT, **identity}))
    found = _claim_of(storage)
    if found is not None and found.get("format") != RUN_FORMAT:
        raise ConfigError(
            f"{storage.location}/{run_paths.RUN}: files in layout {found.get('format')}; expected {RUN_FORMAT}. "
            "Another version of this project has written them and can go on with them; otherwise choose another "
            "--output"
        )
    if found is not None and (different := _differences(found, record)):
        raise ConfigError(
            f"{storage.location}: holds a run with another {', '.join(different)}; expected the same one or an empty "
            "location. Choose another --output"
        )
    asked_for = tuple(dict.fromkeys([*_asked_for(found), *trainings]))
    after: dict[str, object] = {**(found or record), "trainings": list(asked_for)}
    if looks is not None:
        after.setdefault(_LOOKS, looks.model_dump())
    if after != found:
        write_json(storage, run_paths.RUN, after)
    return asked_for


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What a run says of itself."""

    study_sha256: str
    preset: str
    """Name."""
    seed: int
    data: str
    """Location of the downloads, or `phantoms`."""


def run_of(storage: Storage) -> RunRecord:
    """Return what the run of a location says of itself; raises ConfigError if there is none that does."""
    found = _claim_of(storage) or {}
    preset, study, seed, data = (found.get(key) for key in ("preset", "study_sha256", "seed", "data"))
    name = preset.get("name") if isinstance(preset, dict) else None
    if not (isinstance(name, str) and isinstance(study, str) and isinstance(seed, int) and isinstance(data, str)):
        raise ConfigError(f"{storage.location}: no run has been started there; expected the --output of one")
    return RunRecord(study_sha256=study, preset=name, seed=seed, data=data)


def looks_of(storage: Storage) -> LookPlan | None:
    """Return the plan of the looks of a run; None if it has none, or there is no run.

    Raises ConfigError if its record has something else in that place.
    """
    found = _claim_of(storage) or {}
    where = f"{storage.location}/{run_paths.RUN}: {_LOOKS}"
    return understood(found[_LOOKS], LookPlan, where=where) if found.get(_LOOKS) is not None else None


def trainings_asked_for(storage: Storage) -> tuple[str, ...]:
    """Return the ids of all trainings that the calls of a run were asked for; none where there is no run."""
    return _asked_for(_claim_of(storage))


def _asked_for(record: Mapping[str, object] | None) -> tuple[str, ...]:
    names = record.get("trainings") if record else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _claim_of(storage: Storage) -> dict[str, object] | None:
    """Return what the run of a location says of itself; None if there is no run."""
    where = f"{storage.location}/{run_paths.RUN}"
    advice = "the seed, preset and data of what is there are not known. Restore the file or choose another --output"
    if not storage.exists(run_paths.RUN):
        if ResultsStore(storage).finished():
            raise ConfigError(f"{where}: there are results, but not this file, so {advice}")
        return None
    try:
        return read_json(storage, run_paths.RUN)
    except IntegrityError as error:
        raise ConfigError(f"{where}: not the record of a run, so {advice}") from error


def _differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """Return what differs between the records of two runs, by name, with both values."""
    there, asked_for = dict(_flat(found)), dict(_flat(wanted))
    different = [name for name in {**asked_for, **there} if there.get(name, _NOTHING) != asked_for.get(name, _NOTHING)]
    if "preset.name" in different:
        # Presets of two names differ in most of what they hold.
        different = [name for name in different if name == "preset.name" or not name.startswith("preset.")]
    return [
        f"{name} ({there.get(name, _NOTHING)} there, {asked_for.get(name, _NOTHING)} asked for)"
        for name in different
        if name not in _WITHOUT_INFLUENCE
    ]


def _flat(record: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the fields of a record; those of a record within it by both names, as in `preset.num_epochs`."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
