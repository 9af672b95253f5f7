"""What every DICOM object that is made of a label map has: structures, the slices that it is of, identifiers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.benchmark.predicted import Code, SegmentCodes
from orchestrator.errors import DataError
from orchestrator.images.dicom.stack import Stack
from orchestrator.images.geometry import geometry_of, grid_difference

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MANUFACTURER, MODEL_NAME = "nnU-Net orchestrator", "nnU-Net"
TISSUE: Code = ("SCT", "85756007", "Tissue")
"""What a structure is whose code nobody has said."""
UNKNOWN = SegmentCodes(category=TISSUE, type=TISSUE, region=None)
NEEDED = (
    "AccessionNumber",
    "PatientBirthDate",
    "PatientID",
    "PatientName",
    "PatientSex",
    "ReferringPhysicianName",
    "StudyDate",
    "StudyID",
    "StudyTime",
)
"""Elements that every DICOM object must have, though they may be empty; files that were made anonymous lack some."""


UNICODE = "ISO_IR 192"
_MOST_LETTERS = 64
"""Of a name in DICOM."""


class NothingFoundError(DataError):
    """A label map without any structure: DICOM knows no segmentation without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One structure of a label map."""

    name: str
    labels: tuple[int, ...]
    """Its values; those of a region are several, and regions may overlap."""
    codes: SegmentCodes = UNKNOWN


def labels_on(stack: Stack, labels: Path, *, segments: Sequence[Segment]) -> NDArray[np.integer]:
    """Return the voxels of a label map of a series.

    Raises DataError if it is not on the grid of the series, NothingFoundError if no structure is there at all.
    """
    image = sitk.ReadImage(str(labels))
    if difference := grid_difference(stack.geometry, geometry_of(image)):
        raise DataError(f"{labels}: not on the grid of its series: {difference.words}")
    voxels: NDArray[np.integer] = sitk.GetArrayFromImage(image)
    if not np.isin(voxels, [label for segment in segments for label in segment.labels]).any():
        raise NothingFoundError(f"{labels}: no structure was found, and DICOM knows no segmentation without any")
    return voxels


def headers_of(stack: Stack) -> list["Dataset"]:
    """Return the header of each slice, with what must be there, and its texts as Unicode, whatever they were."""
    import pydicom

    found: list[Dataset] = []
    for each in stack.slices:
        header = pydicom.dcmread(each.file, stop_before_pixels=True)
        for keyword in NEEDED:
            if keyword not in header:
                setattr(header, keyword, "")
        # Objects are written in a character set that has the letters of all names, those of structures too.
        header.decode()
        header.SpecificCharacterSet = UNICODE
        if not header.get("FrameOfReferenceUID"):
            header.FrameOfReferenceUID = uid_of(str(header.SeriesInstanceUID), "frame")
        if "SliceThickness" not in header:
            header.SliceThickness = f"{stack.geometry.spacing_mm[2]:.6g}"
        found.append(header)
    return found


def uid_of(*parts: str) -> str:
    """Return a UID that follows from texts, of the root for UUIDs."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def digest_of(voxels: NDArray[np.integer], segments: Sequence[Segment]) -> str:
    """Return the digest of a label map and what is said of its structures."""
    digest = hashlib.sha256(np.ascontiguousarray(voxels).data)
    digest.update(repr(list(segments)).encode())
    return digest.hexdigest()


def name_of(text: str) -> str:
    """Return a name as DICOM has it: of so many letters, without the backslash, which divides values there."""
    return "".join(letter if letter.isprintable() and letter != "\\" else "_" for letter in text)[:_MOST_LETTERS]
