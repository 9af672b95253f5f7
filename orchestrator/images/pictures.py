"""Pictures (.png, .bmp, .tif) and stacks of TIFF, as nnU-Net reads them: without a place in a patient."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from orchestrator.errors import is_of_a_disk, is_out_of_memory
from orchestrator.images.formats.nifti import check_finite
from orchestrator.images.geometry import Geometry
from orchestrator.images.problem import Fault
from orchestrator.images.stored_voxels import Encoding, ReadBuffer, check_room

PICTURE_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
PICTURE_SPACING = (1.0, 1.0, 999.0)
"""Of a picture along (x, y, z): nnU-Net's."""
_MAX_JSON_BYTES = 1 << 16
_COLOURS = (3, 4)
"""Values of a pixel: RGB, and RGB with an alpha channel."""
_ENCODINGS = {1: Encoding.RAW, **dict.fromkeys((5, 8, 32773, 32946), Encoding.ZLIB)}
"""Of TIFF, by its number, as far as they make nothing smaller than DEFLATE can."""
_AGAIN = "Write it again as PNG or TIFF."


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenPicture:
    """A file of which only the header is read."""

    geometry: Geometry
    num_channels: int
    notes: tuple[str, ...]
    _read: Callable[[], NDArray[np.generic]]

    def read(self) -> NDArray[np.generic]:
        """Read the voxels, shape (channels, z, y, x); raises Fault."""
        with _libraries():
            voxels = self._read()
        voxels = voxels.astype(np.uint8) if voxels.dtype == bool else voxels
        shape = (self.num_channels, *self.geometry.size[::-1])
        if voxels.dtype.kind not in "iuf" or voxels.size != math.prod(shape):
            raise Fault(
                f"{voxels.size} numbers of type {voxels.dtype}",
                expected=f"{math.prod(shape)} real numbers, as its header says",
                advice=_AGAIN,
            )
        voxels = voxels.reshape(shape)
        for channel in voxels:
            check_finite(channel)
        return voxels


def open_picture(path: Path, *, spacing_files: tuple[Path, ...] = (), must_be_stack: bool | None = None) -> OpenPicture:
    """Read the header of a file.

    Parameters
    ----------
    path
        The file.
    spacing_files
        Where the spacing of a stack is looked for: JSON files, of which the first that exists counts.
    must_be_stack
        Whether its reader is named in the description of the data set: as a stack, or as a picture.

    Raises
    ------
    Fault
        If it is none of these, or of a size that this machine has no memory for.
    """
    if path.suffix in {".tif", ".tiff"}:
        return _open_tiff(path, spacing_files=spacing_files, must_be_stack=must_be_stack)
    with _libraries(), Image.open(path) as picture:
        width, height = picture.size
        mode = picture.palette.mode if picture.mode == "P" and picture.palette else picture.mode
        num_channels = 1 if picture.mode == "I;16" else len(picture.getbands() if picture.mode != "P" else mode)
    _check_size(path, width * height, encoding=Encoding.ZLIB)
    if num_channels not in {1, *_COLOURS}:
        raise _other_values(num_channels)
    return _picture((height, width), num_channels, read=lambda: _read_with_pillow(path))


def _check_size(path: Path, num_bytes: int, *, encoding: Encoding | None) -> None:
    """Raise Fault for a header that promises more than its file can hold, MemoryError for more than there is."""
    if encoding is not None:
        check_room(num_bytes, num_stored=path.stat().st_size, encoding=encoding)
    ReadBuffer().take(num_bytes)


def _read_with_pillow(path: Path) -> NDArray[np.generic]:
    import imageio.v3

    voxels = np.asarray(imageio.v3.imread(path, plugin="pillow"))
    return voxels[None] if voxels.ndim == 2 else np.moveaxis(voxels, -1, 0)


def _picture(size: tuple[int, int], num_channels: int, *, read: Callable[[], NDArray[np.generic]]) -> OpenPicture:
    height, width = size
    return OpenPicture(
        geometry=_grid((width, height, 1), PICTURE_SPACING), num_channels=num_channels, notes=(), _read=read
    )


def _grid(size: tuple[int, ...], spacing: tuple[float, ...]) -> Geometry:
    identity = tuple(np.eye(3).ravel().tolist())
    return Geometry(size=size, spacing_mm=spacing, origin_mm=(0.0, 0.0, 0.0), direction=identity)


def _open_tiff(path: Path, *, spacing_files: tuple[Path, ...], must_be_stack: bool | None) -> OpenPicture:
    with _libraries(), tifffile.TiffFile(path) as file:
        shape, item_bytes = tuple(map(int, file.series[0].shape)), file.series[0].dtype.itemsize
        encoding = _ENCODINGS.get(int(file.pages[0].compression))
    if not shape or min(shape) < 1:
        raise _other_axes(shape)
    _check_size(path, math.prod(shape) * item_bytes, encoding=encoding)
    is_picture = len(shape) == 2 or (len(shape) == 3 and (shape[-1] in _COLOURS or shape[-3] in _COLOURS))
    if path.suffix == ".tif" and is_picture and not must_be_stack:
        # As nnU-Net does, which takes a stack of three or four slices for colours.
        is_last = len(shape) == 2 or shape[-1] in _COLOURS
        plane = shape[:2] if is_last else shape[1:]
        num_channels = 1 if len(shape) == 2 else shape[-1] if is_last else shape[0]
        return _picture(
            (plane[0], plane[1]),
            num_channels,
            read=lambda: _channels_first(np.asarray(tifffile.imread(path)), is_last=is_last),
        )
    if len(shape) != 3 or must_be_stack is False:
        raise _other_axes(shape)
    spacing, note = _spacing(spacing_files)
    return OpenPicture(
        geometry=_grid(shape[::-1], spacing[::-1]),
        num_channels=1,
        notes=(note,) if note else (),
        _read=lambda: np.asarray(tifffile.imread(path))[None],
    )


def _channels_first(voxels: NDArray[np.generic], *, is_last: bool) -> NDArray[np.generic]:
    if voxels.ndim == 2:
        return voxels[None]
    return np.moveaxis(voxels, -1, 0) if is_last else voxels


def _spacing(files: tuple[Path, ...]) -> tuple[tuple[float, ...], str | None]:
    """Return the spacing (z, y, x) of a stack, and a note if nothing tells it."""
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        return (
            1.0,
            1.0,
            1.0,
        ), f"no {files[0].name if files else 'file'} with its spacing, taken as 1 mm as nnU-Net does"
    with path.open("rb") as stream:
        content = stream.read(_MAX_JSON_BYTES)
    try:
        spacing = json.loads(content)["spacing"]
        numbers = tuple(float(number) for number in spacing)
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
        raise _no_spacing(path, found=repr(error)) from error
    if len(numbers) != 3 or not all(1e-9 < number < 1e9 for number in numbers):
        raise _no_spacing(path, found=str(numbers)[:80])
    return numbers, None


def _no_spacing(path: Path, *, found: str) -> Fault:
    return Fault(
        f"{path.name} beside it with {found}",
        expected='{"spacing": [z, y, x]} with three numbers above 0',
        advice="Mend that file, or remove it for 1 mm.",
    )


@contextmanager
def _libraries() -> Iterator[None]:
    """Raise Fault for whatever a library throws at an odd file, unless it says nothing about the file."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) or (isinstance(error, OSError) and is_of_a_disk(error)):
            raise
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> Fault:
    words = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
    return Fault(f"a file that cannot be read ({words})", expected="a whole picture or stack", advice=_AGAIN)


def _other_axes(shape: tuple[int, ...]) -> Fault:
    size = " x ".join(map(str, shape))
    return Fault(
        f"a TIFF of {size}", expected="a picture (y, x), in colours (y, x, 3), or a stack (z, y, x)", advice=_AGAIN
    )


def _other_values(number: int) -> Fault:
    return Fault(f"{number} values a pixel", expected="grey (1), RGB (3) or RGBA (4)", advice=_AGAIN)
