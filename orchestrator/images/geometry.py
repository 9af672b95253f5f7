"""Where the voxels of a volume lie in the patient, and whether image and mask agree on it.

Coordinates are those of DICOM and ITK: x grows to the patient's left, y to the back, z to the head (LPS).
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from orchestrator.images.problem import SourceError

ORIGIN_TOLERANCE_MM = 0.1
"""A tenth of a voxel or less in every data set; owners' tools round headers in the fourth digit."""
SPACING_TOLERANCE_MM = 0.001
DIRECTION_TOLERANCE = 0.001
"""Largest difference of a direction cosine."""
_EXACT = 1e-4
"""NIfTI keeps 32-bit numbers: a difference below this is no news."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """Grid of a volume, axes in ITK's order (x, y, z)."""

    size: tuple[int, ...]
    """Voxels along each axis."""
    spacing_mm: tuple[float, ...]
    """Distance between voxels along each axis."""
    origin_mm: tuple[float, ...]
    """Position of the first voxel in LPS coordinates."""
    direction: tuple[float, ...]
    """Direction cosines, 3 x 3 row by row; column i is the direction of axis i."""

    def to_lps(self) -> "Geometry":
        """Permute and flip the axes to run nearest to left, posterior and superior; no voxel changes its place."""
        matrix = np.asarray(self.direction).reshape(3, 3)
        axes = _nearest_axes(matrix)
        origin = np.asarray(self.origin_mm, dtype=float)
        columns = []
        for row, axis in enumerate(axes):
            column = matrix[:, axis]
            if column[row] < 0:
                origin = origin + column * self.spacing_mm[axis] * (self.size[axis] - 1)
                column = -column
            columns.append(column)
        return Geometry(
            size=tuple(self.size[axis] for axis in axes),
            spacing_mm=tuple(self.spacing_mm[axis] for axis in axes),
            origin_mm=tuple(float(value) for value in origin),
            direction=tuple(float(value) for value in np.stack(columns, axis=1).ravel()),
        )


def _nearest_axes(matrix: np.ndarray) -> tuple[int, int, int]:
    """Image axis nearest to each patient axis; the clearest match is taken first."""
    remaining = np.abs(matrix).astype(float)
    axes = [0, 0, 0]
    for _ in range(3):
        row, axis = divmod(int(remaining.argmax()), 3)
        axes[row] = axis
        remaining[row, :] = remaining[:, axis] = -1.0
    return axes[0], axes[1], axes[2]


def geometry_of(image: sitk.Image) -> Geometry:
    """Geometry of an image, or of an image file reader that has read its header."""
    return Geometry(
        size=tuple(image.GetSize()),
        spacing_mm=tuple(image.GetSpacing()),
        origin_mm=tuple(image.GetOrigin()),
        direction=tuple(image.GetDirection()),
    )


def orient_to_lps(image: sitk.Image) -> sitk.Image:
    """Permute and flip axes to LPS; intensities are never interpolated."""
    return sitk.DICOMOrient(image, "LPS")


def check_same_geometry(image: Geometry, mask: Geometry, *, image_name: str, mask_name: str) -> str | None:
    """Check that a mask lies on the grid of its image, both in LPS orientation.

    Returns
    -------
    str or None
        A note if the headers differ by rounding only, None if they are equal.

    Raises
    ------
    SourceError
        If size, spacing, origin or direction differ by more than the tolerances of this module.
    """
    for what, unit, found, expected, tolerance in (
        ("size", "voxels", mask.size, image.size, 0.0),
        ("spacing", "mm", mask.spacing_mm, image.spacing_mm, SPACING_TOLERANCE_MM),
        ("direction", "cosines", mask.direction, image.direction, DIRECTION_TOLERANCE),
        ("origin", "mm", mask.origin_mm, image.origin_mm, ORIGIN_TOLERANCE_MM),
    ):
        if not _largest_difference(found, expected) <= tolerance:
            raise SourceError.of(
                mask_name,
                found=f"a mask of {what} {_numbers(found)} {unit} in LPS",
                expected=f"{what} {_numbers(expected)} {unit} as of its image {image_name}",
                advice="Download image and mask again; if they stay different, they are not of one scan.",
            )
    noise = max(
        _largest_difference(mask.spacing_mm, image.spacing_mm),
        _largest_difference(mask.direction, image.direction),
        _largest_difference(mask.origin_mm, image.origin_mm),
    )
    if noise > _EXACT:
        return f"{mask_name}: header differs by {noise:.2g}, taken as rounding; given the geometry of its image"
    return None


def _largest_difference(found: tuple[float, ...], expected: tuple[float, ...]) -> float:
    return float(np.abs(np.subtract(found, expected, dtype=float)).max())


def _numbers(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.6g}" for value in values) if len(values) == 3 else ", ".join(f"{v:.4g}" for v in values)
