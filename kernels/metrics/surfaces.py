"""The surfaces of two masks: elements as bits, what each of them counts, and where they lie in space."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.masks.bitmask import MaskPair
from kernels.metrics.surface_elements import CODE_OF_ROWS, NUM_CODES, find_borders, surfel_areas
from kernels.metrics.voxel_borders import find_voxel_borders

# Nothing lies above or below a plane: a step there is larger than any that could be nearer.
_STEP_BESIDE_PLANE = 100.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Surfaces:
    """Elements of two surfaces."""

    reference: "Surface"
    prediction: "Surface"
    sizes: NDArray[np.float64]
    """Shape (256,): what an element of each neighbour code counts: its area, its length, or 1."""
    steps_mm: tuple[float, float, float]
    """From an element to the next along (z, y, x)."""
    is_flat: bool
    """Whether codes are of four pixels, each of them twice."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Surface:
    """Elements of one surface."""

    mask: NDArray[np.uint64]
    """Shape (z + 2, y + 2, words): what the neighbour codes follow from."""
    borders: NDArray[np.uint64]
    """Shape (z + 1, y + 1, words): one bit an element."""


def find_surfaces(pair: MaskPair, *, spacing_mm: tuple[float, ...]) -> Surfaces:
    """Find the surfaces, or the contours of masks in the plane, as google-deepmind's surface-distance defines them."""
    sizes = surfel_areas(spacing_mm)
    if pair.is_flat:
        twice = np.zeros(NUM_CODES)
        twice[::CODE_OF_ROWS] = sizes
        sizes = twice
    surfaces = [Surface(mask=mask, borders=find_borders(mask)) for mask in (pair.reference, pair.prediction)]
    return _surfaces(pair, surfaces, sizes, spacing_mm)


def find_voxel_surfaces(pair: MaskPair, *, spacing_mm: tuple[float, ...]) -> Surfaces:
    """Find the voxels that have a neighbour outside of the mask; each counts 1, and has the code 0."""
    no_code = np.zeros_like(pair.reference)
    borders = [find_voxel_borders(mask, is_flat=pair.is_flat) for mask in (pair.reference, pair.prediction)]
    return _surfaces(pair, [Surface(mask=no_code, borders=own) for own in borders], np.ones(NUM_CODES), spacing_mm)


def _surfaces(
    pair: MaskPair, surfaces: list[Surface], sizes: NDArray[np.float64], spacing_mm: tuple[float, ...]
) -> Surfaces:
    steps_mm = (_STEP_BESIDE_PLANE * max(spacing_mm), *spacing_mm) if pair.is_flat else spacing_mm
    return Surfaces(
        reference=surfaces[0],
        prediction=surfaces[1],
        sizes=sizes,
        steps_mm=(steps_mm[0], steps_mm[1], steps_mm[2]),
        is_flat=pair.is_flat,
    )
