"""Dice similarity coefficient of volumes."""

import math

import numpy as np
from numpy.typing import NDArray

from kernels.validation import as_mask, check_pair


def dice(reference: NDArray[np.generic], prediction: NDArray[np.generic]) -> float:
    """Return 2 |reference and prediction| / (|reference| + |prediction|), 0 to 1.

    Parameters
    ----------
    reference, prediction : bool or integer arrays of 0 and 1, shape (Z, Y, X)

    Returns
    -------
    float, NaN if both masks are empty and 0 if one is

    Raises
    ------
    ValueError : for shapes that differ, fewer or more than three axes, floats and label maps
    """
    check_pair(reference, prediction)
    a, b = as_mask(reference, name="reference"), as_mask(prediction, name="prediction")
    return dice_of_counts(
        num_reference=int(np.count_nonzero(a)),
        num_predicted=int(np.count_nonzero(b)),
        num_both=int(np.count_nonzero(a & b)),
    )


def dice_of_counts(*, num_reference: int, num_predicted: int, num_both: int) -> float:
    """Return the Dice coefficient from numbers of voxels; NaN if there are none."""
    total = num_reference + num_predicted
    return 2 * num_both / total if total else math.nan
