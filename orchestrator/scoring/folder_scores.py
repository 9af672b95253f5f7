"""Folders of label maps to compare, and the scores of all of their cases as a table."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

from kernels import METRICS
from orchestrator.configuration import is_folder
from orchestrator.errors import ConfigError
from orchestrator.scoring.folders import FolderComparison, FolderScore, columns_of
from orchestrator.scoring.structures import OF_TOLERANCE, Region, ScoredStructure, Tolerances, region_name
from orchestrator.storage.filesystem import open_storage

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def compare_folders(
    reference: str | Path,
    predictions: Sequence[str | Path],
    *,
    tolerances_mm: Tolerances,
    metrics: Collection[str],
    dimension: int,
    ignored_label: int | None = None,
) -> FolderComparison:
    """Return what is to be scored; raises ConfigError for anything that does not fit."""
    names = _metrics(metrics)
    if dimension not in {2, 3}:
        raise ConfigError(f"--dimension {dimension!r}: expected 2 or 3")
    locations = list(dict.fromkeys(map(str, predictions if isinstance(predictions, Iterable) else ())))
    if not locations:
        raise ConfigError("--prediction: found no folder; expected at least one")
    for location in (str(reference), *locations):
        if "://" not in location and not is_folder(location):
            raise ConfigError(f"{location}: no such folder; expected one with label maps")
    regions = _regions(tolerances_mm)
    if not regions:
        raise ConfigError("--label: found no label; expected at least one")
    without = [region_name(labels) for labels, tolerance_mm in regions if math.isnan(tolerance_mm)]
    if without and OF_TOLERANCE in names:
        raise ConfigError(
            f"--label {without[0]}: found no tolerance of its NSD; expected one in mm, such as {without[0]}=1.0, or "
            f"--metrics without {OF_TOLERANCE}"
        )
    return FolderComparison(
        reference=open_storage(str(reference)),
        predictions=tuple(map(open_storage, locations)),
        structures=tuple(
            ScoredStructure(
                name=region_name(labels), reference_labels=labels, prediction_labels=labels, tolerance_mm=tolerance_mm
            )
            for labels, tolerance_mm in regions
        ),
        metrics=names,
        dimension=dimension,
        ignored_label=None if ignored_label is None else _ignored(ignored_label),
    )


def _metrics(metrics: Collection[str]) -> tuple[str, ...]:
    """Return what is to be calculated, each once; raises ConfigError for what is no metric."""
    names = [metrics] if isinstance(metrics, str) else metrics
    if not isinstance(names, Collection) or not names or not all(name in METRICS for name in names):
        found = ",".join(map(str, names)) if isinstance(names, Collection) else repr(names)
        raise ConfigError(f"--metrics {found}: expected some of {','.join(METRICS)}")
    return tuple(dict.fromkeys(names))


def _ignored(label: SupportsIndex) -> int:
    """Return the label that is ignored; raises ConfigError for what no label map holds, and so nothing is ignored."""
    try:
        number = index(label)
    except TypeError:
        number = -1
    if not 0 <= number < 1 << 64:
        raise ConfigError(f"--ignored-label {label!r}: expected a whole number from 0, or None for none")
    return number


def _regions(tolerances_mm: Tolerances) -> list[tuple[Region, float]]:
    """Return the labels of each structure with its tolerance; raises ConfigError for what is neither."""
    if not isinstance(tolerances_mm, Mapping):
        raise ConfigError(f"tolerances_mm {tolerances_mm!r}: expected a dict of a tolerance for each label")
    return [(_region(key), _tolerance(value, of=key)) for key, value in tolerances_mm.items()]


def _region(key: SupportsIndex | Collection[SupportsIndex]) -> Region:
    """Return a label, or several, as whole numbers: of Python, numpy or any other kind."""
    try:
        return tuple(map(index, key if isinstance(key, Collection) else (key,)))
    except TypeError as error:
        raise ConfigError(
            f"tolerances_mm: label {key!r}; expected a whole number, or several in a tuple for what they are together"
        ) from error


def _tolerance(value: object, *, of: object) -> float:
    """Return a tolerance, NaN for none."""
    if value is None:
        return math.nan
    try:
        if isinstance(value, Real):
            return float(value)
    except OverflowError:
        pass
    raise ConfigError(f"tolerances_mm: {value!r:.80} for label {of!r}; expected a number of mm")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderScores:
    """All scores of folders against a folder of references."""

    rows: tuple[FolderScore, ...]
    """One a folder, case and label, folder by folder."""
    metrics: tuple[str, ...]
    """What was calculated, of kernels.METRICS."""
    without_reference: tuple[str, ...]
    """Locations of label maps that no reference has the name of: they are not scored."""

    @classmethod
    def of(cls, comparison: FolderComparison, rows: Sequence[FolderScore]) -> "FolderScores":
        """Return the scores of a comparison, its rows in the order of its folders."""
        return cls(
            rows=tuple(row for folder in comparison.predictions for row in rows if row.prediction == folder.location),
            metrics=comparison.metrics,
            without_reference=tuple(comparison.without_reference({row.case for row in rows})),
        )

    def to_arrow(self) -> "pa.Table":
        """Return one row for each folder, case and label; empty where there is no number.

        A label is a number, but a text such as `1+2` where regions are among what is scored.
        """
        import pyarrow as pa

        has_regions = not all(row.score.structure.isdecimal() for row in self.rows)
        records = [self._record(row, has_regions=has_regions) for row in self.rows]
        types = {
            "label": pa.string() if has_regions else pa.int64(),
            "num_reference_voxels": pa.int64(),
            "num_predicted_voxels": pa.int64(),
        }
        texts = dict.fromkeys(("prediction", "case", "status", "message"), pa.string())
        schema = pa.schema([(name, {**types, **texts}.get(name, pa.float64())) for name in records[0]])
        for record in records:
            # The bytes of a file name that is no UTF-8.
            record |= {
                name: str(record[name]).encode(errors="surrogateescape").decode(errors="replace") for name in texts
            }
        return pa.Table.from_pylist(records, schema=schema)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the rows of `to_arrow` as a data frame."""
        return self.to_arrow().to_pandas()

    def _record(self, row: FolderScore, *, has_regions: bool) -> dict[str, object]:
        columns = columns_of(row.score, self.metrics)
        return {
            "prediction": row.prediction,
            "case": row.case,
            "label": row.score.structure if has_regions else int(row.score.structure),
            **{
                name: None if isinstance(value, float) and math.isnan(value) else value
                for name, value in columns.items()
            },
        }
