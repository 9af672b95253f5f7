"""What MetaImage and NRRD have in common: a header of lines that says where the voxels are, here or in another file."""

import errno
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.images.geometry import Geometry, is_length, is_same_map, nearest_upright
from orchestrator.images.nifti import check_finite
from orchestrator.images.nifti_header import check_unit, not_one_volume, sheared
from orchestrator.images.problem import Fault
from orchestrator.images.stored_voxels import (
    Encoding,
    ImageHeader,
    ReadBuffer,
    check_room,
    expand,
    largest_stored,
    read_at_most,
    too_long,
)

LARGEST_HEADER = 1 << 20
_MM_BY_UNIT = {
    **dict.fromkeys(("", "?", "???", "mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    "nm": 1e-6,
}
"""What says nothing is taken for mm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredVoxels:
    """What a header says of the bytes of the voxels."""

    path: Path
    """The file that they are in."""
    encoding: Encoding
    first_byte: int
    """In that file."""
    num_lines: int = 0
    """To be skipped behind that."""
    num_skipped: int = 0
    """Bytes to be skipped, of what is expanded; -1: whatever is before the last of them."""


def read_voxels(stored: StoredVoxels, header: ImageHeader, buffer: ReadBuffer) -> NDArray[np.generic]:
    """Read the voxels (z, y, x) of a volume; raises Fault."""
    try:
        is_there = stored.path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        is_there = False
    if not is_there:
        raise Fault(
            f"a header whose voxels are in {stored.path.name:.80}, which is no file",
            expected="one file beside it",
            advice="Put it there.",
        )
    if stored.encoding is Encoding.TEXT:
        return _read_text(stored, header)
    ahead = max(0, stored.num_skipped)
    num_bytes = header.num_bytes + ahead
    limit = largest_stored(num_bytes, encoding=stored.encoding)
    num_stored = stored.path.stat().st_size - stored.first_byte
    check_room(num_bytes, num_stored=max(0, num_stored), encoding=stored.encoding)
    with stored.path.open("rb") as file:
        file.seek(stored.first_byte)
        for _ in range(stored.num_lines):
            file.readline(LARGEST_HEADER)
        if stored.num_skipped < 0 and stored.encoding is Encoding.RAW:
            file.seek(-num_bytes, 2)
        content = read_at_most(file, limit + 1)
    if len(content) > limit:
        raise too_long(num_bytes)
    expanded = expand(content, encoding=stored.encoding, num_bytes=num_bytes, buffer=buffer)
    voxels = header.voxels(expanded, first_byte=ahead if stored.num_skipped >= 0 else expanded.size - num_bytes)
    check_finite(voxels)
    return voxels


def _read_text(stored: StoredVoxels, header: ImageHeader) -> NDArray[np.generic]:
    """Read numbers that are written out."""
    num_voxels = math.prod(header.geometry.size)
    check_room(num_voxels, num_stored=stored.path.stat().st_size, encoding=stored.encoding)
    limit = largest_stored(num_voxels, encoding=stored.encoding)
    with stored.path.open("rb") as file:
        file.seek(stored.first_byte)
        for _ in range(stored.num_lines):
            file.readline(LARGEST_HEADER)
        content = read_at_most(file, limit + 1)
    if len(content) > limit:
        raise too_long(num_voxels)
    numbers = content.replace(b",", b" ").split()
    if len(numbers) != num_voxels:
        raise Fault(f"{len(numbers)} numbers", expected=f"{num_voxels} by its header", advice="Write it again.")
    try:
        voxels = np.array(numbers).astype(header.dtype.newbyteorder("="))
    except ValueError as error:
        raise Fault(f"voxels that are no numbers ({error})", expected="numbers", advice="Write it again.") from error
    check_finite(voxels)
    return voxels.reshape(header.geometry.size[::-1])


def fields_once(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the fields of a header by name; raises Fault if one is there twice and says something else."""
    found: dict[str, str] = {}
    for name, value in fields:
        if found.setdefault(name, value) != value:
            raise Fault(
                f"{name} = {found[name][:80]!r} and {name} = {value[:80]!r} in one header",
                expected="one of them",
                advice="Remove the wrong one.",
            )
    return found


@np.errstate(all="ignore")  # what overflows is found to be none
def _lengths(steps: NDArray[np.float64], origin: Sequence[float]) -> NDArray[np.float64]:
    """Return the sizes of voxels along each axis; raises Fault for what is no number or no size."""
    lengths: NDArray[np.float64] = np.linalg.norm(steps, axis=0)
    if not (np.isfinite(steps).all() and np.isfinite(origin).all() and all(map(is_length, lengths))):
        raise Fault(
            f"axes {steps.T.tolist()} from {list(origin)}",
            expected="finite numbers, and sizes of voxels above 0",
            advice="Write its header again with the right values.",
        )
    return lengths


def volume_header(
    *,
    extents: Sequence[int],
    dtype: np.dtype[np.generic],
    steps: NDArray[np.float64],
    origin: Sequence[float],
    unit: str = "mm",
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
    """
    if len(extents) not in {2, 3} or min(extents) < 1:
        raise not_one_volume(tuple(extents))
    scale = _MM_BY_UNIT.get(unit.strip().lower())
    if scale is None:
        raise Fault(
            f"lengths in {unit[:80]!r}", expected="mm, um, nm, cm or m", advice="Write its header again in one of them."
        )
    if len(extents) == 2:
        normal = np.cross(steps[:, 0], steps[:, 1])
        steps = np.column_stack([steps, normal / (np.linalg.norm(normal) or 1.0)])
    lengths = _lengths(steps, origin)
    check_unit(scale * lengths[: len(extents)], unit=unit, scale=scale)
    size = (*extents, 1)[:3]
    upright = nearest_upright(steps / lengths) * lengths
    if not is_same_map(np.column_stack([steps, origin]), np.column_stack([upright, origin]), size=size):
        raise sheared(steps / lengths)
    return ImageHeader(
        geometry=Geometry(
            size=size,
            spacing_mm=tuple((scale * lengths).tolist()),
            origin_mm=tuple((scale * np.asarray(origin, dtype=float)).tolist()),
            direction=tuple((steps / lengths).ravel().tolist()),
        ),
        num_axes=len(extents),
        dtype=dtype,
        notes=() if scale == 1.0 else (f"its header measures in {unit}, converted to mm",),
    )
