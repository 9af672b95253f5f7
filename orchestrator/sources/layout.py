"""What a download looks like on disk: the questions that each answers in its own file."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import SimpleITK as sitk

from orchestrator.configuration import listing
from orchestrator.errors import ConfigError
from orchestrator.images.geometry import Geometry, orient_to_lps
from orchestrator.images.label_maps import mask_values
from orchestrator.images.problem import SourceError
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import LoadedVolume, Volume, read_nifti, read_nifti_geometry
from orchestrator.sources.intensity import Intensities
from orchestrator.sources.labels import LabelRule


class Layout(ABC):
    """One public download as its owner ships it, below `folder`."""

    name: ClassVar[str]
    """Name of the folder below the data folder, and of the download in a study."""
    origin: ClassVar[str]
    """Where to get it, for the advice in messages."""
    licence: ClassVar[str] = ""
    """Under which its owner hands it out, for the cards of models; empty if that is not known here."""
    rules: ClassVar[Mapping[str, LabelRule]]
    """Label set to the meaning of the values of its masks."""

    def __init__(self, downloads: Path) -> None:
        self.folder = downloads / self.name
        if not self.folder.is_dir():
            raise SourceError.of(
                self.folder,
                found="no such folder",
                expected=f"the download {self.name}",
                advice=f"Get it from {self.origin}, or pass another --data.",
            )

    @classmethod
    @abstractmethod
    def may_concern(cls, path: PurePosixPath, *, case_name: str) -> bool:
        """Whether a file can be needed for a case: any that does not bear the name of another one, archives too."""

    @abstractmethod
    def find_image(self, case_name: str, *, label_set: str) -> Volume:
        """Find the image of a case; raises SourceError. Where a case ships twice, `label_set` chooses."""

    @abstractmethod
    def find_labels(self, case_name: str, *, label_set: str) -> SourceFile:
        """Find the mask of a case; raises SourceError."""

    def check_grid(self, geometry: Geometry, *, name: str) -> None:
        """Raise SourceError for an image in LPS whose grid cannot be right."""
        del geometry, name

    def intensities(self, voxels: np.ndarray, *, channel: int, name: str) -> Intensities:
        """Take the intensities (Z, Y, X) of a channel of an image; raises SourceError."""
        del channel, name
        return Intensities(array=voxels)

    def odd_grid(self, geometry: Geometry, *, name: str) -> tuple[str, ...]:
        """Return what is hardly right about the size of a volume."""
        del geometry, name
        return ()

    def implausible(self, image: sitk.Image, labels: sitk.Image, *, label_set: str, name: str) -> tuple[str, ...]:
        """Return what is hardly right about a label map on the grid of its image, one sentence each."""
        del image, labels, label_set, name
        return ()

    def implausible_beside(
        self, labels: sitk.Image, others: sitk.Image, *, label_sets: tuple[str, str], name: str
    ) -> tuple[str, ...]:
        """Return what is hardly right about a label map beside that of another label set of the case."""
        del labels, others, label_sets, name
        return ()

    def oriented(self, image: sitk.Image) -> sitk.Image:
        """Return an image or mask with its axes in the order in which it is trained on; nothing is interpolated."""
        return orient_to_lps(image)

    def oriented_grid(self, grid: Geometry) -> Geometry:
        """Return a grid with its axes as `oriented` has them."""
        return grid.to_lps()

    def read_labels(self, mask: SourceFile) -> LoadedVolume:
        """Read a mask that was found, as it is stored; raises SourceError."""
        return read_nifti(mask, values=mask_values)

    def read_labels_grid(self, mask: SourceFile) -> Geometry:
        """Read the header of a mask that was found; raises SourceError."""
        return read_nifti_geometry(mask)

    def label_files(self, mask: SourceFile) -> tuple[Path, ...]:
        """Return all files that a mask is read from, archives as one file."""
        return (mask.path,)

    def rule(self, label_set: str) -> LabelRule:
        """Meaning of the masks' values; raises ConfigError for a label set that this download does not have."""
        if label_set not in self.rules:
            raise ConfigError(f"{self.name}: no label set {label_set!r}; expected one of {', '.join(self.rules)}")
        return self.rules[label_set]

    def missing(
        self, where: object, *, case_name: str, expected: str, there: Iterable[str], advice: str = ""
    ) -> SourceError:
        """Error for a file of a case that is not there; without advice it says where the download comes from."""
        return SourceError.of(
            where,
            found=f"no file for case {case_name} among {listing(sorted(there))}",
            expected=expected,
            advice=advice or f"Get it from {self.origin}.",
        )
