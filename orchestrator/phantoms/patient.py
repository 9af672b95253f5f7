"""The patients of the phantoms: how big they are, where their organs lie, how their vessels branch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.phantoms.shapes import (
    FloatArray,
    Grid,
    TubeSegment,
    ValueNoise,
    ellipsoid,
    polyline,
    stable_seed,
)

NUM_VESSEL_TIPS = 150
"""Tips of the vessel tree in each lung."""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """Measures of one patient in mm; the origin is the middle of the thorax."""

    seed: int
    """Everything that is not a field here is drawn from it."""
    cavity_x: float
    """Half the inner width of the chest."""
    cavity_y: float
    """Half its inner depth."""
    lung_height: float
    """From the costal recess to the apex."""
    fat: float
    """Thickness of the fat below the skin."""
    dome: float
    """Height of the right dome of the diaphragm; the left one is lower."""
    left_share: float
    """Width of the left lung as a share of the right one's."""
    heart: tuple[float, float, float]
    """Radii (z, y, x) of the heart."""
    shift_x: float
    """Mediastinum off the midline, to the left."""
    lung_hu: float
    """Density of healthy lung."""
    blood_hu: float
    """Density of blood without contrast agent."""

    @property
    def base_z(self) -> float:
        """Lowest point of the lungs."""
        return -self.lung_height / 2

    @property
    def apex_z(self) -> float:
        """Highest point of the lungs."""
        return self.lung_height / 2

    @property
    def body_x(self) -> float:
        """Half the width of the body."""
        return self.cavity_x + 15 + 0.8 * self.fat

    @property
    def body_y(self) -> float:
        """Half the depth of the body."""
        return self.cavity_y + 15 + self.fat

    @property
    def spine_y(self) -> float:
        """Middle of the vertebral bodies, in front of the canal."""
        return 0.72 * self.cavity_y

    @property
    def heart_center(self) -> tuple[float, float, float]:
        """Middle (z, y, x) of the heart: in front, low, to the left."""
        return self.base_z + 0.34 * self.lung_height, -0.30 * self.cavity_y, self.shift_x + 0.17 * self.cavity_x

    @property
    def carina(self) -> tuple[float, float, float]:
        """Where the trachea divides (z, y, x)."""
        return self.base_z + 0.64 * self.lung_height, 0.18 * self.cavity_y, self.shift_x - 2


def draw_patient(seed: int) -> Patient:
    """Return the patient of that seed."""
    rng = np.random.default_rng(stable_seed(seed, "patient"))
    size = rng.uniform(0.92, 1.08)
    return Patient(
        seed=seed,
        cavity_x=float(size * rng.uniform(126, 142)),
        cavity_y=float(size * rng.uniform(86, 100)),
        lung_height=float(size * rng.uniform(215, 260)),
        fat=float(rng.uniform(7, 26)),
        dome=float(rng.uniform(48, 72)),
        left_share=float(rng.uniform(0.88, 0.97)),
        heart=(float(size * rng.uniform(44, 54)), float(size * rng.uniform(37, 45)), float(size * rng.uniform(50, 62))),
        shift_x=float(rng.normal(0, 3)),
        lung_hu=float(rng.uniform(-880, -820)),
        blood_hu=float(rng.uniform(35, 50)),
    )


def height_share(grid: Grid, patient: Patient) -> FloatArray:
    """Return the height above the base of the lungs, 0 at the base and 1 at the apex, shape (Z, 1, 1)."""
    return np.asarray((grid.z - np.float32(patient.base_z)) / np.float32(patient.lung_height), np.float32)


def taper(height: FloatArray, *, top: float) -> FloatArray:
    """Return how wide the thorax is at a height, 1 in the lower fifth, down to nearly 0 at `top`."""
    above = np.clip((height - 0.2) / (top - 0.2), 0, 1)
    return np.asarray(np.sqrt(np.maximum(1 - above**2.3, 4e-4)), np.float32)


def lung_ellipse(grid: Grid, patient: Patient, *, back_shift: FloatArray | float = 0.0) -> FloatArray:
    """Return about the signed distance in mm to the outer hull of the lung of each side (before the mediastinum)."""
    width = taper(height_share(grid, patient), top=1.0)
    is_left = grid.x > 0
    half = np.where(is_left, patient.left_share, 1.0).astype(np.float32) * np.float32(0.485 * patient.cavity_x)
    middle = (np.float32(0.975 * patient.cavity_x) - half) * (1 - 0.2 * np.clip(height_share(grid, patient), 0, 1) ** 3)
    across = np.abs((np.abs(grid.x) - middle) / (half * width)) ** 2.3
    depth = np.abs((grid.y + back_shift) / (np.float32(0.95 * patient.cavity_y) * width)) ** 2.3
    radius = (across + depth) ** np.float32(1 / 2.3)
    return np.asarray((radius - 1) * np.float32(0.6 * patient.cavity_x) * width, np.float32)


def diaphragm_z(grid: Grid, patient: Patient) -> FloatArray:
    """Return the height in mm of the diaphragm, shape (1, Y, X): a dome on each side, the right one higher."""
    dome = np.where(grid.x > 0, patient.dome - 13, patient.dome).astype(np.float32)
    across = ((np.abs(grid.x) - 0.45 * patient.cavity_x) / (0.5 * patient.cavity_x)) ** 2
    depth = ((grid.y + 0.15 * patient.cavity_y) / (0.75 * patient.cavity_y)) ** 2
    return np.asarray(patient.base_z + dome * np.exp(-across - depth), np.float32)


def heart_distance(grid: Grid, patient: Patient) -> FloatArray:
    """Return about the signed distance in mm to the heart."""
    return ellipsoid(grid, center=patient.heart_center, radii=patient.heart, turn=0.55)


def mediastinum_distance(grid: Grid, patient: Patient) -> FloatArray:
    """Return about the signed distance in mm to what lies between the lungs."""
    depth = np.interp(grid.y / patient.cavity_y, (-1, -0.65, -0.25, 0.2, 0.6, 1.0), (10, 9, 25, 27, 24, 27)).astype(
        np.float32
    )
    hilum = 1 + 0.3 * np.exp(-(((height_share(grid, patient) - 0.53) / 0.13) ** 2))
    half = depth * np.where(np.abs(grid.y) < 0.5 * patient.cavity_y, hilum, 1.0).astype(np.float32)
    return np.asarray(np.abs(grid.x - np.float32(patient.shift_x)) - half, np.float32)


def lung_distance(grid: Grid, patient: Patient) -> FloatArray:
    """Return about the signed distance in mm to the lungs (and pleural space), negative inside, shape (Z, Y, X)."""
    unevenness = ValueNoise(seed=stable_seed(patient.seed, "lung shape"), pitch_mm=55)(grid)
    distance = lung_ellipse(grid, patient) + np.float32(2.5) * unevenness
    np.maximum(distance, 0.7 * (diaphragm_z(grid, patient) - grid.z), out=distance)
    np.maximum(distance, -mediastinum_distance(grid, patient), out=distance)
    np.maximum(distance, 3 - heart_distance(grid, patient), out=distance)
    np.maximum(distance, grid.z - np.float32(patient.apex_z), out=distance)
    return distance


@dataclass(frozen=True, kw_only=True, slots=True)
class LungRegion:
    """A part of a lung."""

    angle: tuple[float, float] = (-np.pi, np.pi)
    """Range in rad about the middle of the lung; 0 is lateral, pi/2 the back."""
    radius: tuple[float, float] = (0.15, 0.93)
    """Range as share of the lung's hull."""
    height: tuple[float, float] = (0.08, 0.95)
    """Range as share of its height."""


def lung_points(
    rng: np.random.Generator, patient: Patient, *, num: int, side: int, region: LungRegion
) -> npt.NDArray[np.float64]:
    """Draw points in a lung, at least 4 mm below its surface, shape (num, 3) as (z, y, x) in mm.

    `side` is 1 for left, -1 for right.
    """
    found = np.empty((0, 3))
    while len(found) < num:
        tries = 8 * num + 16
        at_height = rng.uniform(*region.height, tries)
        at_angle = rng.uniform(*region.angle, tries)
        width = taper(at_height.astype(np.float32), top=1.0) * rng.uniform(*region.radius, tries)
        x = 0.5 * patient.cavity_x + 0.46 * patient.cavity_x * width * np.cos(at_angle)
        y = 0.93 * patient.cavity_y * width * np.sin(at_angle)
        points = np.stack([patient.base_z + at_height * patient.lung_height, y, side * x], axis=1)
        found = np.concatenate([found, points[_smooth_lung_distance(points, patient) < -4]])
    return found[:num]


def _smooth_lung_distance(points: npt.NDArray[np.float64], patient: Patient) -> FloatArray:
    """Return the distance of points (N, 3) to the lungs without the small unevenness of their surface, shape (N,)."""
    z, y, x = (column.astype(np.float32)[:, None, None] for column in points.T)
    grid = Grid(z=z, y=y, x=x, edge_mm=1.0)
    parts = (
        lung_ellipse(grid, patient),
        0.7 * (diaphragm_z(grid, patient) - grid.z),
        -mediastinum_distance(grid, patient),
        3 - heart_distance(grid, patient),
    )
    return np.asarray(np.max(np.stack(parts), axis=0).ravel(), np.float32)


def vessel_tree(patient: Patient) -> list[TubeSegment]:
    """Return the vessels of both lungs: tubes that branch from the hila and thin out to the periphery."""
    rng = np.random.default_rng(stable_seed(patient.seed, "vessels"))
    segments: list[TubeSegment] = []
    for side in (1, -1):
        root = np.array([patient.carina[0] - 18, 0.1 * patient.cavity_y, patient.shift_x + side * 30])
        tips = lung_points(rng, patient, num=NUM_VESSEL_TIPS, side=side, region=LungRegion())
        segments += _grow(root, tips[np.argsort(np.linalg.norm(tips - root, axis=1))])
    return segments


def _grow(root: npt.NDArray[np.float64], tips: npt.NDArray[np.float64]) -> list[TubeSegment]:
    """Join each tip to the node that is near and itself near to the root; a branch is thinner than what it leaves."""
    nodes, lengths, radii = [root], [0.0], [5.0]
    segments = []
    for tip in tips:
        distances = np.linalg.norm(np.array(nodes) - tip, axis=1)
        parent = int(np.argmin(distances + 0.35 * np.array(lengths)))
        radius = max(0.9, radii[parent] * 0.80)
        segments.append(TubeSegment(start=tuple(nodes[parent]), end=tuple(tip), radius_mm=radius))
        nodes.append(tip)
        lengths.append(lengths[parent] + float(distances[parent]))
        radii.append(radius)
    return segments


def airway(patient: Patient) -> list[TubeSegment]:
    """Return trachea and main bronchi."""
    z, y, x = patient.carina
    trachea = polyline([(patient.apex_z + 90, y - 18, 0.0), (patient.apex_z, y - 10, x), (z, y, x)], radius_mm=8.5)
    right = polyline([(z, y, x), (z - 28, y + 2, x - 30), (z - 42, y + 4, x - 46)], radius_mm=6.0)
    left = polyline([(z, y, x), (z - 30, y + 4, x + 36), (z - 44, y + 8, x + 50)], radius_mm=5.5)
    return trachea + right + left


def esophagus(patient: Patient) -> list[TubeSegment]:
    """Return the esophagus, behind the trachea and left of the midline below."""
    z, y, x = patient.carina
    points = [
        (patient.apex_z + 90, y + 4, 3.0),
        (z, y + 19, x + 5),
        (patient.base_z + 50, y + 20, x + 8),
        (patient.base_z - 90, y + 4, x + 22),
    ]
    return polyline(points, radius_mm=7.5)


def great_vessels(patient: Patient) -> list[TubeSegment]:
    """Return aorta, superior vena cava and pulmonary trunk with its two branches."""
    z, _, x = patient.carina
    back = patient.spine_y - 17
    aorta = [
        (z - 45, -0.2 * patient.cavity_y, x + 2),
        (z + 12, -0.25 * patient.cavity_y, x - 10),
        (z + 28, 0.1 * patient.cavity_y, x + 15),
        (z + 12, back - 12, x + 22),
        (z - 40, back, x + 20),
        (patient.base_z - 90, back + 2, x + 12),
    ]
    cava = [(patient.apex_z + 20, -4.0, x - 20), (z - 50, -12.0, x - 24)]
    trunk = [(z - 45, -0.35 * patient.cavity_y, x + 16), (z - 14, -0.1 * patient.cavity_y, x + 20)]
    branches = [(z - 22, 6.0, x + 36), (z - 14, -0.1 * patient.cavity_y, x + 20), (z - 22, 2.0, x - 34)]
    return (
        polyline(aorta, radius_mm=12.5)
        + polyline(cava, radius_mm=8.5)
        + polyline(trunk, radius_mm=13.0)
        + polyline(branches, radius_mm=9.5)
    )


def spinal_cord(patient: Patient) -> list[TubeSegment]:
    """Return the spinal cord."""
    y = patient.spine_y + 24
    return polyline([(patient.apex_z + 150, y, 0.0), (patient.base_z - 150, y, 0.0)], radius_mm=5.5)
