"""An image or a mask in whatever file nnU-Net's raw layout allows, as nnU-Net reads it: its axes in their own order."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.images.formats.nifti import scaled
from orchestrator.images.geometry import Geometry, placed
from orchestrator.images.image_header import ImageHeader
from orchestrator.images.label_maps import open_volume
from orchestrator.images.pictures import PICTURE_SUFFIXES, open_picture
from orchestrator.images.problem import naming
from orchestrator.images.source_file import SourceFile
from orchestrator.images.stored_voxels import ReadBuffer

_FLAT_SPACING = 999.0
"""Thickness of a file of two axes for nnU-Net, in its larger spacing."""

Values = Callable[[NDArray[np.generic], ImageHeader], NDArray[np.generic]]
"""Makes values of stored numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """Where an image is, and how it is read."""

    path: Path
    must_be_stack: bool | None = None
    """Of a TIFF: whether it must be a stack, or a picture; None if that shows in the file."""
    spacing_files: tuple[Path, ...] = ()
    """Of a stack of TIFF: where its spacing is looked for."""

    @property
    def is_picture(self) -> bool:
        """Whether it has no place in a patient."""
        return self.path.name.lower().endswith(PICTURE_SUFFIXES)

    def files(self) -> tuple[Path, ...]:
        """Return all that it is read from; raises SourceError, as `header`."""
        if self.is_picture:
            is_stack = self.path.suffix in {".tif", ".tiff"}
            beside = [file for file in self.spacing_files if file.is_file()] if is_stack else []
            return (self.path, *beside[:1])
        with open_volume(self.path, what="an image") as opened:
            return opened.files

    def header(self) -> "FileHeader":
        """Read the header, and see by the size or the end of the file whether it is cut short; raises SourceError."""
        if self.is_picture:
            with naming(self.path):
                picture = open_picture(self.path, spacing_files=self.spacing_files, must_be_stack=self.must_be_stack)
            return FileHeader(geometry=picture.geometry, num_channels=picture.num_channels)
        with open_volume(self.path, what="an image") as opened:
            opened.check_size()
            header = opened.header
            return FileHeader(
                geometry=_grid(header), num_channels=1, unit=header.unit, value_bytes=header.value_dtype.itemsize
            )

    def read(self, *, values: Values = scaled) -> "LoadedFile":
        """Read all of it; raises SourceError."""
        with naming(self.path):
            if self.is_picture:
                picture = open_picture(self.path, spacing_files=self.spacing_files, must_be_stack=self.must_be_stack)
                header = _plain_header(picture.geometry)
                images = [sitk.GetImageFromArray(values(voxels, header)) for voxels in picture.read()]
                channels = [placed(image, picture.geometry) for image in images]
                notes = picture.notes
            else:
                volume, header = _volume(self.path, values)
                channels, notes = [placed(sitk.GetImageFromArray(volume), _grid(header))], header.notes
        return LoadedFile(
            channels=tuple(channels),
            sha256=digest_of(SourceFile(path=path) for path in self.files()),
            notes=tuple(f"{self.path}: {note}" for note in notes),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FileHeader:
    """What a header tells."""

    geometry: Geometry
    num_channels: int
    """Values of a voxel: colours of a picture."""
    unit: str = "mm"
    """In which the header measures; its grid is in mm whatever it is."""
    value_bytes: int | None = None
    """Of a value that is read; None of a picture, whose header need not tell."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedFile:
    """A file in memory."""

    channels: tuple[sitk.Image, ...]
    """Three-dimensional, all on one grid."""
    sha256: str
    """Of the file, or of the digests of several."""
    notes: tuple[str, ...]
    """What had to be decided, one sentence each."""


def digest_of(files: Iterable[SourceFile]) -> str:
    """Return the SHA-256 of a file, or that of the digests of several; raises SourceError."""
    digests = []
    for file in files:
        digest = hashlib.sha256()
        with file.open() as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _volume(path: Path, values: Values) -> tuple[NDArray[np.generic], ImageHeader]:
    """Return the values of a volume; what they were made of is let go of, before ITK makes a copy of them."""
    with open_volume(path, what="an image") as opened:
        header, stored = opened.header, opened.stored(ReadBuffer())
    del opened  # and with it what was compressed
    return values(stored, header), header


def _grid(header: ImageHeader) -> Geometry:
    if header.num_axes == 3:
        return header.geometry
    x_mm, y_mm, _ = header.geometry.spacing_mm
    return replace(header.geometry, spacing_mm=(x_mm, y_mm, _FLAT_SPACING * max(x_mm, y_mm)))


def _plain_header(geometry: Geometry) -> ImageHeader:
    return ImageHeader(geometry=geometry, num_axes=3, dtype=np.dtype("f4"))
