"""The records of an ensemble: what its members were chosen by, and of which models it is."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from orchestrator.benchmark.definition import Training
from orchestrator.errors import IntegrityError
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.storage.json_values import JsonMapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What an ensemble could be."""

    groups: tuple[str, ...]
    """Of its members."""
    score: float | None
    """Mean over structures of the means over all validation cases; None if no case has a structure."""

    def record(self, *, by: str) -> JsonMapping:
        """Return it as a file has it, the score by its name."""
        return {"groups": list(self.groups), by: self.score}


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleRecord:
    """What an ensemble is: its record stands for that of a training."""

    members: tuple[str, ...]
    """Trainings whose probabilities are averaged, in this order."""
    declaration_sha256: str
    """Digest of what the study says of it."""
    checkpoint_sha256: str
    """Digest over the final checkpoints of the members."""
    plan_sha256: str
    """Digest over their plans."""
    elapsed_s: float
    """Time that training them took."""
    environments: tuple[Mapping[str, str], ...]
    """What they were trained with."""
    candidates: tuple[JsonMapping, ...] = ()
    """What the members were chosen of, with scores."""
    not_predicted: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of each group that could be chosen, the cases that it cannot predict; see `Comparison`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What an ensemble could be, and by what that was compared."""

    candidates: tuple[Candidate, ...]
    not_predicted: Mapping[str, Sequence[str]]
    """By group, ids of validation cases that it cannot predict: counted as 0, but left out where no group can."""


def model_record(training: Training) -> str:
    """Return the key of the record that says what a training, or an ensemble, predicts with."""
    return run_paths.ensemble_record(training.id) if training.members else run_paths.training_record(training.id)


def declaration_sha256(ensemble: Training) -> str:
    """Return the digest of what the study says of an ensemble."""
    said: list[object] = [[member.id for member in ensemble.members], ensemble.choose]
    # Records of before there was a choice of it say nothing of the DSC.
    said += [ensemble.chosen_by] if ensemble.chosen_by == "nsd" else []
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def is_declared(storage: Storage, ensemble: Training, *, key: str) -> bool:
    """Whether a record of an ensemble is of what the study says of it now."""
    return _said(storage, key).get("declaration_sha256") == declaration_sha256(ensemble)


def is_of_models(storage: Storage, *, key: str, among: Collection[str]) -> bool:
    """Whether a record of an ensemble is of the models that there are now, of trainings among those of these ids."""
    record = _said(storage, key)
    members = record.get("members")
    if not isinstance(members, list) or not all(isinstance(one, str) and one in among for one in members):
        return False
    if not all(storage.exists(run_paths.training_record(member)) for member in members):
        return False
    return record.get("checkpoint_sha256") == checkpoints_sha256(storage, members)


def checkpoints_sha256(storage: Storage, members: Sequence[str]) -> str:
    """Return the digest over the final checkpoints of trainings, in their order."""
    records = [read_json(storage, run_paths.training_record(one), {"checkpoint_sha256": str}) for one in members]
    return sha256_of([record["checkpoint_sha256"] for record in records])


def sha256_of(digests: Sequence[str]) -> str:
    """Return the digest of digests."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def write_ensemble_record(storage: Storage, ensemble_id: str, record: EnsembleRecord) -> None:
    """Write the record: what the ensemble is, is settled."""
    write_json(storage, run_paths.ensemble_record(ensemble_id), asdict(record))


def read_members(storage: Storage, ensemble: Training) -> tuple[tuple[Training, ...], str]:
    """Return the members that an ensemble has, and the digest of their checkpoints.

    Raises IntegrityError if the record names what is no member.
    """
    key = run_paths.ensemble_record(ensemble.id)
    record = read_json(storage, key, {"members": list, "checkpoint_sha256": str})
    known = {member.id: member for member in ensemble.members}
    if not record["members"] or not all(name in known for name in record["members"]):
        raise IntegrityError(
            f"{storage.location}/{key}: members {record['members']}; expected some of {', '.join(known)}. Delete it: "
            "the same command makes it again"
        )
    return tuple(known[name] for name in record["members"]), record["checkpoint_sha256"]


def read_comparison(storage: Storage, key: str, *, groups: Collection[str], by: str) -> Comparison:
    """Return what an ensemble could be, with scores; raises IntegrityError if that is not of these groups."""
    found, known = [], ", ".join(groups)
    record = read_json(storage, key, {"candidates": list})
    for one in record["candidates"]:
        said = one if isinstance(one, dict) else {}
        names, score = said.get("groups"), said.get(by)
        if not (isinstance(names, list) and names and all(name in groups for name in names) and is_score(score)):
            raise IntegrityError(
                f"{storage.location}/{key}: {one!r:.80}; expected groups of {known} with their {by}. "
                "Delete it: the same command makes it again"
            )
        found.append(Candidate(groups=tuple(names), score=score))
    # Records of before cases could be left out have none.
    lists = record.get("not_predicted", {})
    if not (isinstance(lists, dict) and all(name in groups and isinstance(one, list) for name, one in lists.items())):
        raise IntegrityError(
            f"{storage.location}/{key}: not_predicted is {lists!r:.80}; expected lists of cases by {known}. Delete it: "
            "the same command makes it again"
        )
    return Comparison(candidates=tuple(found), not_predicted=lists)


def is_score(value: object) -> bool:
    """Whether a value of a record is a score, or None."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1)


def _said(storage: Storage, key: str) -> Mapping[str, object]:
    try:
        return read_json(storage, key)
    except IntegrityError:
        return {}
