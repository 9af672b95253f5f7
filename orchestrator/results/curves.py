"""Scores of whole validation cases while a training runs: a CSV file, read by people and by the report."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from orchestrator.errors import IntegrityError
from orchestrator.storage.interface import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveRow:
    """One structure of one case after an epoch."""

    epoch: int
    """Number of epochs that were done."""
    case: str
    structure: str
    dsc: float
    """NaN where neither the case nor the prediction has the structure."""
    nsd: float


def write_curve(storage: Storage, key: str, rows: Sequence[CurveRow]) -> None:
    """Write rows to a CSV file, after those of earlier epochs that are there; whole or not at all."""
    first = min(row.epoch for row in rows)
    kept = [row for row in read_curve(storage, key) if row.epoch < first]
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CurveRow)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in (*kept, *rows))
    storage.write_bytes(key, text.getvalue().encode())


def read_curve(storage: Storage, key: str) -> list[CurveRow]:
    """Return the rows of a file of `write_curve`; none if there is no such file. Raises IntegrityError for another."""
    if not storage.exists(key):
        return []
    try:
        return [
            CurveRow(
                epoch=int(row["epoch"]),
                case=row["case"],
                structure=row["structure"],
                dsc=float(row["dsc"]),
                nsd=float(row["nsd"]),
            )
            for row in csv.DictReader(io.StringIO(storage.read_bytes(key).decode()))
        ]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise IntegrityError(
            f"{storage.location}/{key}: not the scores of validation cases by epoch ({error!r}). Remove it"
        ) from error
