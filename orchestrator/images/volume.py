"""A CT volume of a download before conversion: one NIfTI file or one DICOM series, behind one door."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.images.formats.nifti import NiftiFile, check_is_volume, scaled
from orchestrator.images.geometry import Geometry, placed
from orchestrator.images.image_header import ImageHeader
from orchestrator.images.problem import naming
from orchestrator.images.source_file import SourceFile
from orchestrator.images.stored_voxels import ReadBuffer


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedVolume:
    """A volume in memory."""

    image: sitk.Image
    """As stored, in its own orientation."""
    sha256: str
    """Digest of its source."""
    notes: tuple[str, ...] = ()
    """What was decided when reading it."""
    further: tuple[sitk.Image, ...] = ()
    """Its other channels, on the same grid."""


class Volume(ABC):
    """Where a volume is; nothing is read before it is asked for."""

    name: str
    """Path for messages."""

    @abstractmethod
    def paths(self) -> tuple[Path, ...]:
        """Return every file on which it depends what is read, archives as one file; reads nothing."""

    @abstractmethod
    def read_geometry(self) -> Geometry:
        """Read headers only; raises SourceError."""

    @abstractmethod
    def read(self) -> LoadedVolume:
        """Read everything; raises SourceError."""


def read_nifti(
    source: SourceFile,
    *,
    values: Callable[[NDArray[np.generic], ImageHeader], NDArray[np.generic]] = scaled,
    is_volume: bool = True,
) -> LoadedVolume:
    """Read a `.nii.gz` file wholly; `values` makes values of the stored numbers.

    Raises
    ------
    SourceError
        If it is empty, not gzip, cut short, not NIfTI, contradicts itself, or holds NaN or infinity; with `is_volume`
        also if it is a plane.
    """
    with naming(source), source.open() as stream:
        file = NiftiFile(stream, must_be_gzip=True)
        if is_volume:
            check_is_volume(file.header)
        image = sitk.GetImageFromArray(values(file.read(ReadBuffer()), file.header))
    return LoadedVolume(
        image=placed(image, file.header.geometry),
        sha256=file.sha256(),
        notes=tuple(f"{source}: {note}" for note in file.header.notes),
    )


def read_nifti_geometry(source: SourceFile, *, is_volume: bool = True) -> Geometry:
    """Read only the header of a `.nii.gz` file, and whether the file is cut short where that is cheap to see.

    Raises
    ------
    SourceError
        As `read_nifti`, as far as the header and the last bytes of the file tell.
    """
    with naming(source), source.open() as stream:
        file = NiftiFile(stream, must_be_gzip=True)
        if is_volume:
            check_is_volume(file.header)
        # A file inside a zip archive would have to be unpacked up to its end.
        if source.path.suffix != ".zip":
            file.check_size()
    return file.header.geometry


class NiftiVolume(Volume):
    """A volume in one `.nii.gz` file."""

    def __init__(self, source: SourceFile) -> None:
        self.name = str(source)
        self._source = source

    def paths(self) -> tuple[Path, ...]:
        """Return the file or the archive that holds it."""
        return (self._source.path,)

    def read_geometry(self) -> Geometry:
        """Read the header."""
        return read_nifti_geometry(self._source)

    def read(self) -> LoadedVolume:
        """Read the file."""
        return read_nifti(self._source)
