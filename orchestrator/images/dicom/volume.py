"""A CT volume that is a DICOM series in the folders of a patient."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from orchestrator.images.dicom.pixels import decode
from orchestrator.images.dicom.series import choose_stack, dicom_files
from orchestrator.images.dicom.stack import Stack
from orchestrator.images.geometry import Geometry, placed
from orchestrator.images.problem import SourceError
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import LoadedVolume, Volume

_HIGHEST_HU = 32767


class DicomVolume(Volume):
    """The CT series below the folders of one patient; of several the one on whose grid the masks lie.

    Where there are no masks to be had (None), of several the only one that is whole and not derived from others. It may
    be one of MR where the modalities say so.
    """

    def __init__(
        self,
        folders: tuple[Path, ...],
        *,
        name: str,
        masks: tuple[SourceFile, ...] | None = (),
        modalities: tuple[str, ...] = ("CT",),
    ) -> None:
        self.name = name
        self._folders = folders
        self._masks = masks
        self._modalities = modalities

    def paths(self) -> tuple[Path, ...]:
        """Return all files of the folders: a further series or slice can change what is read."""
        return tuple(file for file in dicom_files(self._folders) if file.is_file())

    def read_geometry(self) -> Geometry:
        """Read the header of every file, and decide by them what `read` reads."""
        return self.stack().geometry

    def read(self) -> LoadedVolume:
        """Read the series; the digest covers the digests of its files in the order of their positions."""
        stack = self.stack()
        decoded = decode(stack.slices)
        image = placed(sitk.GetImageFromArray(decoded.voxels), stack.geometry)
        highest = decoded.voxels.max(axis=(1, 2))
        if highest.max() > _HIGHEST_HU and self._modalities == ("CT",):
            raise SourceError.of(
                stack.slices[int(highest.argmax())].file,
                found=f"a value of {highest.max():.6g} HU",
                expected=f"{_HIGHEST_HU} HU or less",
                advice="Its PixelRepresentation or its rescale intercept is wrong: export it again.",
            )
        notes = (*stack.notes, *self._notes_on_values(stack, decoded.voxels))
        return LoadedVolume(image=image, sha256=decoded.sha256, notes=notes)

    def stack(self) -> Stack:
        """Read the header of every file, and return the slices that `read` reads; raises SourceError."""
        return choose_stack(self._folders, name=self.name, masks=self._masks, modalities=self._modalities)

    def _notes_on_values(self, stack: Stack, voxels: np.ndarray) -> list[str]:
        notes = []
        if len({each.rescale for each in stack.slices}) > 1:
            notes.append(f"{self.name}: slices have rescale slopes or intercepts of their own; each was applied to its")
        paddings = {each.padding_value for each in stack.slices if each.padding_value is not None}
        num_padded = sum(int(np.count_nonzero(plane == padding)) for padding in paddings for plane in voxels)
        if num_padded:
            values = ", ".join(f"{padding:g}" for padding in sorted(paddings))
            unit = " HU" if self._modalities == ("CT",) else ""
            notes.append(f"{self.name}: {num_padded} voxels are padding of {values}{unit}, kept as they are")
        return notes
