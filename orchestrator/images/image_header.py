"""What a header says of a volume, and what is checked of it whatever the format."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.images.geometry import Geometry, is_length, is_same_map, nearest_upright
from orchestrator.images.problem import Fault

_LARGEST_EDGE_MM = 100.0
"""Of a voxel whose header says metres: no image has it, and the numbers are mm."""
_ROUNDING = 1e-14
"""Share of a length: some operations on numbers of 64 bits."""
_MM_BY_UNIT = {
    **dict.fromkeys(("", "?", "???", "mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    "nm": 1e-6,
}
"""What says nothing is taken for mm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageHeader:
    """What a header says of a volume of one number a voxel."""

    geometry: Geometry
    """Its grid; of two axes it is one slice."""
    num_axes: int
    """2 or 3, without axes of one voxel behind the third."""
    dtype: np.dtype[np.generic]
    """Type of a stored number, with its byte order."""
    slope: float = 1.0
    """What a stored number is multiplied by."""
    intercept: float = 0.0
    """What is added to it then."""
    description: str = ""
    """A line of text that is kept with it."""
    notes: tuple[str, ...] = ()
    """What had to be decided to read it, one sentence each."""
    unit: str = "mm"
    """In which the header measures; its grid is in mm whatever it is."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.geometry.size) * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether stored numbers are not the values themselves."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def value_dtype(self) -> np.dtype[np.generic]:
        """Type of the values, in the byte order of this machine: float32 where they are scaled, as ITK has it."""
        if not self.is_scaled:
            return self.dtype.newbyteorder("=")
        return np.dtype(np.float64 if self.dtype.itemsize == 8 else np.float32)

    def voxels(self, content: NDArray[np.uint8], *, first_byte: int = 0) -> NDArray[np.generic]:
        """Return a view (z, y, x) of the bytes of a file."""
        flat = np.frombuffer(content, self.dtype, count=math.prod(self.geometry.size), offset=first_byte)
        return flat.reshape(self.geometry.size[::-1])


def volume_header(
    *,
    extents: Sequence[int],
    dtype: np.dtype[np.generic],
    steps: NDArray[np.float64],
    origin: Sequence[float],
    unit: str = "mm",
    spacing: Sequence[float] | None = None,
) -> ImageHeader:
    """Check what a header says of the grid, and return it.

    Parameters
    ----------
    extents
        Voxels along each axis, 1 to 3 of them, without further axes of one voxel.
    dtype
        Of a stored number.
    steps
        From a voxel to the next along each axis, in LPS: shape (3, axes), a column an axis.
    origin
        Position of the first voxel in LPS.
    unit
        Of these lengths.
    spacing
        Distance of voxels along each axis; None where nothing but the steps tells it.
    """
    if len(extents) not in {2, 3} or min(extents) < 1:
        raise not_one_volume(tuple(extents))
    scale = _mm_of(unit)
    if len(extents) == 2:
        steps = _with_normal(steps)
    lengths = _lengths(steps, origin, spacing=spacing)
    spacing_mm = lengths if scale == 1.0 else _unrounded(scale * lengths)
    check_unit(spacing_mm[: len(extents)], unit=unit, scale=scale)
    size = (*extents, 1)[:3]
    upright = nearest_upright(steps / lengths) * lengths
    if not is_same_map(np.column_stack([steps, origin]), np.column_stack([upright, origin]), size=size):
        raise sheared(steps / lengths)
    return ImageHeader(
        geometry=Geometry(
            size=size,
            spacing_mm=tuple(spacing_mm.tolist()),
            origin_mm=tuple((scale * np.asarray(origin, dtype=float)).tolist()),
            direction=tuple((steps / lengths).ravel().tolist()),
        ),
        num_axes=len(extents),
        dtype=dtype,
        notes=() if scale == 1.0 else (f"its header measures in {unit}, converted to mm",),
        unit="mm" if scale == 1.0 else unit,
    )


def not_one_volume(extents: tuple[int, ...], *, num_values: int = 1) -> Fault:
    """Return the fault of a file that holds other than one volume of one number a voxel."""
    size = " x ".join(map(str, extents))
    return Fault(
        f"a {len(extents)}D image of size {size} with {num_values} values a voxel: {len(extents)} axes",
        expected="a 3D volume with one value a voxel",
        advice="Write one volume a file; check that it is the file of this case.",
    )


def check_unit(spacing_mm: NDArray[np.float64], *, unit: str, scale: float) -> None:
    """Raise Fault for voxels that only a unit larger than mm makes larger than any image has."""
    if scale > 1.0 and spacing_mm.max() > _LARGEST_EDGE_MM:
        edges = " x ".join(f"{edge:g}" for edge in spacing_mm)
        raise Fault(
            f"voxels of {edges} mm, since its header measures in {unit}",
            expected="a unit that fits the numbers",
            advice="They are mm, most likely: write that unit into its header (of NIfTI xyzt_units 2).",
        )


def sheared(cosines: NDArray[np.float64]) -> Fault:
    """Return the fault of axes that are not at right angles to each other."""
    angles = np.degrees(np.arccos(np.clip(cosines.T @ cosines, -1.0, 1.0)))
    return Fault(
        f"sheared axes, at {angles[0, 1]:.2f}, {angles[0, 2]:.2f} and {angles[1, 2]:.2f} degrees (x y, x z, y z)",
        expected="axes at right angles to each other",
        advice="Resample image and masks to such, for example with SimpleITK.Resample; CT of a tilted gantry is such.",
    )


@np.errstate(all="ignore")  # what overflows is found to be none
def _lengths(
    steps: NDArray[np.float64], origin: Sequence[float], *, spacing: Sequence[float] | None
) -> NDArray[np.float64]:
    """Return the sizes of voxels along each axis; raises Fault for what is no number or no size."""
    lengths = _unrounded(np.linalg.norm(steps, axis=0))
    if spacing is not None:
        lengths[: len(spacing)] = np.abs(spacing)
    if not (np.isfinite(steps).all() and np.isfinite(origin).all() and all(map(is_length, lengths))):
        raise Fault(
            f"axes {steps.T.tolist()} from {list(origin)}",
            expected="finite numbers, and sizes of voxels above 0",
            advice="Write its header again with the right values.",
        )
    return lengths


def _unrounded(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers of 12 digits for those that are such but for rounding.

    What is calculated of an oblique axis or in another unit is often the next number to what somebody wrote, and a
    surface that is exactly as far away as the tolerance would be farther.
    """
    shortest = np.array([float(f"{length:.12g}") for length in lengths])
    return np.where(np.abs(lengths - shortest) <= _ROUNDING * lengths, shortest, lengths)


def _mm_of(unit: str) -> float:
    """Return how many mm a unit has; raises Fault for one that is not known."""
    mm = _MM_BY_UNIT.get(unit.strip().lower())
    if mm is None:
        raise Fault(
            f"lengths in {unit[:80]!r}", expected="mm, um, nm, cm or m", advice="Write its header again in one of them."
        )
    return mm


def _with_normal(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the steps along the axes of a plane, and 1 mm across it."""
    normal = np.cross(steps[:, 0], steps[:, 1])
    return np.column_stack([steps, normal / (np.linalg.norm(normal) or 1.0)])
