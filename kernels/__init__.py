"""Exact segmentation metrics as numba kernels: numpy in, numpy out.

Arrays are (z, y, x), of bool or any integer dtype and any memory order; pairs are always `reference, prediction`.
What a training needs for its patches is in modules of their own: `patch_geometry`, `spatial_transform`,
`intensity_transforms`, `lane_packing` and `lane_unpacking`.
"""

from kernels.nearest_surface import ElementDistances
from kernels.overlap import dice
from kernels.score_masks import METRICS, LabelScore, score_masks
from kernels.surface_dice import SurfaceOverlap, surface_dice, surface_overlap
from kernels.surface_distances import AverageSurfaceDistance, SurfaceDistances, surface_distances

__all__ = [
    "METRICS",
    "AverageSurfaceDistance",
    "ElementDistances",
    "LabelScore",
    "SurfaceDistances",
    "SurfaceOverlap",
    "dice",
    "score_masks",
    "surface_dice",
    "surface_distances",
    "surface_overlap",
]
