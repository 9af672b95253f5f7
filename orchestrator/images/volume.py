"""A CT volume of a download before conversion: one NIfTI file or one DICOM series, behind one door."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from orchestrator.images.geometry import Geometry
from orchestrator.images.nifti import read_nifti, read_nifti_geometry
from orchestrator.images.source_file import SourceFile


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
        loaded = read_nifti(self._source)
        return LoadedVolume(image=loaded.image, sha256=loaded.sha256, notes=loaded.notes)
