"""How each data set's scanners see a patient: field of view, slices, kernel, noise, contrast agent, window."""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from orchestrator.phantoms.patient import Patient
from orchestrator.phantoms.shapes import FloatArray, Grid, centred_grid, stable_seed

FULL_MATRIX = 512
"""Pixels of a full-resolution slice along x and y."""
WINDOW_HU = (-1250.0, 250.0)
"""Window of the radiopaedia volumes, scaled to 0 ... 255."""
AIR_HU = -1000.0
OUTSIDE_HU = -1024.0
"""Outside the round field of view."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannerLook:
    """The look of one data set's images."""

    name: str
    """For example `coronacases`."""
    slice_mm: tuple[float, float]
    """Range of full-resolution slice spacings."""
    coarse_in_plane: tuple[float, float] = (0.95, 1.05)
    """Range of in-plane spacings of small phantoms, as a share of the spacing asked for."""
    coarse_slice: tuple[float, float] = (0.95, 1.05)
    """The same for the slices."""
    coarse_slice_min_mm: float = 0.0
    """Slices of small phantoms are at least this thick."""
    field_of_view: tuple[float, float] = (1.05, 1.15)
    """Range of the field of view as a share of the body's width."""
    reach_mm: tuple[float, float] = (25.0, 45.0)
    """How far the scan goes below and above the lungs."""
    blur_mm: float = 0.8
    """Standard deviation of the kernel: large is smooth."""
    sharpening: float = 0.0
    """Share of unsharp masking that a lung kernel adds."""
    noise_hu: float = 18.0
    """Standard deviation of the noise in a voxel of 1 mm."""
    contrast_hu: tuple[float, float] = (0.0, 0.0)
    """Range of what a contrast agent adds to blood."""
    offset_hu: float = 0.0
    """Calibration of the scanner."""
    is_windowed: bool = False
    """Whether the volume is windowed to 0 ... 255 instead of HU."""
    has_leads: bool = False
    """Whether metal leads lie on the skin (up to about 8000 HU)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """One scan: where its voxels lie, and how much contrast agent was given."""

    shape: tuple[int, int, int]
    """(Z, Y, X)."""
    spacing_mm: tuple[float, float, float]
    """(z, y, x)."""
    contrast_hu: float
    """What a contrast agent adds to blood."""

    def grid(self) -> Grid:
        """Return the voxel centres."""
        return centred_grid(shape=self.shape, spacing_mm=self.spacing_mm)


LOOKS = {
    look.name: look
    for look in (
        ScannerLook(name="coronacases", slice_mm=(1.0, 1.5), sharpening=0.4, noise_hu=28, has_leads=True),
        ScannerLook(
            name="radiopaedia",
            slice_mm=(2.5, 4.0),
            coarse_slice=(1.0, 1.15),
            blur_mm=1.1,
            noise_hu=16,
            is_windowed=True,
        ),
        ScannerLook(
            name="structseg",
            slice_mm=(5.0, 5.0),
            coarse_in_plane=(1.0, 1.1),
            coarse_slice=(1.05, 1.15),
            field_of_view=(1.2, 1.3),
            reach_mm=(40, 55),
            blur_mm=1.4,
            noise_hu=14,
            contrast_hu=(0, 60),
            offset_hu=-10,
        ),
        ScannerLook(
            name="nsclc",
            slice_mm=(3.0, 3.0),
            coarse_in_plane=(1.0, 1.15),
            field_of_view=(1.2, 1.35),
            reach_mm=(30, 50),
            blur_mm=1.2,
            noise_hu=24,
            contrast_hu=(0, 110),
        ),
        ScannerLook(
            name="msd",
            slice_mm=(1.25, 2.5),
            coarse_in_plane=(0.9, 1.0),
            blur_mm=0.7,
            sharpening=0.25,
            noise_hu=32,
            contrast_hu=(60, 130),
            offset_hu=8,
        ),
        ScannerLook(
            name="mosmed",
            slice_mm=(8.0, 8.0),
            coarse_slice=(1.0, 1.0),
            coarse_slice_min_mm=8.0,
            field_of_view=(0.98, 1.06),
            reach_mm=(15, 30),
            sharpening=0.3,
            noise_hu=20,
        ),
    )
}


def draw_protocol(seed: int, *, patient: Patient, look: ScannerLook, spacing_mm: float | None) -> Protocol:
    """Return the voxels of one scan.

    Parameters
    ----------
    spacing_mm : in-plane spacing of a small phantom, varied by the data set; None is full resolution, 512 x 512.
    """
    rng = np.random.default_rng(stable_seed(seed, "protocol"))
    width = 2 * patient.body_x * rng.uniform(*look.field_of_view)
    in_plane, between = rng.uniform(*look.coarse_in_plane), rng.uniform(*look.coarse_slice)
    slice_mm = rng.uniform(*look.slice_mm)
    below, above = rng.uniform(0.9, 1.1, 2) * look.reach_mm
    contrast = float(rng.uniform(*look.contrast_hu))
    if spacing_mm is None:
        num, edge = FULL_MATRIX, round(width / FULL_MATRIX, 6)
    else:
        edge = round(spacing_mm * in_plane, 4)
        slice_mm = max(spacing_mm * between, look.coarse_slice_min_mm)
        num = max(8, round(width / edge))
    slice_mm = round(float(slice_mm), 4)
    num_slices = max(4, round((patient.lung_height + below + above) / slice_mm))
    return Protocol(shape=(num_slices, num, num), spacing_mm=(slice_mm, edge, edge), contrast_hu=contrast)


def acquire(image: FloatArray, *, grid: Grid, look: ScannerLook, seed: int, first_slice: int) -> FloatArray:
    """Return what the scanner records of a slab: kernel, correlated noise and the round field of view, in HU.

    Each slice has its own noise, so a slab is the same however a volume is cut into slabs.
    """
    pixel_mm = float(grid.x[0, 0, 1] - grid.x[0, 0, 0])
    blur = look.blur_mm / pixel_mm
    seen = scipy.ndimage.gaussian_filter(image, (0, blur, blur), mode="nearest") if blur > 0.25 else image.copy()
    if look.sharpening:
        wide = 1.5 * max(blur, 0.5)
        seen += look.sharpening * (seen - scipy.ndimage.gaussian_filter(seen, (0, wide, wide), mode="nearest"))
    # A voxel of 6 mm averages noise away, but not as fast as independent noise would.
    strength = look.noise_hu / max(1.0, grid.edge_mm) ** 0.5
    for index in range(len(seen)):
        noise = np.random.default_rng(stable_seed(seed, "noise", first_slice + index)).standard_normal(
            seen.shape[1:], dtype=np.float32
        )
        if blur > 0.25:
            noise = scipy.ndimage.gaussian_filter(noise, blur, mode="wrap")
            noise /= max(float(noise.std()), 1e-6)
        seen[index] += np.float32(strength) * noise
    seen += np.float32(look.offset_hu)
    radius = np.hypot(grid.y, grid.x) - grid.x.max()
    return np.where(radius > pixel_mm, np.float32(OUTSIDE_HU), np.maximum(seen, OUTSIDE_HU))


def window(image: FloatArray) -> FloatArray:
    """Return HU mapped from [-1250, 250] to [0, 255], clipped."""
    low, high = WINDOW_HU
    return np.asarray(np.clip((image - low) / (high - low), 0, 1) * 255, np.float32)
