"""A chest of ellipses in HU, seen as in a CT, whose lungs are not alike from any two sides."""

import numpy as np
import SimpleITK as sitk

SHAPE = (40, 64, 64)
SPACING_MM = (5.0, 5.0, 5.0)


def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """Mask of an ellipsoid; centre and radii in voxels (z, y, x)."""
    grid = np.indices(SHAPE, dtype=float)
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True)) <= 1


def lungs() -> np.ndarray:
    """1 left, at larger x, smaller by the heart; 2 right. Both are wider at the bottom and nearer to the front."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, x, radius in ((2, 20, 10), (1, 44, 9)):
        labels[ellipsoid((22, 29, x), (14, 12, radius))] = label
        labels[ellipsoid((13, 26, x), (7, 13, radius))] = label
    labels[ellipsoid((14, 22, 38), (9, 8, 8))] = 0
    return labels


def ct() -> np.ndarray:
    """Air at -1000, a body at 40 with a fat skin at -100, lungs at -850, a spine and ribs at 700, noise of 20 HU."""
    voxels = np.full(SHAPE, -1000.0)
    voxels[:, ellipsoid((0, 32, 32), (1, 26, 31))[0]] = -100
    voxels[:, ellipsoid((0, 32, 32), (1, 24, 29))[0]] = 40
    voxels[lungs() > 0] = -850
    voxels[:, 50:54, 29:35] = 700
    noise = np.random.default_rng(0).normal(0, 20, SHAPE)
    return np.clip(voxels + noise, -1024, 3071).round().astype(np.int16)


def effusion() -> np.ndarray:
    """Mask of fluid in the back of the right lung, a quarter of both."""
    grid = np.indices(SHAPE)
    return (lungs() == 2) & (grid[1] > 29)


def volume(voxels: np.ndarray) -> sitk.Image:
    """Image of this grid."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING_MM)
    return image
