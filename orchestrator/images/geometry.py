"""Where the voxels of a volume lie in the patient, and the one rule by which two descriptions of it are the same.

Coordinates are those of DICOM and ITK: x grows to the patient's left, y to the back, z to the head (LPS).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.images.problem import SourceError

Scalar = TypeVar("Scalar", bound=np.generic)

TOLERANCE_VOXELS = 0.05
"""How far two grids may lie apart where they lie nearest, in the shortest edge of a voxel: nothing that is measured
depends on so little, and every mistake known (half a voxel, a slice, another series) is ten times as large."""
TOLERANCE_DRIFT = 5e-4
"""How much farther their corners may lie apart, as a share of the diagonal: old tools write a spacing or a cosine with
four digits, and that adds up from one end of the volume to the other."""
_NEWS = 1e-4
"""Relative difference of single numbers that is worth to be named; NIfTI keeps numbers of 32 bits."""
_UPRIGHT = 1e-6
"""Cosine of the angle of two axes that is a right one beyond doubt."""
_LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))


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

    @property
    def affine(self) -> NDArray[np.float64]:
        """Map of an index (x, y, z) to a position in mm, shape (3, 4)."""
        steps = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing_mm, dtype=float)
        return np.column_stack([steps, self.origin_mm])

    @property
    def orientation(self) -> str:
        """Where each axis runs to, as nibabel and ITK name it: `LPS` to the left, the back and the head."""
        matrix = np.reshape(self.direction, (3, 3))
        rows = np.argsort(_nearest_axes(matrix))
        return "".join(_LETTERS[row][int(matrix[row, axis] < 0)] for axis, row in enumerate(rows))

    def to_lps(self) -> "Geometry":
        """Permute and flip the axes to run nearest to left, posterior and superior; no voxel changes its place."""
        return axis_order(self, np.eye(3)).geometry(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisOrder:
    """A permutation and flips of the axes of a volume."""

    axes: tuple[int, ...]
    """Which axis of (x, y, z) becomes the first, the second and the third."""
    flipped: tuple[bool, ...]
    """Whether each of these runs backwards then."""

    @property
    def changes_nothing(self) -> bool:
        """Whether every axis stays as it is."""
        return self.axes == (0, 1, 2) and not any(self.flipped)

    def array(self, voxels: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return a view of an array (z, y, x) in this order."""
        ordered = voxels.transpose([2 - axis for axis in reversed(self.axes)])
        return ordered[tuple(slice(None, None, -1 if flip else None) for flip in reversed(self.flipped))]

    def geometry(self, geometry: Geometry) -> Geometry:
        """Return the grid in this order: every voxel keeps its place in the patient."""
        matrix = np.reshape(geometry.direction, (3, 3))
        origin = np.asarray(geometry.origin_mm, dtype=float)
        columns = []
        for axis, flip in zip(self.axes, self.flipped, strict=True):
            column = matrix[:, axis]
            if flip:
                origin = origin + column * geometry.spacing_mm[axis] * (geometry.size[axis] - 1)
                column = -column
            columns.append(column)
        return Geometry(
            size=tuple(geometry.size[axis] for axis in self.axes),
            spacing_mm=tuple(geometry.spacing_mm[axis] for axis in self.axes),
            origin_mm=tuple(float(value) for value in origin),
            direction=tuple(float(value) for value in np.stack(columns, axis=1).ravel()),
        )


def axis_order(found: Geometry, along: NDArray[np.float64]) -> AxisOrder:
    """Return the order in which the axes of a grid run nearest to other directions, the columns of a 3 x 3 matrix."""
    matrix = along.T @ np.reshape(found.direction, (3, 3))
    axes = _nearest_axes(matrix)
    return AxisOrder(axes=axes, flipped=tuple(bool(matrix[row, axis] < 0) for row, axis in enumerate(axes)))


def order_onto(expected: Geometry, found: Geometry) -> AxisOrder:
    """Return the order in which the axes of one grid run along those of another."""
    return axis_order(found, np.reshape(expected.direction, (3, 3)))


def _nearest_axes(matrix: NDArray[np.float64]) -> tuple[int, int, int]:
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


def placed(image: sitk.Image, geometry: Geometry) -> sitk.Image:
    """Give an image spacing, origin and direction of a grid, and return it."""
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image


def orient_to_lps(image: sitk.Image) -> sitk.Image:
    """Permute and flip axes to LPS; intensities are never interpolated."""
    return sitk.DICOMOrient(image, "LPS")


def lps_order(grid: Geometry) -> AxisOrder:
    """Return the order of axes that `orient_to_lps` gives an image, also where axes stand at 45 degrees."""
    voxel = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    voxel.SetDirection(grid.direction)
    return axis_order(grid, np.reshape(orient_to_lps(voxel).GetDirection(), (3, 3)))


def reordered(image: sitk.Image, order: AxisOrder) -> sitk.Image:
    """Return an image in another order of axes; beside it there is never more than this one copy in memory.

    ITK's own filter has two. Its origin may differ in the last digit.
    """
    if order.changes_nothing:
        return image
    made = sitk.GetImageFromArray(order.array(sitk.GetArrayViewFromImage(image)))
    return placed(made, order.geometry(geometry_of(image)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Displacement:
    """How far the corners of a volume lie apart by two maps of its indices."""

    largest_mm: float
    """Of the eight corners; NaN if one of the maps is none."""
    largest_voxels: float
    """The same in the shortest edge of a voxel."""
    is_rounding: bool
    """Whether numbers of four digits explain it."""


def displacement(
    expected: NDArray[np.float64], found: NDArray[np.float64], *, size: tuple[int, ...], more_mm: float = 0.0
) -> Displacement:
    """Compare two maps of the indices (x, y, z) of a volume to positions in mm.

    The corners are those of the outermost voxels, not their centres, so that the thickness of a single slice counts.
    Both maps must agree at one corner at least to TOLERANCE_VOXELS, and at the others to TOLERANCE_DRIFT of the
    diagonal beside: a shift is never rounding, numbers that add up may be.

    Parameters
    ----------
    expected, found
        Affine maps, shape (3, 4).
    size
        Voxels along (x, y, z).
    more_mm
        What is allowed in addition, for numbers that are known to be less exact.
    """
    corners = np.array([[*corner, 1.0] for corner in product(*((-0.5, extent - 0.5) for extent in size))])
    apart_mm = np.linalg.norm(corners @ (found - expected).T, axis=1)
    edge_mm = float(np.linalg.norm(expected[:, :3], axis=0).min())
    diagonal_mm = float(np.linalg.norm(expected[:, :3] @ np.asarray(size, dtype=float)))
    nearest_mm, allowed_mm = apart_mm.min(), TOLERANCE_VOXELS * edge_mm
    return Displacement(
        largest_mm=float(apart_mm.max()),
        largest_voxels=float(apart_mm.max() / edge_mm) if edge_mm else float("inf"),
        # Written so that NaN fails as well.
        is_rounding=bool(
            nearest_mm <= allowed_mm and apart_mm.max() <= allowed_mm + TOLERANCE_DRIFT * diagonal_mm + more_mm
        ),
    )


def is_length(step_mm: float) -> bool:
    """Whether a voxel can have this edge, of any modality: NaN, 0 and what only overflows is none."""
    return 1e-9 < step_mm < 1e9


def is_same_map(
    expected: NDArray[np.float64], found: NDArray[np.float64], *, size: tuple[int, ...], more_mm: float = 0.0
) -> bool:
    """Whether two maps differ by rounding only, as `displacement` has it; quick for those that are nearly equal."""
    largest_mm = float((np.abs(found - expected) @ np.array((*size, 1.0))).sum())
    if largest_mm <= TOLERANCE_VOXELS * math.sqrt(float((expected[:, :3] ** 2).sum(axis=0).min())):
        return True
    return displacement(expected, found, size=size, more_mm=more_mm).is_rounding


def nearest_upright(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the axes at right angles to each other that are nearest to others: columns of length 1, finite."""
    if np.abs(cosines.T @ cosines - np.eye(3)).max() < _UPRIGHT:
        return cosines
    left, _, right = np.linalg.svd(cosines)
    upright: NDArray[np.float64] = left @ right
    return upright


@dataclass(frozen=True, kw_only=True, slots=True)
class DifferentPart:
    """A part of two grids that differs."""

    name: str
    """Size, spacing, direction or origin."""
    unit: str
    found: tuple[float, ...]
    expected: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GridDifference:
    """Why two volumes do not lie on one grid."""

    parts: tuple[DifferentPart, ...]
    """Which parts differ."""
    apart: Displacement | None
    """None if already the sizes differ."""

    @property
    def words(self) -> str:
        """All of it in one line."""
        named = {"size": "size (x, y, z)", "spacing": "spacing (x, y, z) in mm", "origin": "origin in mm"}
        parts = [
            f"{named.get(part.name, part.name)} {_tuple(part.found)}, expected {_tuple(part.expected)}"
            for part in self.parts
        ]
        return "; ".join([*parts, *([self.distance] if self.apart else [])])

    @property
    def distance(self) -> str:
        """How far apart they lie; empty if already the sizes differ."""
        if self.apart is None:
            return ""
        return f"voxels lie up to {self.apart.largest_mm:.3g} mm ({self.apart.largest_voxels:.2g} voxels) apart"


@np.errstate(all="ignore")
def grid_difference(expected: Geometry, found: Geometry) -> GridDifference | None:
    """Return how two grids differ by more than rounding, None if they do not; axes in another order do differ."""
    if found.size == expected.size and is_same_map(expected.affine, found.affine, size=expected.size):
        return None
    smallest_mm = _NEWS * min(expected.spacing_mm)
    parts = tuple(
        DifferentPart(name=name, unit=unit, found=found_values, expected=expected_values)
        for name, unit, found_values, expected_values, rounding in (
            ("size", "voxels", found.size, expected.size, 0.0),
            ("spacing", "mm", found.spacing_mm, expected.spacing_mm, smallest_mm),
            ("direction", "cosines", found.direction, expected.direction, _NEWS),
            ("origin", "mm", found.origin_mm, expected.origin_mm, smallest_mm),
        )
        if not _largest_difference(found_values, expected_values) <= rounding
    )
    if found.size != expected.size:
        return GridDifference(parts=parts, apart=None)
    return GridDifference(parts=parts, apart=displacement(expected.affine, found.affine, size=expected.size))


def check_same_geometry(image: Geometry, mask: Geometry, *, image_name: str, mask_name: str) -> str | None:
    """Check that a mask lies on the grid of its image, both in LPS orientation.

    Returns
    -------
    str or None
        A note if the headers differ by rounding only, None if they are equal.

    Raises
    ------
    SourceError
        If it does not, by the rule of this module.
    """
    difference = grid_difference(image, mask)
    if difference is not None:
        found = described((part.name, part.unit, part.found) for part in difference.parts)
        wanted = described((part.name, part.unit, part.expected) for part in difference.parts)
        raise SourceError.of(
            mask_name,
            found=f"a mask of {found} in LPS",
            expected=f"{wanted} as of its image {image_name}{f' ({difference.distance})' if difference.apart else ''}",
            advice="Take image and mask of one scan; if they are, write the geometry of the image into the mask.",
        )
    apart = displacement(image.affine, mask.affine, size=image.size)
    if apart.largest_voxels <= _NEWS:
        return None
    return (
        f"{mask_name}: header differs by {apart.largest_mm:.2g} mm, taken as rounding; given the geometry of its image"
    )


def described(parts: Iterable[tuple[str, str, tuple[float, ...]]]) -> str:
    """Return parts of a grid (name, unit, values) in words: `spacing 1.5 x 2 x 5 mm, origin 0 x 0 x 30 mm`."""
    return ", ".join(f"{name} {_numbers(values)} {unit}" for name, unit, values in parts)


def _largest_difference(found: tuple[float, ...], expected: tuple[float, ...]) -> float:
    return float(np.abs(np.subtract(found, expected, dtype=float)).max())


def _numbers(values: tuple[float, ...]) -> str:
    digits, between = (6, " x ") if len(values) == 3 else (4, ", ")
    # To add 0 makes 0 of -0.
    return between.join(f"{value + 0.0:.{digits}g}" for value in values)


def _tuple(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value + 0.0:.6g}' for value in values)})"
