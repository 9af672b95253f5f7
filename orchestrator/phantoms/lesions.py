"""Lesions of the phantoms: COVID-19 infection, tumours and pleural effusion, each with its place, shape and density.

They differ as the diseases do: infection is many soft patches of ground glass under the pleura of the back, some with a
dense core; a tumour is one compact solid mass anywhere; an effusion is a dependent crescent of fluid. A model
that knows one of them does not know the others.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from orchestrator.phantoms.patient import LungRegion, Patient, lung_ellipse, lung_points
from orchestrator.phantoms.shapes import (
    BoolArray,
    FloatArray,
    Grid,
    ValueNoise,
    occupancy,
    paint,
    stable_seed,
)

LesionKind = Literal["infection", "tumour", "effusion"]
EFFUSION_HU = 12.0
"""Density of pleural fluid."""
INFECTED = LungRegion(angle=(-0.3, 1.9), radius=(0.72, 0.93), height=(0.12, 0.75))
WITH_TUMOURS = LungRegion(radius=(0.1, 0.85), height=(0.2, 0.85))


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """A patch of infection or a tumour."""

    center: tuple[float, float, float]
    """(z, y, x) in mm."""
    radii: tuple[float, float, float]
    """(z, along the pleura, across it) in mm."""
    turn: float
    """Angle in rad of the normal of the pleura in the axial plane."""
    density_hu: float
    """Density of its body."""
    core_hu: float | None
    """Density of a consolidated core; None without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effusion:
    """Fluid at the back of one pleural space."""

    side: int
    """1 left, -1 right."""
    depth_mm: float
    """Thickness at the base."""
    height_mm: float
    """How far it reaches up."""


def draw_infection(seed: int, patient: Patient) -> tuple[Blob, ...]:
    """Return the patches of one patient: a few to many, mostly at the back and bottom, on both sides."""
    rng = np.random.default_rng(stable_seed(seed, "infection"))
    blobs, load = [], rng.uniform(0.75, 1.2)
    first_side = int(rng.choice((-1, 1)))
    for index in range(int(rng.integers(5, 12))):
        side = first_side if index % 2 == 0 or rng.random() < 0.2 else -first_side
        center = lung_points(rng, patient, num=1, side=side, region=INFECTED)[0]
        radii = load * rng.uniform((14, 16, 10), (34, 36, 21))
        blobs.append(
            Blob(
                center=_triple(center),
                radii=_triple(radii),
                turn=_outward(center, patient),
                density_hu=float(rng.uniform(-660, -360)),
                core_hu=float(rng.uniform(-60, 45)) if rng.random() < 0.35 else None,
            )
        )
    return tuple(blobs)


def draw_tumours(seed: int, patient: Patient) -> tuple[Blob, ...]:
    """Return one compact solid mass of 10 to 50 mm, sometimes with a second nodule."""
    rng = np.random.default_rng(stable_seed(seed, "tumour"))
    blobs = []
    for index in range(1 + int(rng.random() < 0.15)):
        side = int(rng.choice((-1, 1)))
        center = lung_points(rng, patient, num=1, side=side, region=WITH_TUMOURS)[0]
        size = rng.uniform(10, 25) if index == 0 else rng.uniform(5, 10)
        blobs.append(
            Blob(
                center=_triple(center),
                radii=_triple(np.clip(size * rng.uniform(0.85, 1.15, 3), 5, 25)),
                turn=float(rng.uniform(0, np.pi)),
                density_hu=float(rng.uniform(20, 60)),
                core_hu=None,
            )
        )
    return tuple(blobs)


def draw_effusions(seed: int) -> tuple[Effusion, ...]:
    """Return the effusion of one side, sometimes of both."""
    rng = np.random.default_rng(stable_seed(seed, "effusion"))
    first_side = int(rng.choice((-1, 1)))
    sides = (first_side, -first_side) if rng.random() < 0.3 else (first_side,)
    return tuple(
        Effusion(side=side, depth_mm=float(rng.uniform(22, 60)), height_mm=float(rng.uniform(110, 210)))
        for side in sides
    )


def paint_infection(
    image: FloatArray, *, grid: Grid, lung_mm: FloatArray, blobs: tuple[Blob, ...], seed: int
) -> BoolArray:
    """Paint the patches into the lungs, in place, and return their mask."""
    wobble = ValueNoise(seed=stable_seed(seed, "infection border"), pitch_mm=13)(grid)
    texture = ValueNoise(seed=stable_seed(seed, "infection texture"), pitch_mm=5)(grid)
    in_lung = occupancy(lung_mm, edge_mm=grid.edge_mm)
    opacity = np.zeros(grid.shape, np.float32)
    density = np.full(grid.shape, -500, np.float32)
    for blob in blobs:
        box = _blob_box(grid, blob, reach=1.7)
        if box is None:
            continue
        radius = _blob_radius(grid.crop(box), blob) + np.float32(0.20) * wobble[box]
        share = np.clip((1 - radius) / np.float32(0.45) + np.float32(0.5), 0, 1)
        hu = blob.density_hu + 45 * texture[box]
        if blob.core_hu is not None:
            hu += np.clip((0.55 - radius) / 0.25 + 0.5, 0, 1) * (blob.core_hu - hu)
        stronger = share > opacity[box]
        density[box] = np.where(stronger, np.maximum(hu, np.where(share > 0.9, density[box], -1000)), density[box])
        np.maximum(opacity[box], share, out=opacity[box])
    paint(image, share=opacity * in_lung, value=np.maximum(density, image))
    return np.asarray((opacity > 0.5) & (lung_mm < 0))


def paint_tumours(
    image: FloatArray, *, grid: Grid, lung_mm: FloatArray, blobs: tuple[Blob, ...], seed: int
) -> BoolArray:
    """Paint the masses into the lungs, in place, and return their mask."""
    lobes = ValueNoise(seed=stable_seed(seed, "tumour border"), pitch_mm=14)(grid)
    mask = np.zeros(grid.shape, np.bool_)
    for blob in blobs:
        box = _blob_box(grid, blob, reach=1.5)
        if box is None:
            continue
        distance = (_blob_radius(grid.crop(box), blob) + np.float32(0.07) * lobes[box] - 1) * np.float32(
            min(blob.radii)
        )
        np.maximum(distance, lung_mm[box], out=distance)
        paint(image[box], share=occupancy(distance, edge_mm=grid.edge_mm), value=blob.density_hu)
        mask[box] |= distance < 0
    return mask


def paint_effusions(
    image: FloatArray, *, grid: Grid, lung_mm: FloatArray, patient: Patient, effusions: tuple[Effusion, ...]
) -> BoolArray:
    """Paint the fluid between chest wall and lung, in place, and return its mask."""
    mask = np.zeros(grid.shape, np.bool_)
    for effusion in effusions:
        height = (grid.z - np.float32(patient.base_z)) / np.float32(effusion.height_mm)
        thickness = np.float32(effusion.depth_mm) * np.clip(1 - height, 0, 1)
        # The lung floats forward: what its shifted hull no longer covers at the back is fluid.
        behind = -lung_ellipse(grid, patient, back_shift=thickness)
        # Painted half a voxel into the chest wall: no film of air stays between two soft borders.
        grown = lung_mm - np.float32(0.5 * grid.edge_mm)
        distance = np.maximum(np.maximum(behind, grown), -grid.y - np.float32(0.1 * patient.cavity_y))
        np.maximum(distance, np.where(grid.x * effusion.side > 0, -1e3, 1e3), out=distance)
        np.maximum(distance, np.where(thickness > 0.5, -1e3, 1e3), out=distance)
        share = occupancy(distance.astype(np.float32), edge_mm=grid.edge_mm)
        paint(image, share=share, value=EFFUSION_HU)
        mask |= (distance < 0) & (lung_mm < 0)
    return mask


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    z, y, x = (float(value) for value in values)
    return z, y, x


def _outward(center: npt.NDArray[np.float64], patient: Patient) -> float:
    middle_x = np.sign(center[2]) * 0.5 * patient.cavity_x
    return float(np.arctan2(center[1] / patient.cavity_y, (center[2] - middle_x) / (0.5 * patient.cavity_x)))


def _blob_box(grid: Grid, blob: Blob, *, reach: float) -> tuple[slice, slice, slice] | None:
    """Return the part of the grid within `reach` radii of a blob; None if it holds no voxel."""
    center, margin = np.array(blob.center), reach * max(blob.radii)
    return grid.box(low=center - margin, high=center + margin)


def _blob_radius(grid: Grid, blob: Blob) -> FloatArray:
    """Return the radius of each voxel in units of the blob's ellipsoid, 1 at its surface."""
    dz, dy, dx = (a - np.float32(c) for a, c in zip((grid.z, grid.y, grid.x), blob.center, strict=True))
    cosine, sine = np.float32(np.cos(blob.turn)), np.float32(np.sin(blob.turn))
    across, along = dx * cosine + dy * sine, dy * cosine - dx * sine
    squared = (dz / blob.radii[0]) ** 2 + (along / blob.radii[1]) ** 2 + (across / blob.radii[2]) ** 2
    return np.asarray(np.sqrt(squared), np.float32)
