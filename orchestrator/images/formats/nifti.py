"""NIfTI files, compressed or not: the header first, then no more than it says."""

import hashlib
import zipfile
import zlib
from typing import IO

import numpy as np
from numpy.typing import NDArray

from orchestrator.images.formats.nifti_header import NUM_BYTES, NiftiHeader, parse_header
from orchestrator.images.image_header import ImageHeader, not_one_volume
from orchestrator.images.problem import Fault
from orchestrator.images.stored_voxels import (
    PADDING_BYTES,
    Encoding,
    ReadBuffer,
    check_room,
    cut_short,
    expand,
    largest_stored,
    read_at_most,
    too_long,
)

_GZIP = b"\x1f\x8b"
_LARGEST_VALUE = 1e12
"""Of an intensity: beyond, the deviations by which networks divide overflow."""
_HEAD_BYTES = 1 << 16
"""Compressed: holds the header, whatever gzip and the writer put before it."""


class NiftiFile:
    """An open file of which the header is read."""

    def __init__(self, stream: IO[bytes], *, must_be_gzip: bool) -> None:
        """Read the header; raises Fault."""
        self._stream = stream
        self._head = self._take(_HEAD_BYTES)
        if not self._head:
            raise Fault("an empty file", expected="a NIfTI volume (.nii.gz)", advice="Write or download it again.")
        self._is_gzip = self._head.startswith(_GZIP)
        if must_be_gzip and not self._is_gzip:
            raise Fault(
                f"not a gzip file (it begins with {self._head[:4]!r})",
                expected="a NIfTI volume (.nii.gz)",
                advice="Write or download it again.",
            )
        self.header: NiftiHeader = parse_header(self._beginning())
        self._stored = b""

    def sha256(self) -> str:
        """Return the digest of the whole compressed file, once its voxels are read."""
        return hashlib.sha256(self._stored).hexdigest()

    def read(self, buffer: ReadBuffer) -> NDArray[np.generic]:
        """Read the voxels (z, y, x) as they are stored, a view of the buffer; raises Fault.

        Real numbers that are NaN or infinite are a fault as well.
        """
        content = self._expanded(buffer) if self._is_gzip else self._plain(buffer)
        voxels = self.header.voxels(content, first_byte=self.header.first_byte)
        check_finite(voxels)
        return voxels

    def check_size(self) -> None:
        """Raise Fault if the size of the file, or the end of a compressed one, shows that it is cut short."""
        if not self._is_gzip:
            self._check_plain_size()
            return
        place = self._stream.tell()
        self._stream.seek(-4, 2)
        # gzip ends with its expanded size, modulo 2**32.
        stated = int.from_bytes(self._stream.read(4), "little")
        if not 0 <= stated - self.header.num_file_bytes % (1 << 32) <= PADDING_BYTES:
            # Files of several gzip streams state the size of the last one, hence the second look.
            self._stream.seek(0)
            NiftiFile(self._stream, must_be_gzip=True).read(ReadBuffer())
        self._stream.seek(place)

    def _take(self, num_bytes: int) -> bytes:
        try:
            return read_at_most(self._stream, num_bytes)
        except (EOFError, zlib.error, zipfile.BadZipFile) as error:  # of the archive that it is in
            raise _damaged(error) from error

    def _beginning(self) -> bytes:
        if not self._is_gzip:
            return self._head
        content, left = b"", self._head
        try:
            # Of several members the first may be shorter than the header.
            while len(content) < NUM_BYTES and left.startswith(_GZIP):
                expander = zlib.decompressobj(zlib.MAX_WBITS | 16)
                content += expander.decompress(left, NUM_BYTES - len(content))
                left = expander.unused_data
        except zlib.error as error:
            raise _damaged(error) from error
        if len(content) < NUM_BYTES and len(self._head) < _HEAD_BYTES and not expander.eof:
            raise _damaged(EOFError("it ends within its header"))
        return content

    def _expanded(self, buffer: ReadBuffer) -> NDArray[np.uint8]:
        num_bytes = self.header.num_file_bytes
        limit = largest_stored(num_bytes, encoding=Encoding.GZIP)
        self._stored = self._head + self._take(max(0, limit - len(self._head)) + 1)
        if len(self._stored) > limit:
            raise too_long(num_bytes)
        return expand(self._stored, encoding=Encoding.GZIP, num_bytes=num_bytes, buffer=buffer, what="NIfTI")

    def _plain(self, buffer: ReadBuffer) -> NDArray[np.uint8]:
        num_bytes = self.header.num_file_bytes
        if self._stream.seekable():
            self._check_plain_size()
            self._stream.seek(0)
            content = buffer.take(num_bytes)
            if self._stream.readinto(content.data) == num_bytes:  # type: ignore[attr-defined]
                return content
        raise cut_short(0, num_bytes=num_bytes)

    def _check_plain_size(self) -> None:
        num_bytes, num_found = self.header.num_file_bytes, self._stream.seek(0, 2)
        check_room(num_bytes, num_stored=num_found, encoding=Encoding.RAW)
        if num_found > num_bytes + PADDING_BYTES:
            raise too_long(num_bytes)


def check_finite(voxels: NDArray[np.generic]) -> None:
    """Raise Fault if numbers are NaN or infinite."""
    if voxels.dtype.kind != "f":
        return
    # Slice by slice: the whole would take a byte a voxel beside.
    num_bad = sum(plane.size - int(np.count_nonzero(np.isfinite(plane))) for plane in voxels)
    if num_bad:
        raise Fault(
            f"{num_bad} voxels that are NaN or infinite", expected="finite values", advice="Write or download it again."
        )


def scaled(voxels: NDArray[np.generic], header: ImageHeader) -> NDArray[np.generic]:
    """Return values of stored numbers, of the type that the header says they have.

    Raises Fault if they are too large for that.
    """
    if not header.is_scaled:
        _check_sizes(voxels)
        return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    values: NDArray[np.generic] = np.empty(voxels.shape, header.value_dtype)
    with np.errstate(over="ignore"):
        for stored, plane in zip(voxels, values, strict=True):
            plane[:] = stored.astype(np.float64) * header.slope + header.intercept
    check_finite(values)
    _check_sizes(values)
    return values


def _check_sizes(values: NDArray[np.generic]) -> None:
    """Raise Fault for numbers that cannot be intensities."""
    if values.dtype.kind == "f" or values.dtype.itemsize == 8:
        largest = max(abs(float(values.min())), abs(float(values.max())))
        if largest > _LARGEST_VALUE:
            raise Fault(
                f"values up to {largest:g}",
                expected=f"numbers of at most {_LARGEST_VALUE:g}, of which 32 bits can hold squares and sums",
                advice="Check its type and byte order, and write it again.",
            )


def check_is_volume(header: NiftiHeader) -> None:
    """Raise Fault if a file of a download is no volume but a plane or a line."""
    if header.num_axes != 3 or min(header.geometry.size) < 2:
        raise not_one_volume(header.geometry.size[: header.num_axes])


def _damaged(error: Exception) -> Fault:
    return Fault(
        f"a truncated or damaged file ({error})",
        expected="a whole gzip stream",
        advice="It is damaged or cut short: write or download it again.",
    )
