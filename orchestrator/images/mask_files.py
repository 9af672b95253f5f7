"""Label maps as files."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.errors import DataError, is_out_of_memory
from orchestrator.images.compressed_damage import SUFFIXES as COMPRESSED_SUFFIXES
from orchestrator.images.compressed_damage import check_compressed
from orchestrator.images.geometry import Geometry
from orchestrator.images.nifti_damage import check_nifti
from orchestrator.images.nifti_labels import ReadBuffer, read_usual_nifti

# Headers keep floats with few digits, and tools round them differently.
_RELATIVE_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskFile:
    """A label map with the geometry of its header; size, origin and direction are in SimpleITK's (x, y, z) order."""

    array: NDArray[np.integer]
    """Shape (Z, Y, X), C order, values 0 to 255."""
    spacing_mm: tuple[float, float, float]
    """(z, y, x), as the header gives it."""
    size: tuple[int, ...]
    """Voxels along (x, y, z)."""
    origin: tuple[float, ...]
    """Position of the first voxel in mm."""
    direction: tuple[float, ...]
    """Direction cosines, row by row."""

    @property
    def geometry(self) -> Geometry:
        """Grid of the header."""
        z, y, x = self.spacing_mm
        return Geometry(size=self.size, spacing_mm=(x, y, z), origin_mm=self.origin, direction=self.direction)


def read_mask(path: Path, *, buffer: ReadBuffer | None = None) -> MaskFile:
    """Read a label map of labels 0 to 255.

    Parameters
    ----------
    path : a file that SimpleITK reads, with three axes; floats are taken if they are whole numbers
    buffer : memory to read into; the array is good until the next file is read into it

    Raises
    ------
    DataError : if the file is missing, cut short or unreadable, or does not hold whole numbers from 0 to 255 on three
        axes
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a label map")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: may not be read by this user; expected a readable label map")
    usual = read_usual_nifti(path, buffer or ReadBuffer())
    if usual is not None:
        x, y, z = usual.spacing_mm
        return MaskFile(
            array=_as_labels(usual.array, path=path),
            spacing_mm=(z, y, x),
            size=usual.array.shape[::-1],
            origin=usual.origin,
            direction=usual.direction,
        )
    if path.name.lower().endswith((".nii", ".nii.gz")):
        check_nifti(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise  # says nothing about the file
        reason = str(error).strip().splitlines()[-1]
        raise DataError(f"{path}: not readable as an image ({reason}); write or download it again") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise DataError(
            f"{path}: {image.GetDimension()} axes and {image.GetNumberOfComponentsPerPixel()} values a voxel; "
            "expected a label map of three axes and one value"
        )
    if path.name.lower().endswith(COMPRESSED_SUFFIXES):
        check_compressed(path, num_bytes=image.GetNumberOfPixels() * image.GetSizeOfPixelComponent())
    axes = np.reshape(image.GetDirection(), (3, 3))
    if not np.allclose(axes.T @ axes, np.eye(3), atol=_RELATIVE_TOLERANCE):
        raise DataError(f"{path}: axes {image.GetDirection()}; expected such at right angles to each other")
    x, y, z = image.GetSpacing()
    return MaskFile(
        array=_as_labels(sitk.GetArrayFromImage(image), path=path),
        spacing_mm=(z, y, x),
        size=image.GetSize(),
        origin=image.GetOrigin(),
        direction=image.GetDirection(),
    )


def _as_labels(array: NDArray[np.generic], *, path: Path) -> NDArray[np.integer]:
    numbers = np.ascontiguousarray(array)
    if numbers.dtype == np.uint8:
        return numbers.view(np.uint8)
    if numbers.dtype.kind not in "iuf":
        raise DataError(f"{path}: voxels are {numbers.dtype}; expected integer labels")
    # Written so that NaN fails as well.
    if numbers.size and not (numbers.min() >= 0 and numbers.max() <= 255):
        raise DataError(
            f"{path}: values from {numbers.min()} to {numbers.max()}; expected integer labels from 0 to 255"
        )
    if numbers.dtype.kind in "iu":
        return numbers
    labels = numbers.astype(np.uint8)
    if not np.array_equal(labels, numbers):
        example = numbers[labels != numbers].flat[0]
        raise DataError(f"{path}: holds the value {example}; expected integer labels, not probabilities or an image")
    return labels
