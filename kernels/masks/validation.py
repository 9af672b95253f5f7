"""Checks of what callers pass in; everything wrong is a ValueError that shows what was found."""

import math
from collections.abc import Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from kernels.masks.bitmask import MaskPair, crop_pair
from kernels.masks.label_rows import find_labels
from kernels.masks.label_runs import is_label

_SHORTEST_MM, _LONGEST_MM = 1e-100, 1e100
"""Of a spacing: beyond, squares of distances would be 0 or infinite."""


def check_pair(reference: NDArray[np.generic], prediction: NDArray[np.generic]) -> None:
    """Raise ValueError unless both are integer or bool arrays of one shape with two or three axes."""
    for name, array in (("reference", reference), ("prediction", prediction)):
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is a {type(array).__name__}; expected a numpy array")  # noqa: TRY004
        if isinstance(array, np.ma.MaskedArray):
            raise ValueError(f"{name} is a masked array; expected one without, so fill it first")  # noqa: TRY004
        if array.ndim not in {2, 3}:
            raise ValueError(f"{name} has shape {array.shape}; expected three axes (z, y, x), or two (y, x)")
        if array.dtype.kind not in "biu":
            raise ValueError(f"{name} has dtype {array.dtype}; expected bool or integers, so convert it first")
    if reference.shape != prediction.shape:
        raise ValueError(f"reference has shape {reference.shape}, prediction {prediction.shape}; expected equal shapes")


def pack_masks(reference: NDArray[np.generic], prediction: NDArray[np.generic]) -> MaskPair | None:
    """Pack two masks of 0 and 1, cropped to what both hold; None if both are empty.

    Raises ValueError if one holds anything but 0 and 1 (a label map).
    """
    found = [find_labels(array if array.ndim == 3 else array[None], (1,)) for array in (reference, prediction)]
    for name, array, runs in zip(("reference", "prediction"), (reference, prediction), found, strict=True):
        if runs.has_others:
            labels = np.unique(array)
            raise ValueError(
                f"{name} holds the labels {labels[:10].tolist()}{' ...' if len(labels) > 10 else ''}; "
                "expected a mask of 0 and 1, so pass `labels == label`"
            )
    return crop_pair(found[0], found[1], 0, is_flat=reference.ndim == 2)


def check_spacing(spacing_mm: Sequence[float], *, num_axes: int) -> tuple[float, ...]:
    """Return the spacing as floats; raise ValueError unless it is one positive finite number for each axis."""
    numbers = "three positive finite numbers (z, y, x)" if num_axes == 3 else "two positive finite numbers (y, x)"
    try:
        # A text is a sequence as well, and a set has no order.
        values = () if isinstance(spacing_mm, str | Set) else tuple(float(value) for value in spacing_mm)
    except (TypeError, ValueError) as error:
        raise ValueError(f"spacing_mm is {spacing_mm!r}; expected {numbers}") from error
    if len(values) != num_axes or not all(_SHORTEST_MM <= value <= _LONGEST_MM for value in values):
        raise ValueError(f"spacing_mm is {spacing_mm!r}; expected {numbers}")
    return values


def check_tolerance(tolerance_mm: float) -> float:
    """Return the tolerance as a float; raise ValueError unless it is finite and at least 0."""
    try:
        value = float(tolerance_mm)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"tolerance_mm is {tolerance_mm!r}; expected a finite number of at least 0")
    return value


def check_percentile(percentile: float) -> None:
    """Raise ValueError unless it is a number from 0 to 100."""
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile is {percentile!r}; expected a number from 0 to 100")


def check_tolerances(tolerances_mm: Mapping[int, float]) -> dict[int, float]:
    """Return the tolerance of each label; raise ValueError unless they and the labels are what `score_masks` takes."""
    if not isinstance(tolerances_mm, Mapping):
        found = f"tolerances_mm is {tolerances_mm!r}"
        raise ValueError(f"{found}; expected a tolerance for each label, such as {{1: 1.0}}")  # noqa: TRY004
    labels = list(tolerances_mm)
    if not labels:
        raise ValueError("tolerances_mm has no labels; expected at least one")
    if not all(map(is_label, labels)):
        raise ValueError(f"tolerances_mm has the labels {labels}; expected integers other than 0")
    return {label: check_tolerance(tolerance) for label, tolerance in tolerances_mm.items()}
