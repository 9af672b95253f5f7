"""Values of a label map that a study defines: the share of one structure in others."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from orchestrator.benchmark.predicted import DerivedValue

_COARSE_MM = 3.0
"""Distances are told on a grid of about this: which of two organs is nearer needs no more."""


def derived_values(
    labels: NDArray[np.integer],
    *,
    spacing_mm: Sequence[float],
    structures: Mapping[str, tuple[int, ...]],
    wanted: Sequence[DerivedValue],
) -> dict[str, float]:
    """Return the values, in percent, that can be told of a label map; NaN where part and whole are both empty.

    Parameters
    ----------
    labels : integer array, shape (Z, Y, X)
        The label map.
    spacing_mm
        Distances of its voxels, (z, y, x).
    structures
        Its labels by the name of a structure.
    wanted
        Those of structures that it does not have are left out.
    """
    found = {}
    for value in wanted:
        if any(name not in structures for name in value.structures):
            continue
        part, whole = (_mask(labels, names, structures) for names in (value.part, value.whole))
        if value.rather_than:
            others = _mask(labels, value.rather_than, structures)
            part &= _is_nearer(whole, others, spacing_mm=spacing_mm)
        whole |= part
        total = int(np.count_nonzero(whole))
        found[value.name] = round(100 * int(np.count_nonzero(part)) / total, 4) if total else math.nan
    return found


def _mask(
    labels: NDArray[np.integer], names: Sequence[str], structures: Mapping[str, tuple[int, ...]]
) -> NDArray[np.bool_]:
    wanted = [label for name in names for label in structures[name]]
    mask = np.empty(labels.shape, bool)
    for plane, target in zip(labels, mask, strict=True):  # of all at once numpy makes copies of eight bytes a voxel
        target[:] = np.isin(plane, wanted)
    return mask


def _is_nearer(one: NDArray[np.bool_], other: NDArray[np.bool_], *, spacing_mm: Sequence[float]) -> NDArray[np.bool_]:
    """Return where voxels lie nearer to one mask than to another; nowhere if the first is empty."""
    if not one.any():
        return np.zeros(one.shape, bool)
    if not other.any():
        return np.ones(one.shape, bool)
    steps = coarse_steps(spacing_mm)
    coarse_mm = [step * size for step, size in zip(spacing_mm, steps, strict=True)]
    to_one, to_other = (
        ndimage.distance_transform_edt(~_coarse(mask, steps), sampling=coarse_mm) for mask in (one, other)
    )
    index = np.ix_(*(np.arange(size) // step for size, step in zip(one.shape, steps, strict=True)))
    nearer: NDArray[np.bool_] = (to_one < to_other)[index]
    return nearer


def coarse_steps(spacing_mm: Sequence[float]) -> list[int]:
    """Return how many voxels along each axis are one of the grid on which distances are told."""
    return [max(1, round(_COARSE_MM / step)) for step in spacing_mm]


def _coarse(mask: NDArray[np.bool_], steps: Sequence[int]) -> NDArray[np.bool_]:
    """Return which blocks of a mask hold anything."""
    for axis, step in enumerate(steps):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], step), axis=axis)
    return mask
