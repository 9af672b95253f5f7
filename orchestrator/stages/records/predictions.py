"""The record that says that the predictions of a training are done: of which checkpoint, and which cases have none."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from orchestrator.errors import IntegrityError
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionRecord:
    """What has become of the cases of a training."""

    checkpoint_sha256: str
    """Digest of the final checkpoint that has predicted them."""
    failures: Mapping[str, str]
    """By id of a case, why it has no prediction."""


def write_prediction_record(storage: Storage, training_id: str, record: PredictionRecord) -> None:
    """Write the record: all predictions are there."""
    write_json(storage, run_paths.prediction_record(training_id), asdict(record))


def read_prediction_record(storage: Storage, training_id: str, *, model: str = "") -> PredictionRecord:
    """Return the record; raises IntegrityError if it is damaged or of another checkpoint than the training has left.

    `model` is the key of the record of what predicts, if that is not of a training.
    """
    key = run_paths.prediction_record(training_id)
    trained = read_json(storage, model or run_paths.training_record(training_id), {"checkpoint_sha256": str})
    record = read_json(storage, key, {"checkpoint_sha256": str, "failures": dict})
    found, expected = (one["checkpoint_sha256"] for one in (record, trained))
    if found != expected:
        raise IntegrityError(
            f"{storage.location}/{key}: predictions of {found}; expected those of checkpoint {expected}. The same "
            "command predicts again"
        )
    return PredictionRecord(checkpoint_sha256=found, failures=record["failures"])
