"""The main table of a report: each group of trainings on each evaluation set, every number with how sure it is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.benchmark.definition import FurtherMetric
from orchestrator.results.records import ONE_EMPTY
from orchestrator.statistics.intervals import MeanWithInterval, mean_with_interval

if TYPE_CHECKING:
    import pandas as pd

_KEYS = ["group", "evaluation_set", "structure"]
_SCORES = ["training_id", "patient", "status", "dsc", "nsd", "hd95_mm", "assd_mm", "volume_error", "tolerance_mm"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quartiles:
    """Median and quartiles of the finite values of some cases."""

    low: float
    median: float
    high: float
    num_finite: int
    num_infinite: int
    """Cases in which one of both masks is empty, so that there is no distance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OverviewRow:
    """A structure in an evaluation set, over all folds of a group of trainings that have scores."""

    group: str
    evaluation_set: str
    structure: str
    trainings: tuple[str, ...]
    """Ids of those that have scores."""
    num_cases: int
    num_both_empty: int
    """Neither mask holds the structure: no score, and not in the means."""
    num_missing: int
    """No usable prediction: not in the means."""
    dsc: MeanWithInterval
    nsd: MeanWithInterval
    hd95_mm: Quartiles
    assd_mm: Quartiles
    volume_error: Quartiles
    """Predicted less reference volume, as a share of the reference."""
    further: Mapping[str, Quartiles]
    """Of further metrics of the study, by column."""
    tolerance_mm: float
    """Of the NSD."""


def overview(rows: "pd.DataFrame", *, further: Sequence[FurtherMetric] = ()) -> tuple[OverviewRow, ...]:
    """Return a row for each group, evaluation set and structure of `scores_frame`, in its order."""
    # What was scored before a study asked for a metric does not have its column.
    rows = rows.assign(**{one.field: math.nan for one in further if one.field not in rows})
    # Each part copies all columns that there are.
    parts = rows[[*_KEYS, *_SCORES, *(one.field for one in further)]].groupby(_KEYS, sort=False)
    return tuple(_row(*map(str, key), part=part, columns=[one.field for one in further]) for key, part in parts)


def _row(
    group: str, evaluation_set: str, structure: str, *, part: "pd.DataFrame", columns: Sequence[str]
) -> OverviewRow:
    patients, status = part["patient"].to_numpy(), part["status"].to_numpy()
    one_empty = np.isin(status, ONE_EMPTY)

    def mean(metric: str) -> MeanWithInterval:
        values = part[metric].to_numpy(float)
        there = ~np.isnan(values)
        return mean_with_interval(values[there].tolist(), patients[there].tolist(), limits=(0.0, 1.0))

    return OverviewRow(
        group=group,
        evaluation_set=evaluation_set,
        structure=structure,
        trainings=tuple(sorted(set(part["training_id"]))),
        num_cases=len(part),
        num_both_empty=int((status == "both_empty").sum()),
        num_missing=int((status == "missing").sum()),
        dsc=mean("dsc"),
        nsd=mean("nsd"),
        hd95_mm=quartiles_of(part["hd95_mm"].to_numpy(float), one_empty=one_empty),
        assd_mm=quartiles_of(part["assd_mm"].to_numpy(float), one_empty=one_empty),
        volume_error=quartiles_of(part["volume_error"].to_numpy(float), one_empty=one_empty),
        further={name: quartiles_of(part[name].to_numpy(float), one_empty=one_empty) for name in columns},
        tolerance_mm=float(part["tolerance_mm"].iloc[0]),
    )


def quartiles_of(values: NDArray[np.float64], *, one_empty: NDArray[np.bool_]) -> Quartiles:
    """Return median and quartiles of the values that are numbers.

    `one_empty` says of each case whether one of both masks is empty.
    """
    finite = values[np.isfinite(values)]
    low, median, high = map(float, np.quantile(finite, [0.25, 0.5, 0.75])) if finite.size else (math.nan,) * 3
    return Quartiles(
        low=low,
        median=median,
        high=high,
        num_finite=len(finite),
        num_infinite=int((one_empty & ~np.isfinite(values)).sum()),
    )
