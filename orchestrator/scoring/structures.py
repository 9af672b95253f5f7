"""What is scored of two label maps: structures of one label each, and regions of several, which may overlap."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from kernels import LabelScore, score_masks
from orchestrator.errors import ConfigError

OF_TOLERANCE = "nsd"
"""The metric that depends on the tolerance."""
LARGEST_LABEL = 2**63 - 1
"""That a table of scores can hold."""

Region = tuple[int, ...]
"""Labels of which a structure is the union."""
Tolerance = float | None
Tolerances = Mapping[int, Tolerance] | Mapping[Region, Tolerance] | Mapping[int | Region, Tolerance]
"""Label, or labels of which a structure is the union, to the tolerance of the NSD in mm; None without that metric."""


def region_name(labels: Region) -> str:
    """Return how a structure without any other name is called: `3`, or `1+2` of a region."""
    return "+".join(map(str, labels))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredStructure:
    """One structure and its values in either map: a tumour is 2 beside its organ and 1 alone."""

    name: str
    """Name of the structure."""
    reference_labels: tuple[int, ...]
    """Its values in the reference, at least 1; several of a region, which may overlap other structures."""
    prediction_labels: tuple[int, ...]
    """Its values in the prediction, at least 1."""
    tolerance_mm: float
    """Tolerance of the NSD; NaN where that is not scored."""

    def __post_init__(self) -> None:
        for field in ("reference_labels", "prediction_labels"):
            labels = getattr(self, field)
            if not labels or not all(1 <= label <= LARGEST_LABEL for label in labels):
                found = ", ".join(map(str, labels)) or "none"
                raise ConfigError(f"structure {self.name}: {field} {found}; expected 1 to {LARGEST_LABEL}")
        if not (math.isnan(self.tolerance_mm) or (math.isfinite(self.tolerance_mm) and self.tolerance_mm >= 0)):
            raise ConfigError(f"structure {self.name}: tolerance_mm {self.tolerance_mm}; expected at least 0")


def score_structures(
    reference: NDArray[np.integer],
    prediction: NDArray[np.integer],
    *,
    structures: Sequence[ScoredStructure],
    spacing_mm: Sequence[float],
    metrics: Collection[str],
) -> tuple[LabelScore, ...]:
    """Score structures of two label maps.

    Those with labels of their own are scored together, which takes one look at each map; a region, or what shares a
    label with another structure, is a mask of its own.

    Parameters
    ----------
    reference, prediction : integer arrays, shape (Z, Y, X), or (Y, X) for contours
    structures : what to score
    spacing_mm : distance of the voxels along (z, y, x), or of the pixels along (y, x)
    metrics : what to calculate, of kernels.METRICS

    Returns
    -------
    One LabelScore a structure, in their order
    """
    together, apart = _divided(structures)
    scores: dict[str, LabelScore] = {}
    if together:
        found = score_masks(
            reference,
            prediction,
            spacing_mm=spacing_mm,
            tolerances_mm={one.reference_labels[0]: _tolerance_mm(one, metrics=metrics) for one in together},
            prediction_labels={one.reference_labels[0]: one.prediction_labels[0] for one in together},
            metrics=metrics,
        )
        scores |= {structure.name: score for structure, score in zip(together, found, strict=True)}
    for structure in apart:
        (scores[structure.name],) = score_masks(
            _mask(reference, structure.reference_labels),
            _mask(prediction, structure.prediction_labels),
            spacing_mm=spacing_mm,
            tolerances_mm={1: _tolerance_mm(structure, metrics=metrics)},
            metrics=metrics,
        )
    return tuple(scores[structure.name] for structure in structures)


def _tolerance_mm(structure: ScoredStructure, *, metrics: Collection[str]) -> float:
    """Return what the kernels are given, which expect a number: any one, where nothing depends on it."""
    return structure.tolerance_mm if OF_TOLERANCE in metrics else 0.0


def _divided(structures: Sequence[ScoredStructure]) -> tuple[list[ScoredStructure], list[ScoredStructure]]:
    """Return the structures with one label of their own in either map, and the others."""
    in_reference = Counter(label for structure in structures for label in structure.reference_labels)
    in_prediction = Counter(label for structure in structures for label in structure.prediction_labels)
    together: list[ScoredStructure] = []
    apart: list[ScoredStructure] = []
    for structure in structures:
        own = [in_reference[label] for label in structure.reference_labels]
        own_predicted = [in_prediction[label] for label in structure.prediction_labels]
        (together if own == own_predicted == [1] else apart).append(structure)
    return together, apart


def _mask(array: NDArray[np.integer], labels: Sequence[int]) -> NDArray[np.bool_]:
    """Return where a map has one of some labels; numpy compares a label that its type cannot hold as well."""
    return reduce(np.logical_or, (array == label for label in labels))
