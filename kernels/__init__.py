"""Exact segmentation metrics as numba kernels: numpy in, numpy out.

Arrays are (z, y, x), or (y, x) where contours in the plane are meant, of bool or any integer dtype and any memory
order; pairs are always `reference, prediction`.
What a training needs for its patches is in modules of their own: `patch_geometry`, `spatial_transform`,
`intensity_transforms`, `lane_packing` and `lane_unpacking`.
"""

from kernels.masks.label_runs import count_labels
from kernels.metrics.nearest_surface import ElementDistances
from kernels.metrics.overlap import dice
from kernels.metrics.score_masks import (
    FIELDS,
    FURTHER,
    LARGER_IS_BETTER,
    METRICS,
    OWN_FIELDS,
    TITLES,
    LabelScore,
    score_masks,
)
from kernels.metrics.surface_dice import SurfaceOverlap, surface_dice, surface_overlap, surface_overlaps
from kernels.metrics.surface_distances import AverageSurfaceDistance, SurfaceDistances, surface_distances
from kernels.metrics.voxel_distances import VoxelSurfaceDistances, voxel_surface_distances

__all__ = [
    "FIELDS",
    "FURTHER",
    "LARGER_IS_BETTER",
    "METRICS",
    "OWN_FIELDS",
    "TITLES",
    "AverageSurfaceDistance",
    "ElementDistances",
    "LabelScore",
    "SurfaceDistances",
    "SurfaceOverlap",
    "VoxelSurfaceDistances",
    "count_labels",
    "dice",
    "score_masks",
    "surface_dice",
    "surface_distances",
    "surface_overlap",
    "surface_overlaps",
    "voxel_surface_distances",
]
