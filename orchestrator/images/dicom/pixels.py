"""The voxels of a stack of DICOM slices, decoded by GDCM in a process of its own."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import StorageError
from orchestrator.images.dicom.compressed import check_frame, with_all_bits
from orchestrator.images.dicom.elements import read_whole
from orchestrator.images.dicom.slice import Slice
from orchestrator.images.problem import SourceError

_DECODER = Path(__file__).with_name("decoder.py")
_KILLED_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ONE_THREAD = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_LONGEST_LINE = 1 << 12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecodedVoxels:
    """The voxels of a series."""

    voxels: NDArray[np.generic]
    """Hounsfield units, shape (Z, Y, X), of the type that ITK chooses for the rescale slope and intercept."""
    sha256: str
    """Of the digests of the files, in the order of the slices."""


def decode(slices: Sequence[Slice]) -> DecodedVoxels:
    """Decode the slices of a stack, in their order.

    Raises
    ------
    SourceError
        If a file cannot be decoded, whether that is an error, a crash, too much memory or a minute without end; it
        names the file.
    StorageError
        If the process cannot be started, or something outside ends it.
    """
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as folder:
        files = [_files(each, Path(folder), name=str(index)) for index, each in enumerate(slices)]
        try:
            child = subprocess.Popen(
                # -P: the modules beside the script are none that anything of it imports.
                [sys.executable, "-P", str(_DECODER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **_ONE_THREAD},
            )
        except OSError as error:
            raise StorageError(f"no process can be started to read DICOM files ({error.strerror})") from error
        with child:
            try:
                return _received(slices, child, files=files, log=log)
            finally:
                child.kill()


def _files(slice_: Slice, folder: Path, *, name: str) -> list[Path]:
    """Return the file of a slice as GDCM reads it, and another that shows what it cuts off, where it may."""
    files = [_without_rest(slice_, folder / name)]
    if slice_.pixels.is_compressed:
        widened = with_all_bits(slice_, files[0].read_bytes())
        if widened is not None:
            files.append(folder / f"{name}.all")
            files[1].write_bytes(widened)
    return files


def _without_rest(slice_: Slice, copy: Path) -> Path:
    """Return the file of a slice, or a copy that ends with its pixels: GDCM stumbles over some bytes behind them."""
    if slice_.pixels.is_last:
        return slice_.file
    copy.write_bytes(read_whole(slice_.file, num_bytes=slice_.pixels.end)[: slice_.pixels.end_of_element])
    return copy


def _received(
    slices: Sequence[Slice], child: subprocess.Popen[bytes], *, files: Sequence[Sequence[Path]], log: IO[bytes]
) -> DecodedVoxels:
    if child.stdin is None or child.stdout is None:
        raise StorageError("a process without pipes")
    try:
        child.stdin.write(b"".join(os.fsencode(file.absolute()) + b"\0" for own in files for file in own))
        child.stdin.close()
    except BrokenPipeError:
        pass  # what it says is told below
    if child.stdout.readline(_LONGEST_LINE) != b"ready\n":
        raise StorageError(f"the process that reads DICOM files does not start: {_last_line(log)}")
    volume: NDArray[np.generic] = np.empty(0)
    digests = hashlib.sha256()
    for index, each in enumerate(slices):
        content = read_whole(each.file, num_bytes=each.pixels.end)
        digests.update(hashlib.sha256(content).digest())
        _check_stored(each, content)
        plane = _told_plane(each, child, stream=child.stdout)
        if index == 0:
            volume = np.empty((len(slices), *plane.shape), dtype=plane.dtype)
        elif plane.dtype != volume.dtype:
            # A rescale slope of its own can make fractions of one slice.
            volume = volume.astype(np.result_type(plane, volume))
        volume[index] = plane
        if len(files[index]) > 1:
            slope, intercept = each.rescale
            values = _told_plane(each, child, stream=child.stdout).astype(np.float64)
            _check_bits(each, np.rint((values - intercept) / slope).astype(np.int64))
    return DecodedVoxels(voxels=volume, sha256=digests.hexdigest())


def _check_stored(slice_: Slice, content: bytes) -> None:
    """Refuse what GDCM would cut off without a word: numbers of more bits than the header says, and voxels."""
    pixels, stored = slice_.pixels, slice_.stored
    if pixels.is_compressed:
        check_frame(slice_, content)
        return
    if stored.has_overlay:
        return
    numbers = np.frombuffer(content, stored.dtype, count=slice_.size[0] * slice_.size[1], offset=pixels.offset)
    _check_bits(slice_, numbers)


def _check_bits(slice_: Slice, numbers: NDArray[np.integer]) -> None:
    """Refuse numbers of more bits than the header says."""
    stored = slice_.stored
    if numbers.min() < stored.lowest or numbers.max() > stored.highest:
        raise SourceError.of(
            slice_.file,
            found=f"a slice with stored numbers from {numbers.min()} to {numbers.max()}",
            expected=f"{stored.lowest} to {stored.highest}, as many bits as its header says",
            advice="Its BitsStored or PixelRepresentation is wrong: export it again.",
        )


def _told_plane(slice_: Slice, child: subprocess.Popen[bytes], *, stream: IO[bytes]) -> NDArray[np.generic]:
    line = stream.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise _died(slice_, child)
    told = json.loads(line)
    if "error" in told:
        raise _undecodable(slice_, f"GDCM says: {told['error']}")
    columns, rows = slice_.size
    if tuple(told["shape"]) not in {(rows, columns), (1, rows, columns)}:
        raise _undecodable(slice_, f"it decodes to {' x '.join(map(str, told['shape']))} voxels")
    plane: NDArray[np.generic] = np.empty((rows, columns), np.dtype(told["dtype"]))
    if stream.readinto(plane.reshape(-1).view(np.uint8)) < plane.nbytes:  # type: ignore[attr-defined]
        raise _died(slice_, child)
    return plane


def _died(slice_: Slice, child: subprocess.Popen[bytes]) -> SourceError | StorageError:
    code = child.wait()
    if -code in _KILLED_FROM_OUTSIDE:
        return StorageError(f"the process that read {slice_.file} was ended by signal {-code}: was the memory short?")
    if -code == signal.SIGXCPU:
        return _undecodable(slice_, "GDCM takes more than a minute")
    return _undecodable(slice_, f"GDCM crashes, {f'signal {-code}' if code < 0 else f'exit code {code}'}")


def _undecodable(slice_: Slice, found: str) -> SourceError:
    return SourceError.of(
        slice_.file,
        found=f"a slice that cannot be decoded ({found})",
        expected=f"a slice of {slice_.size[0]} x {slice_.size[1]} voxels",
        advice="It is damaged: download it again.",
    )


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"
