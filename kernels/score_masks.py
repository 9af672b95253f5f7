"""Overlap and distances of every label of two label maps."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kernels.bitmask import MaskPair, crop_pair, pack_pair
from kernels.overlap import dice_of_counts
from kernels.surface_dice import overlap_of_pair
from kernels.surface_distances import distances_of_pair
from kernels.validation import check_pair, check_spacing, check_tolerances

METRICS = ("dsc", "nsd", "hd95", "assd")
"""Dice, normalised surface Dice, 95 % Hausdorff distance and average symmetric surface distance."""

# Each takes an eighth of the bytes of a map of 8 bits.
_LABELS_AT_A_TIME = 16

# Left lung, right lung, infection.
_TOLERANCES_MM: Mapping[int, float] = MappingProxyType({1: 1.0, 2: 1.0, 3: 3.0})


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScore:
    """Scores of one label; NaN for a metric that was not asked for, and for each one if both maps lack the label."""

    label: int
    """Its value in the reference."""
    dsc: float
    """Dice similarity coefficient, 0 to 1; 0 if one map lacks the label."""
    nsd: float
    """Normalised surface Dice at `tolerance_mm`, 0 to 1; 0 if one map lacks the label."""
    hd95_mm: float
    """95th percentile of the surface distances, the larger of both directions; infinite if one map lacks the label."""
    assd_mm: float
    """Average symmetric surface distance; infinite if one map lacks the label."""
    tolerance_mm: float
    """Tolerance of the NSD."""
    num_reference_voxels: int
    """Voxels of the label in the reference."""
    num_predicted_voxels: int
    """Voxels of the label in the prediction."""


def score_masks(
    reference: NDArray[np.generic],
    prediction: NDArray[np.generic],
    *,
    spacing_mm: Sequence[float],
    tolerances_mm: Mapping[int, float] = _TOLERANCES_MM,
    metrics: Collection[str] = ("dsc", "nsd"),
    prediction_labels: Mapping[int, int] = MappingProxyType({}),
) -> tuple[LabelScore, ...]:
    """Score labels of two label maps.

    Parameters
    ----------
    reference, prediction : bool or integer arrays, shape (Z, Y, X)
    spacing_mm : distance of the voxels along (z, y, x)
    tolerances_mm : tolerance of the NSD of each label to be scored; labels it does not name are background
    metrics : what to calculate, of METRICS
    prediction_labels : value in the prediction of those labels whose value is another one there

    Returns
    -------
    One LabelScore a label, in the order of `tolerances_mm`

    Raises
    ------
    ValueError : for shapes that differ, fewer or more than three axes, floats, a spacing that is not three positive
        finite numbers, a tolerance that is not a finite number of at least 0, no label or more than 255, labels that
        are not integers other than 0 or that share a value in the prediction, and unknown metrics
    """
    check_pair(reference, prediction)
    spacing = check_spacing(spacing_mm)
    tolerances = check_tolerances(tolerances_mm)
    predicted = [prediction_labels.get(label, label) for label in tolerances]
    if any(int(label) != label or label == 0 for label in predicted) or len(set(predicted)) < len(predicted):
        raise ValueError(f"the labels in the prediction are {predicted}; expected different integers other than 0")
    if isinstance(metrics, str):
        raise ValueError(f"metrics is {metrics!r}; expected a collection of names, such as ('dsc', 'nsd')")  # noqa: TRY004
    if not set(metrics) <= set(METRICS):
        raise ValueError(f"metrics are {list(metrics)}; expected some of {list(METRICS)}")
    scores: list[LabelScore] = []
    items = list(tolerances.items())
    for first in range(0, len(items), _LABELS_AT_A_TIME):
        part = items[first : first + _LABELS_AT_A_TIME]
        packed = pack_pair(reference, prediction, [label for label, _ in part], predicted[first : first + len(part)])
        scores += [
            _score(crop_pair(*packed, number), int(label), spacing_mm=spacing, tolerance_mm=tolerance, metrics=metrics)
            for number, (label, tolerance) in enumerate(part)
        ]
    return tuple(scores)


def _score(
    pair: MaskPair | None,
    label: int,
    *,
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float,
    metrics: Collection[str],
) -> LabelScore:
    num_reference, num_predicted, num_both = pair.count_voxels() if pair else (0, 0, 0)
    dsc = nsd = hd95 = assd = math.nan
    if "dsc" in metrics:
        dsc = dice_of_counts(num_reference=num_reference, num_predicted=num_predicted, num_both=num_both)
    if "nsd" in metrics:
        nsd = overlap_of_pair(pair, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm).surface_dice
    if pair is not None and ("hd95" in metrics or "assd" in metrics):
        distances = distances_of_pair(pair, spacing_mm=spacing_mm)
        hd95 = distances.hausdorff_distance(percentile=95) if "hd95" in metrics else math.nan
        assd = distances.average_surface_distance().symmetric_mm if "assd" in metrics else math.nan
    return LabelScore(
        label=label,
        dsc=dsc,
        nsd=nsd,
        hd95_mm=hd95,
        assd_mm=assd,
        tolerance_mm=tolerance_mm,
        num_reference_voxels=num_reference,
        num_predicted_voxels=num_predicted,
    )
