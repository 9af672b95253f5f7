"""From mask files to one score a structure."""

import math
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels import FIELDS, LabelScore, count_labels, score_masks
from orchestrator.errors import ConfigError, DataError
from orchestrator.images.geometry import AxisOrder, grid_difference, order_onto
from orchestrator.images.label_maps import LabelMap, OpenLabelMap, open_label_map, read_label_map
from orchestrator.images.stored_voxels import ReadBuffer
from orchestrator.results.records import CaseScore, ScoreStatus

LARGEST_LABEL = 2**63 - 1
"""That a table of scores can hold."""
_CAPPED = "a single slice, scored as a volume: its faces are surface too (--dimension 2 scores contours)"
OVERLAPS = ("dsc",)
"""Metrics that know no surface."""


class _Buffers(threading.local):
    """What the files of a case are read into."""

    def __init__(self) -> None:
        self.reference = ReadBuffer()
        self.prediction = ReadBuffer()


_buffers = _Buffers()


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredStructure:
    """One structure and its value in either map: a tumour is 2 beside its organ and 1 alone."""

    name: str
    """Name of the structure."""
    reference_label: int
    """Its value in the reference, at least 1."""
    prediction_label: int
    """Its value in the prediction, at least 1."""
    tolerance_mm: float
    """Tolerance of the NSD."""

    def __post_init__(self) -> None:
        for field in ("reference_label", "prediction_label"):
            if not 1 <= getattr(self, field) <= LARGEST_LABEL:
                raise ConfigError(
                    f"structure {self.name}: {field} {getattr(self, field)}; expected 1 to {LARGEST_LABEL}"
                )
        if not (math.isfinite(self.tolerance_mm) and self.tolerance_mm >= 0):
            raise ConfigError(f"structure {self.name}: tolerance_mm {self.tolerance_mm}; expected at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class NoPrediction:
    """Stands where the file of a prediction would be."""

    reason: str
    """Why there is none."""


def score_files(
    reference: Path,
    predictions: Sequence[Path | NoPrediction],
    *,
    structures: Sequence[ScoredStructure],
    metrics: Collection[str] = ("dsc", "nsd"),
    dimension: int = 3,
) -> tuple[tuple[CaseScore, ...], ...]:
    """Score all predictions of one case; the reference is read once.

    Parameters
    ----------
    reference : label map that is true
    predictions : label maps to be scored, on the reference's grid (the order of their axes may differ), or why there
        is none
    structures : what to score, with different labels in each map
    metrics : what to calculate, of kernels.METRICS
    dimension : 3 for surfaces, also of a single slice, which then has caps above and below (a note says so); 2 for
        contours, for files of one slice or of two axes

    Returns
    -------
    One CaseScore a structure, in their order, for each prediction. Where a prediction is missing, unreadable, on
    another grid or of another dimension, every row has the status MISSING, scores of NaN and the reason as its message.

    Raises
    ------
    DataError : if the reference is missing, unreadable or not a label map
    ConfigError : if no structure is given or two of them share a label
    """
    _check_structures(structures)
    truth = read_label_map(reference, buffer=_buffers.reference)
    plane = _plane(truth, reference, metrics=metrics, dimension=dimension)
    return tuple(
        _score_prediction(truth, reference, prediction, structures=structures, metrics=metrics, plane=plane)
        for prediction in predictions
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plane:
    """Which axes of (z, y, x) are scored: all of them, or those of a slice."""

    axes: tuple[int, ...]
    note: str = ""
    """What is said of it."""

    def array(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return a label map without the other axis."""
        return labels.squeeze(tuple({0, 1, 2} - set(self.axes)))


def _plane(truth: LabelMap, path: Path, *, metrics: Collection[str], dimension: int) -> _Plane:
    """Decide what is scored; raises DataError for a map of another dimension."""
    size = "{2} x {1} x {0}".format(*truth.array.shape)
    thin = [axis for axis in range(3) if truth.array.shape[axis] == 1]
    if dimension == 2:
        if not thin:
            raise DataError(f"{path}: a volume of {size} voxels; expected one slice or two axes with --dimension 2")
        return _Plane(axes=tuple(axis for axis in range(3) if axis != thin[0]))
    has_sides = thin and not set(metrics) <= set(OVERLAPS)
    return _Plane(axes=(0, 1, 2), note=_CAPPED if has_sides else "")


def _score_prediction(
    truth: LabelMap,
    reference: Path,
    prediction: Path | NoPrediction,
    *,
    structures: Sequence[ScoredStructure],
    metrics: Collection[str],
    plane: _Plane,
) -> tuple[CaseScore, ...]:
    if isinstance(prediction, NoPrediction):
        return _missing(truth, structures, message=prediction.reason)
    try:
        with open_label_map(prediction) as opened:
            order = _order_onto(truth, opened, reference=reference)
            guess = opened.read(_buffers.prediction)
    except DataError as error:
        return _missing(truth, structures, message=str(error))
    scores = score_masks(
        plane.array(truth.array),
        plane.array(order.array(guess.array)),
        spacing_mm=[truth.spacing_mm[axis] for axis in plane.axes],
        tolerances_mm={structure.reference_label: structure.tolerance_mm for structure in structures},
        prediction_labels={structure.reference_label: structure.prediction_label for structure in structures},
        metrics=metrics,
    )
    notes = [f"of the reference, {note}" for note in truth.notes] + list(guess.notes)
    if plane.note:
        notes.append(plane.note)
    if not order.changes_nothing:
        notes.append(f"axes reordered from {guess.geometry.orientation} to {truth.geometry.orientation}")
    return tuple(
        _scored(structure, score, spacing_mm=truth.spacing_mm, message="; ".join(notes))
        for structure, score in zip(structures, scores, strict=True)
    )


def _order_onto(truth: LabelMap, prediction: OpenLabelMap, *, reference: Path) -> AxisOrder:
    """Return the order that brings a prediction onto the grid of the reference; raises DataError if none does."""
    found = prediction.header.geometry
    order = order_onto(truth.geometry, found)
    difference = grid_difference(truth.geometry, order.geometry(found))
    if difference is None:
        return order
    # Named as the file has them, not as they would be in another order.
    words = (grid_difference(truth.geometry, found) or difference).words
    beside = "".join(f" ({note})" for note in prediction.header.notes)
    raise DataError(f"{prediction.path}: not on the grid of {reference}: {words}{beside}")


def _check_structures(structures: Sequence[ScoredStructure]) -> None:
    for field in ("reference_label", "prediction_label"):
        labels = [getattr(structure, field) for structure in structures]
        if not labels or len(set(labels)) < len(labels):
            names = [structure.name for structure in structures]
            raise ConfigError(f"structures {names} have {field}s {labels}; expected one label for each")


def _scored(
    structure: ScoredStructure, score: LabelScore, *, spacing_mm: tuple[float, float, float], message: str
) -> CaseScore:
    return CaseScore(
        structure=structure.name,
        status=_status(num_reference=score.num_reference_voxels, num_predicted=score.num_predicted_voxels),
        dsc=score.dsc,
        nsd=score.nsd,
        tolerance_mm=structure.tolerance_mm,
        spacing_mm=spacing_mm,
        num_reference_voxels=score.num_reference_voxels,
        num_predicted_voxels=score.num_predicted_voxels,
        message=message,
        **{field: getattr(score, field) for field in FIELDS.values() if field.endswith("_mm")},
    )


def _status(*, num_reference: int, num_predicted: int) -> ScoreStatus:
    match num_reference > 0, num_predicted > 0:
        case True, True:
            return ScoreStatus.SCORED
        case True, False:
            return ScoreStatus.PREDICTION_EMPTY
        case False, True:
            return ScoreStatus.REFERENCE_EMPTY
        case _:
            return ScoreStatus.BOTH_EMPTY


def _missing(truth: LabelMap, structures: Sequence[ScoredStructure], *, message: str) -> tuple[CaseScore, ...]:
    nums = count_labels(truth.array, [structure.reference_label for structure in structures])
    return tuple(
        CaseScore(
            structure=structure.name,
            status=ScoreStatus.MISSING,
            dsc=math.nan,
            nsd=math.nan,
            tolerance_mm=structure.tolerance_mm,
            spacing_mm=truth.spacing_mm,
            num_reference_voxels=num,
            num_predicted_voxels=0,
            message=message,
        )
        for structure, num in zip(structures, nums, strict=True)
    )
