"""Whose output location it is: the record of a run, which no run with other results may share."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from orchestrator.benchmark.trainings.definitions import DEFINITIONS_FORMAT
from orchestrator.configuration import listing, understood
from orchestrator.driver.request import PHANTOMS
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
_ASKED_FOR, _FITTED = "trainings", "fitted"
"""Fields with the ids of the trainings that it was asked for, and of those that are fitted for them: members, too."""
_STUDY_FILE = "study"
"""Field with the file of the study, as the latest call named it."""
_STUDY, _DEFINITIONS = "study_sha256", "definitions"
"""Fields that say of which study a run is, and what each of its trainings was when it was claimed last."""
_DEFINITIONS_FORMAT = "definitions_format"
"""Field with the version of these digests, which runs of before there was a second one lack."""
_WITHOUT_INFLUENCE = {
    _STUDY_FILE,
    _DEFINITIONS_FORMAT,
    "preset.expected_s_per_iteration",
    "preset.workers",
    _ASKED_FOR,
    _FITTED,
    f"{_LOOKS}.tests",
    f"{_LOOKS}.looks",
}
"""Fields of the record of a run that change no result but for rounding; rows say how many workers there were."""
_DATA = "data"
"""Field with the location of the downloads."""
_LATER = {_ASKED_FOR, _FITTED, _DEFINITIONS, _DEFINITIONS_FORMAT, _LOOKS}
"""Fields that a record has beside what its results follow from."""
_ANOTHER_VERSION = (
    "Another version of this project has written them and can go on with them; otherwise choose another --output"
)
_NOTHING = "nothing"
"""Stands for a field that a record lacks, as one of another version may."""


def claim_output(
    storage: Storage,
    *,
    identity: Mapping[str, object],
    trainings: Sequence[str],
    fitted: Sequence[str] = (),
    definitions: Mapping[str, str] = MappingProxyType({}),
    note: Callable[[str], None] = lambda _: None,
) -> tuple[str, ...]:
    """Mark an output location as a run's.

    Parameters
    ----------
    storage
        The location.
    identity
        What the results of the run follow from, by name, and where its study is found.
    trainings
        Ids of those that this call is asked for.
    fitted
        Ids of those that are fitted for them: the members of an ensemble.
    definitions
        What the results of each training of the study follow from, as a digest. A study that has changed is the same
        run's as long as every training is what it was that the run was asked for, or that was fitted for one.
    note
        Is told what has changed of the study.

    Returns
    -------
    tuple of str
        Ids of all trainings that this call or an earlier one was asked for.

    Raises
    ------
    ConfigError
        If a run with other results lives there.
    """
    record, found = json.loads(json.dumps({"format": RUN_FORMAT, **identity})), _claim_of(storage)
    asked_for = _all_ids(found, _ASKED_FOR, trainings)
    if found is not None:
        found = _expect_same(found, record, where=storage.location, definitions=definitions, note=note)
    after: dict[str, object] = {**(found or record), _ASKED_FOR: list(asked_for)}
    if _STUDY_FILE in record:
        after[_STUDY_FILE] = record[_STUDY_FILE]
    if definitions:
        after |= {_DEFINITIONS_FORMAT: DEFINITIONS_FORMAT, _FITTED: list(_all_ids(found, _FITTED, fitted))}
        after[_DEFINITIONS] = dict(definitions)
    if after != found:
        write_json(storage, run_paths.RUN, after)
    return asked_for


def _expect_same(
    found: dict[str, object],
    wanted: Mapping[str, object],
    *,
    where: str,
    definitions: Mapping[str, str],
    note: Callable[[str], None],
) -> dict[str, object]:
    """Return the record of a run, of the study as it is now; raises ConfigError if it is another run."""
    if found.get("format") != RUN_FORMAT:
        raise ConfigError(
            f"{where}/{run_paths.RUN}: files in layout {found.get('format')}; expected {RUN_FORMAT}. {_ANOTHER_VERSION}"
        )
    lacking, unknown = wanted.keys() - found.keys() - {_STUDY_FILE}, found.keys() - wanted.keys() - _LATER
    if lacking or unknown:
        there = [f"without {listing(sorted(lacking))}"] if lacking else []
        there += [f"with {listing(sorted(unknown))}, which this version does not know"] if unknown else []
        raise ConfigError(
            f"{where}/{run_paths.RUN}: the record of a run {' and '.join(there)}; expected {listing([*wanted])}. "
            f"{_ANOTHER_VERSION}"
        )
    if found.get(_STUDY) != wanted.get(_STUDY):
        found = _accept_extended_study(found, wanted, where=where, definitions=definitions, note=note)
    if different := _differences(found, wanted):
        raise ConfigError(
            f"{where}: holds a run with another {', '.join(different)}; expected the same one or an empty location. "
            "Choose another --output"
        )
    return found


def _accept_extended_study(
    found: dict[str, object],
    wanted: Mapping[str, object],
    *,
    where: str,
    definitions: Mapping[str, str],
    note: Callable[[str], None],
) -> dict[str, object]:
    """Return the record of a run as that of a study that has changed since, if its trainings are what they were.

    Raises ConfigError if one is not.
    """
    changes = _changes_of_study(found, definitions)
    if changes is None and definitions:
        raise ConfigError(
            f"{where}: holds a run of another study, or of this one as it was before it changed: another version of "
            "this project has written down what its trainings were, which cannot be compared with what they are now; "
            "expected the study as it was then. Restore it for one call, which writes that down anew, or choose "
            "another --output"
        )
    if changes is None:
        return found
    if changes.changed and changes.has_nothing_left and found.get(_STUDY_FILE) != wanted.get(_STUDY_FILE):
        raise ConfigError(
            f"{where}: holds a run of another study (its trainings: {listing(changes.changed)}); expected a run of "
            "this one or an empty location. Choose another --output"
        )
    if changes.changed:
        raise ConfigError(
            f"{where}: holds a run of this study as it was before {listing(changes.changed)} changed; expected the "
            "same trainings as then, and perhaps more. Restore them or choose another --output"
        )
    new = f"; new in it: {listing(changes.new)}" if changes.new else ""
    note(f"the study has changed since this run began, but no training that it was asked for{new}")
    return found | {_STUDY: wanted.get(_STUDY)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _StudyChanges:
    """What is different between a study and what a run knows of it."""

    changed: tuple[str, ...]
    """Ids of the trainings that the run was asked for, or that it fits for one, and that are otherwise now, or gone."""
    new: tuple[str, ...]
    """Ids of those that it knows nothing of."""
    has_nothing_left: bool
    """Whether no training that the run knows of is in the study any more."""


def _changes_of_study(record: Mapping[str, object], definitions: Mapping[str, str]) -> _StudyChanges | None:
    """Return what has changed since a run wrote down what its trainings are.

    None if it has not, or in another format, or `definitions` are not known.
    """
    before = record.get(_DEFINITIONS)
    is_comparable = record.get(_DEFINITIONS_FORMAT) == DEFINITIONS_FORMAT
    if not isinstance(before, dict) or not is_comparable or not before or not definitions:
        return None
    known = [name for name in dict.fromkeys([*_ids(record, _ASKED_FOR), *_ids(record, _FITTED)]) if name in before]
    return _StudyChanges(
        changed=tuple(name for name in known if definitions.get(name) != before[name]),
        new=tuple(name for name in definitions if name not in before),
        has_nothing_left=definitions.keys().isdisjoint(before),
    )


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
    found = _claim_of(storage)
    if found is None:
        raise ConfigError(f"{storage.location}: no run has been started there; expected the --output of one")
    preset, study, seed, data = (found.get(key) for key in ("preset", _STUDY, "seed", _DATA))
    name = preset.get("name") if isinstance(preset, dict) else None
    if not (isinstance(name, str) and isinstance(study, str) and isinstance(seed, int) and isinstance(data, str)):
        raise ConfigError(
            f"{storage.location}/{run_paths.RUN}: does not say preset, {_STUDY}, seed and {_DATA} as this version "
            f"expects them of a run. {_ANOTHER_VERSION}"
        )
    return RunRecord(study_sha256=study, preset=name, seed=seed, data=data)


def is_of_study(storage: Storage, sha256: str, *, definitions: Mapping[str, str]) -> bool:
    """Whether the run of a location is one of a study, as it was then or with more trainings."""
    found = _claim_of(storage) or {}
    changes = _changes_of_study(found, definitions)
    return found.get(_STUDY) == sha256 or (changes is not None and not changes.changed)


def place_of_data(storage: Storage) -> str | None:
    """Return where the downloads of a run were when it was begun, or went on last; None if it has none or is none."""
    place = (_claim_of(storage) or {}).get(_DATA)
    return place if isinstance(place, str) and place != PHANTOMS else None


def place_of_study(storage: Storage) -> Path | None:
    """Return the file of the study of a run; None if that is not known, or not seen from here."""
    place = (_claim_of(storage) or {}).get(_STUDY_FILE)
    # Whatever keeps it from being looked at, as of a run of somebody else, it is not found.
    return Path(place) if isinstance(place, str) and os.path.isfile(place) else None  # noqa: PTH113


def keep_place_of_data(storage: Storage, data: str) -> None:
    """Let a run know that its downloads, which are what it has read, are elsewhere now."""
    found = _claim_of(storage)
    if found is not None:
        write_json(storage, run_paths.RUN, {**found, _DATA: data})


def keep_looks(storage: Storage, plan: LookPlan) -> None:
    """Let a run know the plan of its looks; the first one that is given stays."""
    found = _claim_of(storage)
    if found is not None and _LOOKS not in found:
        write_json(storage, run_paths.RUN, {**found, _LOOKS: plan.model_dump()})


def looks_of(storage: Storage) -> LookPlan | None:
    """Return the plan of the looks of a run; None if it has none, or there is no run.

    Raises ConfigError if its record has something else in that place.
    """
    found = _claim_of(storage) or {}
    where = f"{storage.location}/{run_paths.RUN}: {_LOOKS}"
    return understood(found[_LOOKS], LookPlan, where=where) if found.get(_LOOKS) is not None else None


def trainings_asked_for(storage: Storage) -> tuple[str, ...]:
    """Return the ids of all trainings that the calls of a run were asked for; none where there is no run."""
    return _ids(_claim_of(storage), _ASKED_FOR)


def _all_ids(record: Mapping[str, object] | None, field: str, ids: Sequence[str]) -> tuple[str, ...]:
    """Return the ids that a record has in a field, and further ones, each once."""
    return tuple(dict.fromkeys([*_ids(record, field), *ids]))


def _ids(record: Mapping[str, object] | None, field: str) -> tuple[str, ...]:
    names = record.get(field) if record else None
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
    there, asked_for = (dict(_flat({**one, _DEFINITIONS: None})) for one in (found, wanted))
    different = [name for name in {**asked_for, **there} if there.get(name, _NOTHING) != asked_for.get(name, _NOTHING)]
    if "preset.name" in different:
        # Presets of two names differ in most of what they hold.
        different = [name for name in different if name == "preset.name" or not name.startswith("preset.")]
    if PHANTOMS not in (there.get(_DATA, PHANTOMS), asked_for.get(_DATA, PHANTOMS)):
        # Whether what lies at two places is the same is seen from what a run has read of it.
        different = [name for name in different if name != _DATA]
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
