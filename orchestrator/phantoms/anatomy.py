"""Phantoms: thorax CTs made from nothing but a seed, with the labels that the public data sets have.

A phantom is painted tissue by tissue on coordinates in mm, slab by slab: the same patient comes out at any spacing, and
a full-resolution volume needs little more memory than itself.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from orchestrator.phantoms import lesions as lesions_of
from orchestrator.phantoms import patient as anatomy
from orchestrator.phantoms.lesions import LesionKind
from orchestrator.phantoms.patient import Patient
from orchestrator.phantoms.scanner import AIR_HU, Protocol, ScannerLook, acquire, draw_protocol, window
from orchestrator.phantoms.shapes import (
    BoolArray,
    FloatArray,
    Grid,
    TubeSegment,
    ValueNoise,
    ellipsoid,
    occupancy,
    paint,
    stable_seed,
    tubes,
)

SLAB_VOXELS = 1_500_000
"""Voxels painted at a time: about 200 MB of working memory."""
LEAD_HU = 7500.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Phantom:
    """One generated CT with its labels; all arrays have the shape (Z, Y, X) and x grows to the patient's left."""

    image: npt.NDArray[np.int16]
    """HU, or 0 ... 255 where the look is windowed."""
    spacing_mm: tuple[float, float, float]
    """(z, y, x)."""
    lungs: npt.NDArray[np.uint8]
    """1 left, 2 right; the whole pleural space with infection, tumours and fluid."""
    infection: BoolArray
    """COVID-19 infection."""
    tumour: BoolArray
    """Solid masses."""
    effusion: BoolArray
    """Pleural fluid."""
    spinal_cord: BoolArray
    """Spinal cord."""
    esophagus: BoolArray
    """Esophagus."""
    heart: BoolArray
    """Heart."""
    trachea: BoolArray
    """Trachea and main bronchi, with their walls left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scene:
    """A patient with lesions, ready to be painted."""

    patient: Patient
    protocol: Protocol
    look: ScannerLook
    seed: int
    vessels: list[TubeSegment]
    infection: tuple[lesions_of.Blob, ...]
    tumours: tuple[lesions_of.Blob, ...]
    effusions: tuple[lesions_of.Effusion, ...]


def make_phantom(
    *,
    seed: int,
    look: ScannerLook,
    lesions: Collection[LesionKind] = (),
    spacing_mm: float | None = 6.0,
    patient_seed: int | None = None,
) -> Phantom:
    """Generate one thorax CT with its labels; the same arguments always give the same voxels.

    Parameters
    ----------
    seed : seed of the scan: voxels, noise and lesions.
    look : scanner of the data set.
    lesions : diseases of the patient; none is a healthy chest.
    spacing_mm : in-plane spacing of a small phantom (the data set varies it a little); None is full resolution.
    patient_seed : seed of the body, for several scans of one patient; None takes `seed`.
    """
    patient = anatomy.draw_patient(seed if patient_seed is None else patient_seed)
    scene = _Scene(
        patient=patient,
        protocol=draw_protocol(seed, patient=patient, look=look, spacing_mm=spacing_mm),
        look=look,
        seed=seed,
        vessels=anatomy.vessel_tree(patient),
        infection=lesions_of.draw_infection(seed, patient) if "infection" in lesions else (),
        tumours=lesions_of.draw_tumours(patient.seed, patient) if "tumour" in lesions else (),
        effusions=lesions_of.draw_effusions(patient.seed) if "effusion" in lesions else (),
    )
    shape = scene.protocol.shape
    phantom = Phantom(
        image=np.empty(shape, np.int16),
        spacing_mm=scene.protocol.spacing_mm,
        lungs=np.zeros(shape, np.uint8),
        **{name: np.zeros(shape, np.bool_) for name in ("infection", "tumour", "effusion")},
        **{name: np.zeros(shape, np.bool_) for name in ("spinal_cord", "esophagus", "heart", "trachea")},
    )
    for part, grid in scene.protocol.grid().slabs(num_voxels=SLAB_VOXELS):
        _paint_slab(phantom, part=part, grid=grid, scene=scene)
    return phantom


def _paint_slab(phantom: Phantom, *, part: slice, grid: Grid, scene: _Scene) -> None:
    """Fill one slab of image and labels."""
    patient = scene.patient
    lung_mm = anatomy.lung_distance(grid, patient)
    image = _paint_body(grid, scene)
    _paint_mediastinum(image, grid=grid, scene=scene, labels=phantom, part=part)
    _paint_bones(image, grid=grid, patient=patient)
    phantom.spinal_cord[part] = _paint_canal(image, grid=grid, patient=patient)
    _paint_lungs(image, grid=grid, lung_mm=lung_mm, scene=scene)
    phantom.trachea[part] = _paint_airway(image, grid=grid, patient=patient)
    phantom.infection[part] = lesions_of.paint_infection(
        image, grid=grid, lung_mm=lung_mm, blobs=scene.infection, seed=scene.seed
    )
    phantom.tumour[part] = lesions_of.paint_tumours(
        image, grid=grid, lung_mm=lung_mm, blobs=scene.tumours, seed=patient.seed
    )
    phantom.effusion[part] = lesions_of.paint_effusions(
        image, grid=grid, lung_mm=lung_mm, patient=patient, effusions=scene.effusions
    )
    phantom.tumour[part] &= ~phantom.effusion[part]
    phantom.lungs[part] = np.where(lung_mm < 0, np.where(grid.x > 0, 1, 2), 0)
    phantom.heart[part] &= lung_mm >= 0
    seen = acquire(image, grid=grid, look=scene.look, seed=scene.seed, first_slice=part.start)
    phantom.image[part] = np.rint(window(seen) if scene.look.is_windowed else seen)


def _wall_distance(grid: Grid, patient: Patient) -> FloatArray:
    """Return about the signed distance in mm to the inside of the rib cage."""
    height = anatomy.height_share(grid, patient)
    width = anatomy.taper(height, top=1.16)
    across = np.abs(grid.x / (np.float32(patient.cavity_x) * width)) ** 2.3
    depth = np.abs(grid.y / (np.float32(patient.cavity_y) * width)) ** 2.3
    return np.asarray(((across + depth) ** np.float32(1 / 2.3) - 1) * np.float32(patient.cavity_y) * width, np.float32)


def _paint_body(grid: Grid, scene: _Scene) -> FloatArray:
    """Return air, table, skin, fat, muscle and what fills the rib cage before its organs are painted."""
    patient, edge = scene.patient, partial(occupancy, edge_mm=grid.edge_mm)
    image = np.full(grid.shape, AIR_HU, np.float32)
    table = np.maximum(
        np.abs(grid.y - np.float32(patient.body_y + 12) - (grid.x / 90) ** 2 * -6) - 6, np.abs(grid.x) - 210
    )
    paint(image, share=np.broadcast_to(edge(table), grid.shape), value=-120)
    narrowing = 1 - 0.14 * np.clip((anatomy.height_share(grid, patient) - 0.85) / 0.35, 0, 1)
    across = np.abs(grid.x / (np.float32(patient.body_x) * narrowing)) ** 2.5
    depth = np.abs(grid.y / (np.float32(patient.body_y) * narrowing)) ** 2.5
    body = np.asarray(((across + depth) ** np.float32(0.4) - 1) * np.float32(patient.body_y), np.float32)
    paint(image, share=edge(body), value=20)
    texture = ValueNoise(seed=stable_seed(patient.seed, "tissue"), pitch_mm=9)(grid)
    paint(image, share=edge(body + 2), value=-105 + 8 * texture)
    wall = _wall_distance(grid, patient)
    muscle = np.minimum(wall - 13, _muscles(grid, patient))
    paint(image, share=edge(np.maximum(muscle, body + 3)), value=48 + 10 * texture)
    paint(image, share=edge(wall + 1), value=-20 + 35 * texture)
    abdomen = np.maximum(wall + 2, grid.z - anatomy.diaphragm_z(grid, patient))
    liver = np.where(grid.x < 25, 58.0, 42.0).astype(np.float32) + 0.2 * scene.protocol.contrast_hu
    paint(image, share=edge(abdomen), value=liver + 5 * texture)
    if scene.look.has_leads:
        lead = ellipsoid(grid, center=(20.0, -patient.body_y + 12, 62.0), radii=(4, 3, 5))
        paint(image, share=edge(lead), value=LEAD_HU)
    return image


def _muscles(grid: Grid, patient: Patient) -> FloatArray:
    """Return about the signed distance in mm to the muscles of back, chest and shoulder blades."""
    upper = np.where(anatomy.height_share(grid, patient) > 0.45, 0.0, 60.0).astype(np.float32)
    side_x = np.abs(grid.x)
    folded = Grid(z=np.zeros((1, 1, 1), np.float32), y=grid.y, x=side_x, edge_mm=grid.edge_mm)
    back = ellipsoid(folded, center=(0, patient.cavity_y + 7, 34), radii=(1e6, 17, 26))
    chest = ellipsoid(folded, center=(0, -0.78 * patient.cavity_y - 8, 72), radii=(1e6, 13, 48), turn=0.42)
    blade = ellipsoid(folded, center=(0, 0.72 * patient.cavity_y + 12, 100), radii=(1e6, 14, 42), turn=-0.65)
    return np.asarray(np.minimum(back, np.minimum(chest, blade) + upper), np.float32)


def _paint_mediastinum(image: FloatArray, *, grid: Grid, scene: _Scene, labels: Phantom, part: slice) -> None:
    """Paint heart, great vessels and esophagus, and label heart and esophagus."""
    patient = scene.patient
    blood = patient.blood_hu + scene.protocol.contrast_hu
    heart = anatomy.heart_distance(grid, patient)
    paint(image, share=occupancy(heart, edge_mm=grid.edge_mm), value=0.5 * (50 + blood))
    paint(image, share=occupancy(heart + 9, edge_mm=grid.edge_mm), value=blood)
    labels.heart[part] = heart < 0
    paint(image, share=tubes(grid, anatomy.great_vessels(patient)), value=blood)
    esophagus = tubes(grid, anatomy.esophagus(patient))
    paint(image, share=esophagus, value=34)
    labels.esophagus[part] = esophagus > 0.5


def _paint_bones(image: FloatArray, *, grid: Grid, patient: Patient) -> None:
    """Paint ribs, sternum, shoulder blades and vertebrae."""
    edge = partial(occupancy, edge_mm=grid.edge_mm)
    wall = _wall_distance(grid, patient)
    # Ribs slope down from back to front, every 25 mm.
    slope = grid.z + np.float32(0.5) * (np.float32(patient.spine_y) - grid.y)
    rib = np.hypot((np.mod(slope, 25) - 12.5) / 6.5, (wall - 7) / 4.5)
    top = np.maximum(grid.z - np.float32(patient.apex_z + 12), np.float32(12) - np.abs(grid.x))
    rib_mm = np.maximum((rib - 1) * np.float32(4.5), top).astype(np.float32)
    paint(image, share=edge(rib_mm), value=380)
    paint(image, share=edge(rib_mm + 2.2), value=190)
    sternum = ellipsoid(grid, center=(30.0, -patient.cavity_y - 6, 0.0), radii=(75, 6, 19))
    paint(image, share=edge(sternum), value=300)
    folded = Grid(z=grid.z, y=grid.y, x=np.abs(grid.x), edge_mm=grid.edge_mm)
    center = (patient.apex_z - 55, 0.72 * patient.cavity_y + 13, 100.0)
    paint(image, share=edge(ellipsoid(folded, center=center, radii=(70, 4.5, 34), turn=-0.65)), value=420)
    height = np.mod(grid.z + 300, 26)
    in_disc = edge((np.abs(height - 13) - 3).astype(np.float32))
    flat = Grid(z=np.zeros((1, 1, 1), np.float32), y=grid.y, x=grid.x, edge_mm=grid.edge_mm)
    body = ellipsoid(flat, center=(0, patient.spine_y, 0), radii=(1e6, 15, 18))
    paint(image, share=np.broadcast_to(edge(body), grid.shape), value=90 + 330 * (1 - in_disc))
    paint(image, share=np.broadcast_to(edge(body + 2.5), grid.shape), value=85 + 100 * (1 - in_disc))
    arch = np.abs(ellipsoid(flat, center=(0, patient.spine_y + 24, 0), radii=(1e6, 13, 14))) - 3
    process = ellipsoid(flat, center=(0, patient.spine_y + 46, 0), radii=(1e6, 13, 4))
    wing = ellipsoid(flat, center=(0, patient.spine_y + 30, 0), radii=(1e6, 4.5, 34))
    behind = np.minimum(arch, np.minimum(process, wing))
    paint(image, share=edge(behind) * (1 - 0.7 * in_disc), value=340)


def _paint_canal(image: FloatArray, *, grid: Grid, patient: Patient) -> BoolArray:
    """Paint the spinal canal with the cord, and return the mask of the cord."""
    flat = Grid(z=np.zeros((1, 1, 1), np.float32), y=grid.y, x=grid.x, edge_mm=grid.edge_mm)
    canal = ellipsoid(flat, center=(0, patient.spine_y + 24, 0), radii=(1e6, 9.5, 10.5))
    paint(image, share=occupancy(canal, edge_mm=grid.edge_mm), value=5)
    cord = tubes(grid, anatomy.spinal_cord(patient))
    paint(image, share=cord, value=38)
    return np.asarray(cord > 0.5)


def _paint_lungs(image: FloatArray, *, grid: Grid, lung_mm: FloatArray, scene: _Scene) -> None:
    """Paint aerated lung, denser towards the back, with its vessels."""
    patient = scene.patient
    share = occupancy(lung_mm, edge_mm=grid.edge_mm)
    texture = ValueNoise(seed=stable_seed(patient.seed, "lung texture"), pitch_mm=12)(grid)
    gravity = np.float32(32 / patient.cavity_y) * grid.y
    paint(image, share=share, value=patient.lung_hu + gravity + 14 * texture)
    vessels = tubes(grid, scene.vessels)
    paint(image, share=vessels * share, value=patient.blood_hu - 10 + 0.8 * scene.protocol.contrast_hu)


def _paint_airway(image: FloatArray, *, grid: Grid, patient: Patient) -> BoolArray:
    """Paint walls and lumen of trachea and main bronchi, and return the mask of the lumen."""
    lumen = anatomy.airway(patient)
    wall = [TubeSegment(start=s.start, end=s.end, radius_mm=s.radius_mm + 2) for s in lumen]
    paint(image, share=tubes(grid, wall), value=20)
    inside = tubes(grid, lumen)
    paint(image, share=inside, value=AIR_HU)
    return np.asarray(inside > 0.5)
