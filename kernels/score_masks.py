"""Dice and normalised surface Dice of every label of two label maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kernels.bitmask import crop_pair, pack_pair
from kernels.overlap import dice_of_counts
from kernels.surface_dice import overlap_of_pair
from kernels.validation import check_pair, check_spacing, check_tolerance

# Left lung, right lung, infection.
_TOLERANCES_MM: Mapping[int, float] = MappingProxyType({1: 1.0, 2: 1.0, 3: 3.0})


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScore:
    """Scores of one label."""

    label: int
    """Its value in both maps."""
    dsc: float
    """Dice similarity coefficient, 0 to 1; NaN if both maps lack the label, 0 if one does."""
    nsd: float
    """Normalised surface Dice at `tolerance_mm`, 0 to 1; NaN if both maps lack the label, 0 if one does."""
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
) -> tuple[LabelScore, ...]:
    """Score labels of two label maps.

    Parameters
    ----------
    reference, prediction : bool or integer arrays, shape (Z, Y, X)
    spacing_mm : distance of the voxels along (z, y, x)
    tolerances_mm : tolerance of the NSD of each label to be scored; labels it does not name are background

    Returns
    -------
    One LabelScore a label, in the order of `tolerances_mm`

    Raises
    ------
    ValueError : for shapes that differ, fewer or more than three axes, floats, a spacing that is not three positive
        finite numbers, a tolerance that is not a finite number of at least 0, and labels that are not 1 to 255 integers
        other than 0
    """
    check_pair(reference, prediction)
    spacing = check_spacing(spacing_mm)
    tolerances = {label: check_tolerance(tolerance) for label, tolerance in tolerances_mm.items()}
    if not 1 <= len(tolerances) <= 255 or any(int(label) != label or label == 0 for label in tolerances):
        raise ValueError(f"tolerances_mm has the labels {list(tolerances)}; expected 1 to 255 integers other than 0")
    packed = pack_pair(reference, prediction, tuple(tolerances))
    scores = []
    for number, (label, tolerance) in enumerate(tolerances.items()):
        pair = crop_pair(*packed, number)
        num_reference, num_predicted, num_both = pair.count_voxels() if pair else (0, 0, 0)
        scores.append(
            LabelScore(
                label=int(label),
                dsc=dice_of_counts(num_reference=num_reference, num_predicted=num_predicted, num_both=num_both),
                nsd=overlap_of_pair(pair, spacing_mm=spacing, tolerance_mm=tolerance).surface_dice,
                tolerance_mm=tolerance,
                num_reference_voxels=num_reference,
                num_predicted_voxels=num_predicted,
            )
        )
    return tuple(scores)
