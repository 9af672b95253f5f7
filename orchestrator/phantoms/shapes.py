"""Coordinate grids in mm and the soft shapes that phantoms are painted from.

Everything is a function of the position in mm, so the same patient can be scanned at any spacing. Axes are (z, y, x);
x grows to the patient's left, y to the back, z to the head (LPS), and the origin lies in the middle of the thorax.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

NOISE_EXTENT_MM = 420.0
"""Value noise covers this far from the origin on both sides; beyond it continues with its border value."""
CUBIC_NOISE_SCALE = 3.0
"""Brings B-spline value noise of unit samples to a standard deviation of about 1 (each axis keeps 48 % of variance)."""


def stable_seed(*parts: str | int) -> int:
    """Return a 63-bit seed that depends on nothing but the parts; the same on every machine and Python version."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Voxel centres of a volume or a slab of it."""

    z: FloatArray
    """Shape (Z, 1, 1), mm."""
    y: FloatArray
    """Shape (1, Y, 1), mm."""
    x: FloatArray
    """Shape (1, 1, X), mm."""
    edge_mm: float
    """Width over which the border of a shape fades: the mean edge of a voxel (partial volume)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels (Z, Y, X)."""
        return self.z.size, self.y.size, self.x.size

    def slabs(self, *, num_voxels: int) -> Iterator[tuple[slice, "Grid"]]:
        """Yield slabs of whole slices with about `num_voxels` voxels each, and where they lie along z."""
        step = max(1, num_voxels // (self.y.size * self.x.size))
        for start in range(0, self.z.size, step):
            part = slice(start, min(start + step, self.z.size))
            yield part, Grid(z=self.z[part], y=self.y, x=self.x, edge_mm=self.edge_mm)

    def box(self, *, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> tuple[slice, slice, slice] | None:
        """Return the part of the grid between two corners (z, y, x) in mm; None where it holds no voxel."""
        parts = []
        for axis, first, last in zip((self.z, self.y, self.x), low, high, strict=True):
            start, stop = np.searchsorted(axis.ravel(), (first, last))
            if start >= stop:
                return None
            parts.append(slice(int(start), int(stop)))
        return parts[0], parts[1], parts[2]

    def crop(self, box: tuple[slice, slice, slice]) -> "Grid":
        """Return the grid of that box."""
        return Grid(z=self.z[box[0]], y=self.y[:, box[1]], x=self.x[:, :, box[2]], edge_mm=self.edge_mm)


def centred_grid(*, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Grid:
    """Return the grid whose middle is the origin; shape and spacing as (z, y, x)."""
    z, y, x = (
        ((np.arange(num) - (num - 1) / 2) * step).astype(np.float32)
        for num, step in zip(shape, spacing_mm, strict=True)
    )
    return Grid(
        z=z[:, None, None], y=y[None, :, None], x=x[None, None, :], edge_mm=float(np.prod(spacing_mm)) ** (1 / 3)
    )


def occupancy(distance_mm: FloatArray, *, edge_mm: float) -> FloatArray:
    """Return the share of each voxel inside a shape, 0 to 1, from the signed distance (negative inside)."""
    return np.asarray(np.clip(0.5 - distance_mm / np.float32(edge_mm), 0, 1), np.float32)


def paint(image: FloatArray, *, share: FloatArray, value: float | FloatArray) -> None:
    """Blend a tissue of `value` HU into the image, in place; `share` is 0 to 1."""
    image += share * (value - image)


def ellipsoid(
    grid: Grid, *, center: tuple[float, float, float], radii: tuple[float, float, float], turn: float = 0.0
) -> FloatArray:
    """Return about the signed distance in mm to an ellipsoid given as (z, y, x), turned by `turn` rad."""
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    dx, dy = grid.x - np.float32(center[2]), grid.y - np.float32(center[1])
    in_plane = ((dx * cosine + dy * sine) / np.float32(radii[2])) ** 2
    in_plane = in_plane + ((dy * cosine - dx * sine) / np.float32(radii[1])) ** 2
    radius = np.sqrt(in_plane + ((grid.z - np.float32(center[0])) / np.float32(radii[0])) ** 2)
    return np.asarray((radius - 1) * np.float32(min(radii)), np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class TubeSegment:
    """A piece of a tube."""

    start: tuple[float, float, float]
    """(z, y, x) in mm."""
    end: tuple[float, float, float]
    """(z, y, x) in mm."""
    radius_mm: float
    """Radius of the tube."""


def polyline(points: Iterable[tuple[float, float, float]], *, radius_mm: float) -> list[TubeSegment]:
    """Return the segments between successive points (z, y, x)."""
    nodes = list(points)
    return [TubeSegment(start=a, end=b, radius_mm=radius_mm) for a, b in pairwise(nodes)]


def tubes(grid: Grid, segments: Iterable[TubeSegment]) -> FloatArray:
    """Return the share of each voxel inside any of the tubes; thin tubes keep their mean share in coarse voxels."""
    share = np.zeros(grid.shape, np.float32)
    for segment in segments:
        start, end = np.array(segment.start), np.array(segment.end)
        margin = segment.radius_mm + grid.edge_mm / 2
        box = grid.box(low=np.minimum(start, end) - margin, high=np.maximum(start, end) + margin)
        if box is None:
            continue
        part = grid.crop(box)
        axis = (end - start).astype(np.float32)
        dz, dy, dx = (a - np.float32(s) for a, s in zip((part.z, part.y, part.x), start, strict=True))
        along = np.clip((dz * axis[0] + dy * axis[1] + dx * axis[2]) / max(float(axis @ axis), 1e-6), 0, 1)
        distance = np.sqrt((dz - along * axis[0]) ** 2 + (dy - along * axis[1]) ** 2 + (dx - along * axis[2]) ** 2)
        inside = occupancy(distance - segment.radius_mm, edge_mm=grid.edge_mm)
        inside *= min(1.0, 2 * segment.radius_mm / grid.edge_mm)
        np.maximum(share[box], inside, out=share[box])
    return share


class ValueNoise:
    """A smooth random field in mm with mean 0 and standard deviation of about 1.

    Random samples on a lattice, joined by cubic B-splines. The field depends on the seed and pitch alone, not on the
    grid on which it is evaluated.
    """

    def __init__(self, *, seed: int, pitch_mm: float) -> None:
        self.pitch_mm = pitch_mm
        num = int(2 * NOISE_EXTENT_MM / pitch_mm) + 4
        self.samples = np.random.default_rng(seed).standard_normal((num, num, num), dtype=np.float32)

    def _weights(self, position_mm: FloatArray) -> FloatArray:
        num = self.samples.shape[0]
        place = np.clip((position_mm.ravel() + NOISE_EXTENT_MM) / self.pitch_mm, 0, num - 4.001)
        first = place.astype(np.intp)
        t = (place - first).astype(np.float32)
        weights = np.zeros((t.size, num), np.float32)
        parts = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        for offset, part in enumerate(parts):
            weights[np.arange(t.size), first + offset] = part / 6
        return weights

    def __call__(self, grid: Grid) -> FloatArray:
        """Return the field on a grid, shape (Z, Y, X)."""
        field = np.tensordot(self._weights(grid.z), self.samples, axes=(1, 0))
        field = np.matmul(self._weights(grid.y), field)
        return np.asarray(np.matmul(field, self._weights(grid.x).T) * np.float32(CUBIC_NOISE_SCALE), np.float32)
