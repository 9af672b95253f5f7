"""Distances between the voxels at two surfaces, each of which counts once, as MONAI, medpy and panoptica define them.

A voxel is at the surface if one of its six neighbours across a face (of a pixel: four across an edge) is outside of the
mask or of the volume. A percentile lies between two distances, as that of numpy does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.masks.bitmask import MaskPair
from kernels.masks.validation import check_pair, check_percentile, check_spacing, pack_masks
from kernels.metrics.nearest_surface import NO_ELEMENTS, ElementDistances, element_distances, mean_distance
from kernels.metrics.surfaces import find_voxel_surfaces


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VoxelSurfaceDistances:
    """The distance of every voxel at a surface to the nearest one at the other surface."""

    reference: ElementDistances
    """From the reference's surface to the prediction's; infinite if the prediction is empty."""
    prediction: ElementDistances
    """From the prediction's surface to the reference's; infinite if the reference is empty."""

    def hausdorff_distance(self, *, percentile: float = 100.0) -> float:
        """Return the larger of both directions' percentiles in mm, as MONAI does.

        Infinite if one mask is empty, NaN if both are. Raises ValueError for a percentile outside 0 to 100.
        """
        check_percentile(percentile)
        if self._is_one_empty:
            return math.inf
        return max(_percentile(percentile, self.reference), _percentile(percentile, self.prediction))

    def pooled_hausdorff_distance(self, *, percentile: float = 100.0) -> float:
        """Return the percentile in mm of the distances of both directions together, as medpy and panoptica do.

        Infinite if one mask is empty, NaN if both are. Raises ValueError for a percentile outside 0 to 100.
        """
        check_percentile(percentile)
        return math.inf if self._is_one_empty else _percentile(percentile, self.reference, self.prediction)

    def average_distance(self) -> float:
        """Return the mean in mm over the voxels of both surfaces (ASSD), as MONAI and medpy 0.5 do.

        Infinite if one mask is empty, NaN if both are.
        """
        return mean_distance(self.reference, self.prediction)

    def mean_average_distance(self) -> float:
        """Return the mean in mm of both directions' means (MASD), as panoptica and medpy until 0.4 do for their ASSD.

        Infinite if one mask is empty, NaN if both are.
        """
        if self._is_one_empty:
            return math.inf
        return (mean_distance(self.reference) + mean_distance(self.prediction)) / 2

    @property
    def _is_one_empty(self) -> bool:
        return (len(self.reference.counts) == 0) != (len(self.prediction.counts) == 0)


def _percentile(percentile: float, *surfaces: ElementDistances) -> float:
    """Interpolate between the distances before and after the percentile, with the arithmetic of numpy."""
    distances = np.concatenate([elements.distances_mm for elements in surfaces])
    order = np.argsort(distances)
    last = np.cumsum(np.concatenate([elements.counts for elements in surfaces])[order])
    if not len(last):
        return math.nan
    place = int(last[-1] - 1) * (percentile / 100)
    before = math.floor(place)
    lower, upper = (float(distances[order[_entry(last, at)]]) for at in (before, before + 1))
    share = place - before
    return lower + (upper - lower) * share if share < 0.5 else upper - (upper - lower) * (1 - share)


def _entry(last: NDArray[np.int64], place: int) -> int:
    """Return which entry holds the distance at a place among all of them in order."""
    return min(int(np.searchsorted(last, place, side="right")), len(last) - 1)


def voxel_surface_distances(
    reference: NDArray[np.generic], prediction: NDArray[np.generic], *, spacing_mm: Sequence[float]
) -> VoxelSurfaceDistances:
    """Return the distances between the voxels at two surfaces in both directions.

    Parameters
    ----------
    reference, prediction : bool or integer arrays of 0 and 1, shape (Z, Y, X) or (Y, X)
    spacing_mm : distance of the voxels along (z, y, x), or of the pixels along (y, x)

    Returns
    -------
    VoxelSurfaceDistances; an empty mask has no distances, and those to it are infinite

    Raises
    ------
    ValueError : for shapes that differ, axes other than two or three, floats, label maps, and a spacing that is not as
        many positive finite numbers as there are axes
    """
    check_pair(reference, prediction)
    spacing = check_spacing(spacing_mm, num_axes=reference.ndim)
    return voxel_distances_of_pair(pack_masks(reference, prediction), spacing_mm=spacing)


def voxel_distances_of_pair(pair: MaskPair | None, *, spacing_mm: tuple[float, ...]) -> VoxelSurfaceDistances:
    """Return the distances between the voxels at the surfaces of two packed masks; None stands for two empty ones."""
    if pair is None:
        return VoxelSurfaceDistances(reference=NO_ELEMENTS, prediction=NO_ELEMENTS)
    surfaces = find_voxel_surfaces(pair, spacing_mm=spacing_mm)
    from_reference, from_prediction = element_distances(surfaces)
    return VoxelSurfaceDistances(reference=from_reference, prediction=from_prediction)
