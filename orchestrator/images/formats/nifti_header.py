"""Headers of NIfTI-1 and NIfTI-2: every number that the voxels or their places depend on is checked, and refused aloud.

A header says up to three times where voxels lie: pixdim (only how large they are), qform and sform. Tools choose
differently between them, so all that are given must be the same map, by the rule of `geometry`; rounding is none.
"""

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.images.geometry import (
    Geometry,
    described,
    displacement,
    grid_difference,
    is_length,
    is_same_map,
    nearest_upright,
)
from orchestrator.images.image_header import ImageHeader, check_unit, not_one_volume, sheared
from orchestrator.images.problem import Fault

NUM_BYTES = 544
"""The longest header, with the mark of extensions behind."""
_NUMBERS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_OTHER_TYPES = {1: "bits", 32: "complex", 128: "RGB", 1536: "float128", 1792: "complex", 2048: "complex", 2304: "RGBA"}
_MM_BY_UNIT = {1: 1000.0, 3: 1e-3}
"""Metre and micron, in the lowest three bits; 2 is mm, and what says nothing is taken for mm by all tools."""
_UNIT_NAMES = {1: "metres", 3: "microns"}
_FLOAT32_ROUNDING = 2.5e-7
"""Of b^2 + c^2 + d^2 of a quaternion in 32 bits."""
_NOT_NORMALISED = 1e-3
"""More than old tools' four digits make of it."""
_RAS_TO_LPS = np.array([[-1.0], [-1.0], [1.0]])


@dataclass(frozen=True, kw_only=True, slots=True)
class NiftiHeader(ImageHeader):
    """The header of a volume, and where its voxels begin."""

    first_byte: int
    """Of the voxels."""
    version: int
    """1 or 2."""

    @property
    def num_file_bytes(self) -> int:
        """Of header, extensions and voxels."""
        return self.first_byte + self.num_bytes


_Fields = dict[str, Any]
"""Of a header, by name: numbers and tuples of them."""


@np.errstate(all="ignore")  # what overflows is found to be none
def parse_header(content: bytes) -> NiftiHeader:
    """Read the first NUM_BYTES bytes of a file.

    Raises
    ------
    Fault
        If it is no NIfTI header, holds no volume of one number a voxel, or contradicts itself.
    """
    fields = _fields(content)
    num_axes, size = _size(fields)
    if fields["magic"][:3] in {b"ni1", b"ni2"}:
        raise _fault("a header whose voxels are in another file (.img)", expected="a single file (.nii, .nii.gz)")
    scale, unit = _MM_BY_UNIT.get(fields["units"] & 7, 1.0), _UNIT_NAMES.get(fields["units"] & 7, "mm")
    notes = []
    if unit != "mm":
        notes.append(f"its header measures in {unit}, converted to mm")
    pixdim = _pixdim(fields, num_axes=num_axes)
    check_unit(np.multiply(pixdim, scale)[:num_axes], unit=unit, scale=scale)
    geometry, has_position = _geometry(fields, size=size, pixdim=pixdim, scale=scale)
    if not has_position:
        notes.append(
            "its header gives neither position nor orientation (qform_code and sform_code 0), taken as ITK does for "
            "axes to the left, the back and the head"
        )
    slope, intercept = _scaling(fields)
    return NiftiHeader(
        geometry=geometry,
        num_axes=num_axes,
        dtype=_dtype(fields),
        slope=slope,
        intercept=intercept,
        description=fields["descrip"].split(b"\0")[0].decode("utf-8", "replace"),
        notes=tuple(notes),
        unit=unit,
        first_byte=_first_byte(fields),
        version=int(fields["magic"][2:3]),
    )


def _fault(found: str, *, expected: str, advice: str = "Write its header again with the right values.") -> Fault:
    return Fault(found, expected=expected, advice=advice)


def _fields(content: bytes) -> _Fields:
    """Return the fields that are used, in the byte order in which the first one is the size of a header."""
    for order in "<>":
        size = struct.unpack_from(f"{order}i", content)[0] if len(content) >= 4 else 0
        if size == 348 and len(content) >= 348 and content[344:347] in {b"n+1", b"ni1"}:
            return _fields_of(content, order=order, real="f", layout=_NIFTI_1)
        if size == 540 and len(content) >= 540 and content[4:7] in {b"n+2", b"ni2"}:
            return _fields_of(content, order=order, real="d", layout=_NIFTI_2)
    raise Fault(
        "a file that cannot be read as NIfTI (no header of NIfTI-1 or NIfTI-2)",
        expected="a NIfTI volume (.nii.gz)",
        advice="Write or download it again.",
    )


_NIFTI_1 = {
    "dim": ("8h", 40), "datatype": ("h", 70), "bitpix": ("h", 72), "pixdim": ("8r", 76), "vox_offset": ("r", 108),
    "slope": ("r", 112), "intercept": ("r", 116), "units": ("B", 123), "descrip": ("80s", 148),
    "qform_code": ("h", 252), "sform_code": ("h", 254), "quaternion": ("3r", 256), "offset": ("3r", 268),
    "sform": ("12r", 280), "magic": ("4s", 344), "shortest": 352,
}  # fmt: skip
_NIFTI_2 = {
    "dim": ("8q", 16), "datatype": ("h", 12), "bitpix": ("h", 14), "pixdim": ("8r", 104), "vox_offset": ("q", 168),
    "slope": ("r", 176), "intercept": ("r", 184), "units": ("i", 500), "descrip": ("80s", 240),
    "qform_code": ("i", 344), "sform_code": ("i", 348), "quaternion": ("3r", 352), "offset": ("3r", 376),
    "sform": ("12r", 400), "magic": ("4s", 4), "shortest": 544,
}  # fmt: skip
"""Of each field its numbers, `r` for real ones, and where they begin; at the end the least that voxels can begin at."""


def _fields_of(content: bytes, *, order: str, real: str, layout: _Fields) -> _Fields:
    fields: _Fields = {"order": order, "shortest": layout["shortest"]}
    for name, place in layout.items():
        if name != "shortest":
            numbers = struct.unpack_from(order + place[0].replace("r", real), content, place[1])
            fields[name] = numbers if len(numbers) > 1 else numbers[0]
    return fields


def _size(fields: _Fields) -> tuple[int, tuple[int, int, int]]:
    """Return the number of axes and the voxels along x, y and z."""
    num_axes, *extents = fields["dim"]
    if not 1 <= num_axes <= 7 or min(extents[:num_axes]) < 1:
        raise _fault(f"dimensions {fields['dim']}", expected="1 to 7 axes with at least one voxel each")
    while num_axes > 3 and extents[num_axes - 1] == 1:
        num_axes -= 1
    if num_axes not in {2, 3}:
        raise not_one_volume(tuple(extents[:num_axes]))
    return num_axes, (extents[0], extents[1], extents[2] if num_axes == 3 else 1)


def _dtype(fields: _Fields) -> np.dtype[np.generic]:
    code, bits = fields["datatype"], fields["bitpix"]
    if code not in _NUMBERS:
        raise _fault(
            f"voxels of datatype {code} ({_OTHER_TYPES.get(code, 'unknown')})",
            expected="one real number a voxel",
            advice="Write it again with one of the types of 8 to 64 bits.",
        )
    dtype: np.dtype[np.generic] = np.dtype(fields["order"] + _NUMBERS[code])
    if bits != 8 * dtype.itemsize:
        raise _fault(f"bitpix {bits} beside datatype {code}", expected=f"{8 * dtype.itemsize} bits a voxel")
    return dtype


def _first_byte(fields: _Fields) -> int:
    offset = fields["vox_offset"]
    if not (math.isfinite(offset) and offset == int(offset) and offset >= fields["shortest"]):
        raise _fault(f"voxels that begin at byte {offset:g} (vox_offset)", expected=f"at least {fields['shortest']}")
    return int(offset)


def _scaling(fields: _Fields) -> tuple[float, float]:
    slope, intercept = fields["slope"], fields["intercept"]
    # A slope of 0 means none, and NaN is what nibabel writes for it.
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise _fault(f"values scaled by {slope:g} and {intercept:g} (scl_slope, scl_inter)", expected="finite numbers")
    return slope, intercept


def _pixdim(fields: _Fields, *, num_axes: int) -> tuple[float, float, float]:
    x, y, z = fields["pixdim"][1:4]
    sform = _sform(fields)
    lengths = (0.0, 0.0, 0.0) if sform is None else np.linalg.norm(sform[:, :3], axis=0)
    if num_axes == 2:
        # A plane is as thick as the sform says, which tools write of a volume that it was cut from.
        z = next((float(step) for step in (lengths[2], z) if is_length(step)), 1.0)
    if not all(map(is_length, (x, y, z))):
        beside = "" if sform is None else f" by pixdim and of {_by(lengths)} mm by the sform of its header"
        raise _fault(
            f"voxels of {_by((x, y, z))} mm (x, y, z){beside or ' by pixdim'}", expected="finite sizes above 0"
        )
    return x, y, z


def _sform(fields: _Fields) -> NDArray[np.float64] | None:
    """Return the sform, shape (3, 4), if it is in use."""
    return np.reshape(fields["sform"], (3, 4)).astype(float) if fields["sform_code"] > 0 else None


def _geometry(
    fields: _Fields, *, size: tuple[int, int, int], pixdim: tuple[float, float, float], scale: float
) -> tuple[Geometry, bool]:
    """Return the grid, and whether the header says where it lies and how it is turned."""
    found: dict[str, Geometry] = {}
    rounding_mm = 0.0
    if (sform := _sform(fields)) is not None:
        found["sform"] = _from_sform(sform, size=size, pixdim=pixdim)
    if fields["qform_code"] > 0:
        found["qform"], rounding = _from_quaternion(fields, size=size, pixdim=pixdim)
        rounding_mm = rounding * float(np.linalg.norm(np.multiply(size, pixdim)))
    if len(found) == 2:
        _check_forms(found["sform"], found["qform"], rounding_mm=rounding_mm)
    # The sform first, as nibabel and ITK do: it has no quaternion's rounding.
    none = Geometry(
        size=size, spacing_mm=pixdim, origin_mm=(0.0, 0.0, 0.0), direction=tuple(np.eye(3).ravel().tolist())
    )
    geometry = next(iter(found.values()), none)
    if scale != 1.0:
        geometry = Geometry(
            size=size,
            spacing_mm=tuple(scale * step for step in geometry.spacing_mm),
            origin_mm=tuple(scale * place for place in geometry.origin_mm),
            direction=geometry.direction,
        )
    return geometry, bool(found)


def _from_sform(
    affine: NDArray[np.float64], *, size: tuple[int, int, int], pixdim: tuple[float, float, float]
) -> Geometry:
    steps = affine[:, :3]
    lengths = np.linalg.norm(steps, axis=0)
    if not (np.isfinite(affine).all() and (lengths > 0).all()):
        raise _fault(
            f"an sform of {steps.tolist()} and {affine[:, 3].tolist()}", expected="three axes in finite numbers"
        )
    upright = np.column_stack([nearest_upright(steps / lengths) * lengths, affine[:, 3]])
    if not is_same_map(affine, upright, size=size):
        raise sheared(steps / lengths)
    of_pixdim = np.column_stack([steps / lengths * pixdim, affine[:, 3]])
    if not is_same_map(affine, of_pixdim, size=size):
        raise _fault(
            f"voxels of {_by(pixdim)} mm (x, y, z) by pixdim and of {_by(lengths)} mm by the sform of its header",
            expected="one size",
            advice="Write it again with the right one.",
        )
    affine = _RAS_TO_LPS * affine
    return Geometry(
        size=size,
        spacing_mm=pixdim,
        origin_mm=tuple(affine[:, 3].tolist()),
        direction=tuple((affine[:, :3] / lengths).ravel().tolist()),
    )


def _from_quaternion(
    fields: _Fields, *, size: tuple[int, int, int], pixdim: tuple[float, float, float]
) -> tuple[Geometry, float]:
    """Return the grid, and how far 32 bits let its axes turn, in radians."""
    quaternion, offset, qfac = np.array(fields["quaternion"]), fields["offset"], fields["pixdim"][0]
    square = float(quaternion @ quaternion)
    if not (math.isfinite(square) and math.isfinite(sum(offset)) and math.isfinite(qfac)):
        raise _fault(f"a qform of {(*fields['quaternion'], *offset)}, qfac {qfac:g}", expected="finite numbers")
    if square > 1.0 + _NOT_NORMALISED:
        raise _fault(
            f"a qform whose quaternion b, c, d {_by(quaternion)} has the length {math.sqrt(square):.4g}",
            expected="a length of at most 1",
        )
    b, c, d = quaternion / max(1.0, math.sqrt(square))
    a = math.sqrt(max(0.0, 1.0 - square))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    if qfac < 0:
        rotation[:, 2] *= -1
    geometry = Geometry(
        size=size,
        spacing_mm=pixdim,
        origin_mm=tuple((_RAS_TO_LPS[:, 0] * offset).tolist()),
        direction=tuple((_RAS_TO_LPS * rotation).ravel().tolist()),
    )
    # a is what 1 leaves: near 0 its own rounding is the root of that of the others.
    return geometry, 2.0 * min(math.sqrt(_FLOAT32_ROUNDING), _FLOAT32_ROUNDING / max(a, 1e-9))


def _check_forms(by_sform: Geometry, by_qform: Geometry, *, rounding_mm: float) -> None:
    if is_same_map(by_sform.affine, by_qform.affine, size=by_sform.size, more_mm=rounding_mm):
        return
    apart = displacement(by_sform.affine, by_qform.affine, size=by_sform.size)
    difference = grid_difference(by_sform, by_qform)
    parts = difference.parts if difference else ()
    raise Fault(
        f"two forms that contradict each other, up to {apart.largest_mm:.3g} mm: a qform of "
        f"{described((part.name, part.unit, part.found) for part in parts)} beside an sform of "
        f"{described((part.name, part.unit, part.expected) for part in parts)} in LPS",
        expected="qform and sform that say the same",
        advice="Give the wrong one the code 0, or write the right one into both.",
    )


def _by(values: Iterable[object]) -> str:
    return " x ".join(f"{value:g}" for value in values)
