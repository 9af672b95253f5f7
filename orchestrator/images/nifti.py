"""Compressed NIfTI files of downloads: headers cheaply, contents with every check."""

import gzip
import hashlib
import math
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import SimpleITK as sitk

from orchestrator.errors import StorageError
from orchestrator.images.geometry import Geometry, geometry_of
from orchestrator.images.problem import SourceError
from orchestrator.images.source_file import SourceFile

_CHUNK_BYTES = 1 << 20
_FLOAT32, _FLOAT64 = 16, 64
_HEAD_BYTES = 1 << 16
"""Holds the header of 348 bytes and the extensions that tools write behind it."""
_AGAIN = "It is damaged or cut short: download it again."


class _HashedStream:
    """Hashes what is read through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        return data

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def read_nifti(source: SourceFile) -> tuple[sitk.Image, str]:
    """Read a `.nii.gz` file wholly.

    Returns
    -------
    tuple
        The 3D image as stored, and the SHA-256 of the compressed file.

    Raises
    ------
    SourceError
        If it is empty, not gzip, cut short, not NIfTI, not a scalar 3D volume, or holds NaN or infinity.
    """
    with _unpacked(source, max_bytes=None) as (path, sha256):
        reader = _read_header(path, source=source)
        # ITK fills what is missing with zeros and says nothing.
        num_bytes, num_expected = path.stat().st_size, _expected_bytes(reader)
        if num_bytes < num_expected:
            raise _cut_short(source, num_bytes=num_bytes, num_expected=num_expected)
        _check_finite(path, reader=reader, source=source)
        try:
            return reader.Execute(), sha256
        except RuntimeError as error:
            raise _not_nifti(source, error) from error


def read_nifti_geometry(source: SourceFile) -> Geometry:
    """Read only the header of a `.nii.gz` file, and whether the file is cut short where that is cheap to see.

    Raises
    ------
    SourceError
        As `read_nifti`, as far as the header and the last bytes of the file tell.
    """
    with _unpacked(source, max_bytes=_HEAD_BYTES) as (path, _):
        reader = _read_header(path, source=source)
    _check_stated_size(source, num_expected=_expected_bytes(reader))
    return geometry_of(reader)


def _check_stated_size(source: SourceFile, *, num_expected: int) -> None:
    # gzip ends with its unpacked size modulo 2**32: four bytes tell a cut file, except one inside a zip archive,
    # which would have to be unpacked up to there. Files of several gzip streams state the last one only, hence the
    # second look.
    if source.path.suffix == ".zip" or num_expected >= 1 << 32:
        return
    with source.open() as stream:
        stream.seek(-4, 2)
        num_bytes = int.from_bytes(stream.read(4), "little")
    if num_bytes == num_expected:
        return
    with _unpacked(source, max_bytes=None) as (path, _):
        num_bytes = path.stat().st_size
    if num_bytes < num_expected:
        raise _cut_short(source, num_bytes=num_bytes, num_expected=num_expected)


@contextmanager
def _unpacked(source: SourceFile, *, max_bytes: int | None) -> Iterator[tuple[Path, str]]:
    """Temporary `.nii` file with the first bytes (None: all) of the content, and the digest of what was read."""
    with tempfile.TemporaryDirectory(prefix="case-") as folder:
        path = Path(folder) / "volume.nii"
        with source.open() as stream:
            hashed = _HashedStream(stream)
            with path.open("wb") as unpacked:
                for chunk in _chunks(hashed, source=source, max_bytes=max_bytes):
                    _write(unpacked, chunk)
        if not path.stat().st_size:
            raise SourceError.of(
                source, found="an empty file", expected="a NIfTI volume (.nii.gz)", advice="Download it again."
            )
        yield path, hashed.hexdigest()


def _chunks(hashed: _HashedStream, *, source: SourceFile, max_bytes: int | None) -> Iterator[bytes]:
    remaining = max_bytes
    try:
        with gzip.GzipFile(fileobj=hashed, mode="rb") as stream:  # type: ignore[call-overload]
            while chunk := stream.read(_CHUNK_BYTES if remaining is None else min(remaining, _CHUNK_BYTES)):
                yield chunk
                if remaining is not None:
                    remaining -= len(chunk)
    except gzip.BadGzipFile as error:
        raise SourceError.of(
            source, found=f"not a gzip file ({error})", expected="a NIfTI volume (.nii.gz)", advice="Download it again."
        ) from error
    except (EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise SourceError.of(
            source, found=f"a truncated or damaged file ({error})", expected="a whole gzip stream", advice=_AGAIN
        ) from error


def _write(target: IO[bytes], chunk: bytes) -> None:
    try:
        target.write(chunk)
    except OSError as error:
        raise StorageError(f"{target.name}: cannot be written ({error}); free space there or set TMPDIR") from error


def _read_header(path: Path, *, source: SourceFile) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _not_nifti(source, error) from error
    size = reader.GetSize()
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1 or min(size) < 2:
        raise SourceError.of(
            source,
            found=f"a {reader.GetDimension()}D image of size {' x '.join(map(str, size))}"
            f" with {reader.GetNumberOfComponents()} values a voxel",
            expected="a 3D volume with one value a voxel and at least 2 voxels along each axis",
            advice="Check that it is the file of this case.",
        )
    return reader


def _expected_bytes(reader: sitk.ImageFileReader) -> int:
    size: tuple[int, ...] = reader.GetSize()
    return int(float(reader.GetMetaData("vox_offset"))) + math.prod(size) * (int(reader.GetMetaData("bitpix")) // 8)


def _check_finite(path: Path, *, reader: sitk.ImageFileReader, source: SourceFile) -> None:
    # On the bytes of the file: ITK's reader turns NaN and infinity into zeros and says nothing.
    kind = {_FLOAT32: "f4", _FLOAT64: "f8"}.get(int(reader.GetMetaData("datatype")))
    if kind is None:
        return
    with path.open("rb") as stream:
        order = "<" if stream.read(4) == (348).to_bytes(4, "little") else ">"
    offset, num_voxels = int(float(reader.GetMetaData("vox_offset"))), math.prod(reader.GetSize())
    voxels = np.memmap(path, dtype=order + kind, mode="r", offset=offset, shape=(num_voxels,))
    num_bad = num_voxels - int(np.isfinite(voxels).sum())
    if num_bad:
        raise SourceError.of(
            source,
            found=f"{num_bad} voxels that are NaN or infinite",
            expected="finite values",
            advice="Download it again.",
        )


def _cut_short(source: SourceFile, *, num_bytes: int, num_expected: int) -> SourceError:
    return SourceError.of(
        source, found=f"{num_bytes} bytes of NIfTI", expected=f"{num_expected} bytes by its header", advice=_AGAIN
    )


def _not_nifti(source: SourceFile, error: RuntimeError) -> SourceError:
    # The last line holds the reason, behind the address of an object and the name of our temporary file.
    reason = str(error).strip().splitlines()[-1].rpartition("): ")[2].rpartition("volume.nii ")[2]
    return SourceError.of(
        source,
        found=f"a file that cannot be read as NIfTI ({reason})",
        expected="a NIfTI volume (.nii.gz)",
        advice="Download it again.",
    )
