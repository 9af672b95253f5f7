"""From mask files to one score a structure."""

import math
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels import OWN_FIELDS, LabelScore, count_labels
from orchestrator.errors import ConfigError, DataError
from orchestrator.images.geometry import AxisOrder, Geometry, grid_difference, order_onto
from orchestrator.images.label_maps import LabelMap, OpenVolume, open_volume, read_label_map
from orchestrator.images.problem import reading
from orchestrator.images.stored_voxels import ReadBuffer
from orchestrator.results.records import CaseScore, ScoreStatus
from orchestrator.scoring.structures import ScoredStructure, score_structures

_CAPPED = "a single slice, scored as a volume: its faces are surface too (--dimension 2 scores contours)"
_MOST_NAMED = 5
"""Values of a label map that a note names."""
WITHOUT_SURFACE = ("dsc",)
"""Metrics that know no surface."""


class _Buffers(threading.local):
    """What the files of a case are read into."""

    def __init__(self) -> None:
        self.reference = ReadBuffer()
        self.prediction = ReadBuffer()


_buffers = _Buffers()


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
    dimension: int | None = 3,
    ignored_label: int | None = None,
) -> tuple[tuple[CaseScore, ...], ...]:
    """Score all predictions of one case; the reference is read once.

    Parameters
    ----------
    reference : label map that is true
    predictions : label maps to be scored, on the reference's grid (the order of their axes may differ), or why there
        is none
    structures : what to score; those of several labels are the union of these, and structures may overlap
    metrics : what to calculate, of kernels.METRICS
    dimension : 3 for surfaces, also of a single slice, which then has caps above and below (a note says so); 2 for
        contours, for files of one slice or of two axes; None for what the reference is
    ignored_label : value in the reference of voxels that nobody has annotated: no structure has a voxel there, neither
        in the reference nor in the prediction

    Returns
    -------
    One CaseScore a structure, in their order, for each prediction. Where a prediction is missing, unreadable, on
    another grid or of another dimension, every row has the status MISSING, scores of NaN and the reason as its message.

    Raises
    ------
    DataError : if the reference is missing, unreadable or not a label map
    OSError, MemoryError : if a disk fails or memory is short, for whichever file: it says nothing about the prediction
    ConfigError : if no structure is given, two of them have one name, or one has the ignored label
    """
    names = [structure.name for structure in structures]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"structures {names}; expected one or more with a name of its own each")
    if any(ignored_label in structure.reference_labels for structure in structures):
        raise ConfigError(f"label {ignored_label} is ignored and scored; expected it to be one of the two")
    with reading(reference):
        truth = read_label_map(reference, buffer=_buffers.reference)
    known = _Truth(
        labels=truth,
        path=reference,
        plane=_plane(truth, reference, metrics=metrics, dimension=dimension),
        ignored=None if ignored_label is None else truth.array == ignored_label,
    )
    return tuple(
        _score_prediction(known, prediction, structures=structures, metrics=metrics) for prediction in predictions
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plane:
    """Which axes of (z, y, x) are scored: all of them, or those of a slice."""

    axes: tuple[int, ...]
    note: str = ""
    """What is said of it."""

    @property
    def across(self) -> int | None:
        """The other axis, across a slice."""
        return next(iter({0, 1, 2} - set(self.axes)), None)

    def array(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return a label map without the other axis."""
        return labels if self.across is None else labels.squeeze(self.across)


def _plane(truth: LabelMap, path: Path, *, metrics: Collection[str], dimension: int | None) -> _Plane:
    """Decide what is scored; raises DataError for a map of another dimension."""
    size = "{2} x {1} x {0}".format(*truth.array.shape)
    thin = [axis for axis in range(3) if truth.array.shape[axis] == 1]
    if dimension == 2 or (dimension is None and thin):
        if not thin:
            raise DataError(f"{path}: a volume of {size} voxels; expected one slice or two axes with --dimension 2")
        return _Plane(axes=tuple(axis for axis in range(3) if axis != thin[0]))
    has_sides = thin and not set(metrics) <= set(WITHOUT_SURFACE)
    return _Plane(axes=(0, 1, 2), note=_CAPPED if has_sides else "")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Truth:
    """What predictions of a case are compared with."""

    labels: LabelMap
    path: Path
    plane: _Plane
    """What of it is scored."""
    ignored: NDArray[np.bool_] | None
    """Voxels that count nowhere; None for none."""


def _score_prediction(
    known: _Truth, prediction: Path | NoPrediction, *, structures: Sequence[ScoredStructure], metrics: Collection[str]
) -> tuple[CaseScore, ...]:
    truth, plane = known.labels, known.plane
    if isinstance(prediction, NoPrediction):
        return _missing(truth, structures, message=prediction.reason)
    try:
        with reading(prediction), open_volume(prediction) as opened:
            order = _order_onto(known, opened)
            guess = opened.labels(_buffers.prediction)
    except DataError as error:
        return _missing(truth, structures, message=str(error))
    predicted = order.array(guess.array)
    if known.ignored is not None:
        predicted = np.where(known.ignored, predicted.dtype.type(0), predicted)
    scores = score_structures(
        plane.array(truth.array),
        plane.array(predicted),
        structures=structures,
        spacing_mm=[truth.spacing_mm[axis] for axis in plane.axes],
        metrics=metrics,
    )
    notes = [f"of the reference, {note}" for note in truth.notes] + list(guess.notes)
    if plane.note:
        notes.append(plane.note)
    if not any(score.num_predicted_voxels for score in scores):
        notes += _other_values(predicted)
    if not order.changes_nothing:
        notes.append(f"axes reordered from {guess.geometry.orientation} to {truth.geometry.orientation}")
    return tuple(
        _scored(structure, score, spacing_mm=truth.spacing_mm, message="; ".join(notes))
        for structure, score in zip(structures, scores, strict=True)
    )


def _other_values(labels: NDArray[np.integer]) -> Iterator[str]:
    """Yield what is said of a label map in which nothing is that is scored."""
    values = np.unique(labels[labels != 0])
    if len(values):
        more = " and others" if len(values) > _MOST_NAMED else ""
        yield f"holds {', '.join(map(str, values[:_MOST_NAMED]))}{more} and no label that is scored"


def _order_onto(known: _Truth, prediction: OpenVolume) -> AxisOrder:
    """Return the order that brings a prediction onto the grid of the reference; raises DataError if none does."""
    truth, found = known.labels, prediction.header.geometry
    order = order_onto(truth.geometry, found)
    if known.plane.across is not None and 2 in {truth.num_axes, prediction.header.num_axes}:
        # A file of two axes does not know how thick its plane is, and nothing that is scored depends on it.
        found = _as_thick(found, truth.geometry, axis=2 - known.plane.across, order=order)
    difference = grid_difference(truth.geometry, order.geometry(found))
    if difference is None:
        return order
    # Named as the file has them, not as they would be in another order.
    words = (grid_difference(truth.geometry, found) or difference).words
    beside = "".join(f" ({note})" for note in prediction.header.notes)
    raise DataError(f"{prediction.path}: not on the grid of {known.path}: {words}{beside}")


def _as_thick(found: Geometry, truth: Geometry, *, axis: int, order: AxisOrder) -> Geometry:
    """Return a grid with the spacing of another along an axis of that one, of (x, y, z)."""
    spacing_mm = list(found.spacing_mm)
    spacing_mm[order.axes[axis]] = truth.spacing_mm[axis]
    return replace(found, spacing_mm=tuple(spacing_mm))


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
        further=score.further,
        **{field: getattr(score, field) for field in OWN_FIELDS.values() if field.endswith("_mm")},
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
    labels = sorted({label for structure in structures for label in structure.reference_labels})
    num_by_label = dict(zip(labels, count_labels(truth.array, labels), strict=True))
    nums = [sum(num_by_label[label] for label in set(structure.reference_labels)) for structure in structures]
    return tuple(
        replace(missing_score(structure, message=message), spacing_mm=truth.spacing_mm, num_reference_voxels=int(num))
        for structure, num in zip(structures, nums, strict=True)
    )


def missing_score(structure: ScoredStructure, *, message: str) -> CaseScore:
    """Return the score of a structure that cannot be scored, of a reference of which nothing is known."""
    return CaseScore(
        structure=structure.name,
        status=ScoreStatus.MISSING,
        dsc=math.nan,
        nsd=math.nan,
        tolerance_mm=structure.tolerance_mm,
        spacing_mm=(math.nan, math.nan, math.nan),
        num_reference_voxels=0,
        num_predicted_voxels=0,
        message=message,
    )
