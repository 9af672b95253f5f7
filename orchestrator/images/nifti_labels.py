"""A fast reader for the usual label map: one compressed or plain NIfTI-1 file of small integers.

SimpleITK spends most of the time of an evaluation on expanding and copying voxels. What its writer, nibabel and the
public data sets produce is read here in one step; everything else is left to SimpleITK.
"""

import ctypes
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import deflate
import numpy as np
from numpy.typing import NDArray

_HEADER_BYTES = 348
_DTYPES = {2: "<u1", 4: "<i2", 8: "<i4", 256: "<i1", 512: "<u2", 768: "<u4"}
# Millimetres and unknown, in the lowest three bits.
_UNITS = (0, 2)
# DEFLATE makes nothing smaller than by this: a trailer that promises more is not a size.
_LARGEST_RATIO = 1032
# Two descriptions of one grid differ by the rounding of float32.
_ROUNDING = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NiftiLabels:
    """Voxels as they are stored, and the grid as SimpleITK describes it."""

    array: NDArray[np.integer]
    """Shape (Z, Y, X), C order; a view of the buffer that was read into."""
    spacing_mm: tuple[float, float, float]
    """(x, y, z)."""
    origin: tuple[float, ...]
    """Position of the first voxel in mm; x grows to the left, y to the back."""
    direction: tuple[float, ...]
    """Direction cosines, row by row."""


class ReadBuffer:
    """Memory that files are read into, one after the other: fresh pages would cost more than to expand a file."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return this many bytes; what was taken before is overwritten."""
        if self._memory.size < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size]


def read_usual_nifti(path: Path, buffer: ReadBuffer) -> NiftiLabels | None:
    """Read a label map, or return None if the file is unusual in any way, or broken."""
    content = _content(path, buffer)
    if content is None or len(content) < _HEADER_BYTES or content[344:348].tobytes() != b"n+1\0":
        return None
    header = _Header(content[:_HEADER_BYTES].tobytes())
    if header.dtype is None or len(content) < header.first_byte + header.num_voxels * header.dtype.itemsize:
        return None
    affine = header.affine()
    if affine is None:
        return None
    voxels = np.frombuffer(content, header.dtype, count=header.num_voxels, offset=header.first_byte)
    # NIfTI's x and y point to the other sides.
    affine = np.array([[-1.0], [-1.0], [1.0]]) * affine
    return NiftiLabels(
        array=voxels.reshape(header.size[::-1]),
        spacing_mm=header.spacing_mm,
        origin=tuple(affine[:, 3].tolist()),
        direction=tuple((affine[:, :3] / header.spacing_mm).ravel().tolist()),
    )


def _content(path: Path, buffer: ReadBuffer) -> NDArray[np.uint8] | None:
    if path.suffix == ".nii":
        content = buffer.take(path.stat().st_size)
        with path.open("rb") as file:
            return content if file.readinto(content.data) == content.size else None
    if not path.name.endswith(".nii.gz"):
        return None
    compressed = path.read_bytes()
    if len(compressed) < 18 or compressed[:2] != b"\x1f\x8b":
        return None
    (size,) = struct.unpack("<I", compressed[-4:])
    if not _HEADER_BYTES <= size <= _LARGEST_RATIO * len(compressed):
        return None
    return _expand(compressed, buffer.take(size))


def _expand(compressed: bytes, content: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Expand one gzip member that fills `content`; None if that is not what it does."""
    library = _libdeflate()
    if library is None:
        try:
            expanded = deflate.gzip_decompress(compressed, content.size)
        except (deflate.DeflateError, ValueError):
            return None
        return np.frombuffer(expanded, np.uint8) if len(expanded) == content.size else None
    decompressor = library.libdeflate_alloc_decompressor()
    try:
        # Without a place for the actual size it is an error if there is less.
        failed = library.libdeflate_gzip_decompress(
            decompressor, compressed, len(compressed), content.ctypes.data, content.size, None
        )
    finally:
        library.libdeflate_free_decompressor(decompressor)
    return None if failed else content


@cache
def _libdeflate() -> ctypes.CDLL | None:
    """Return the library inside of the package `deflate`, whose own functions cannot write into memory of ours."""
    library = ctypes.CDLL(deflate._deflate.__file__)  # noqa: SLF001
    try:
        library.libdeflate_alloc_decompressor.restype = ctypes.c_void_p
        library.libdeflate_free_decompressor.argtypes = [ctypes.c_void_p]
        library.libdeflate_gzip_decompress.argtypes = [
            *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p),
        ]
    except AttributeError:
        # Not every wheel lets its library be seen.
        return None
    return library


class _Header:
    """The fields of a NIfTI-1 header that a label map needs."""

    def __init__(self, content: bytes) -> None:
        (size_of_header,) = struct.unpack_from("<i", content, 0)
        dimensions = struct.unpack_from("<8h", content, 40)
        datatype, bits = struct.unpack_from("<2h", content, 70)
        self._pixdim = struct.unpack_from("<8f", content, 76)
        first, slope, intercept = struct.unpack_from("<3f", content, 108)
        units = content[123] & 7
        self._qform_code, self._sform_code = struct.unpack_from("<2h", content, 252)
        self._quaternion = struct.unpack_from("<6f", content, 256)
        self._sform = np.array(struct.unpack_from("<12f", content, 280), np.float64).reshape(3, 4)
        self.size = dimensions[1:4]
        self.num_voxels = int(np.prod(self.size, dtype=np.int64))
        self.first_byte = int(first) if _HEADER_BYTES <= first < 2**31 else 0
        self.spacing_mm = self._pixdim[1:4]
        is_usual = (
            size_of_header == _HEADER_BYTES
            and self.first_byte > 0
            and 3 <= dimensions[0] <= 7
            and min(self.size) > 0
            and all(extent == 1 for extent in dimensions[4 : dimensions[0] + 1])
            and (slope, intercept) in {(0.0, 0.0), (1.0, 0.0)}
            and units in _UNITS
            and all(np.isfinite(step) and step > 0 for step in self.spacing_mm)
        )
        name = _DTYPES.get(datatype) if is_usual else None
        self.dtype = np.dtype(name) if name and np.dtype(name).itemsize * 8 == bits else None

    def affine(self) -> NDArray[np.float64] | None:
        """Return the affine map from (x, y, z) indices to mm in NIfTI's axes; None unless it is beyond doubt."""
        found = [self._from_quaternion() if self._qform_code > 0 else None]
        found.append(self._sform if self._sform_code > 0 else None)
        known = [affine for affine in found if affine is not None]
        if not known or (self._qform_code > 0 and found[0] is None):
            return None
        spacing = np.array(self.spacing_mm)
        for affine in known:
            cosines = affine[:, :3] / spacing
            if not (np.isfinite(affine).all() and np.allclose(cosines.T @ cosines, np.eye(3), atol=_ROUNDING)):
                return None
            if not np.allclose(affine, known[0], rtol=_ROUNDING, atol=_ROUNDING * spacing.min()):
                return None
        return known[0]

    def _from_quaternion(self) -> NDArray[np.float64] | None:
        b, c, d, *offset = self._quaternion
        rest = 1.0 - (b * b + c * c + d * d)
        if not rest >= -1e-6:
            return None
        a = float(np.sqrt(max(rest, 0.0)))
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        if self._pixdim[0] < 0:
            rotation[:, 2] *= -1
        return np.column_stack([rotation * self.spacing_mm, offset])
