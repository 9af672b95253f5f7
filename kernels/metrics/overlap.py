"""Dice similarity coefficient of volumes."""

import math

import numpy as np
from numpy.typing import NDArray

from kernels.masks.validation import check_pair, pack_masks


def dice(reference: NDArray[np.generic], prediction: NDArray[np.generic]) -> float:
    """Return 2 |reference and prediction| / (|reference| + |prediction|), 0 to 1.

    Parameters
    ----------
    reference, prediction : bool or integer arrays of 0 and 1, shape (Z, Y, X) or (Y, X)

    Returns
    -------
    float, NaN if both masks are empty and 0 if one is

    Raises
    ------
    ValueError : for shapes that differ, axes other than two or three, floats and label maps
    """
    check_pair(reference, prediction)
    pair = pack_masks(reference, prediction)
    if pair is None:
        return math.nan
    num_reference, num_predicted, num_both = pair.count_voxels()
    return dice_of_counts(num_reference=num_reference, num_predicted=num_predicted, num_both=num_both)


def dice_of_counts(*, num_reference: int, num_predicted: int, num_both: int) -> float:
    """Return the Dice coefficient from numbers of voxels; NaN if there are none."""
    total = num_reference + num_predicted
    return 2 * num_both / total if total else math.nan
