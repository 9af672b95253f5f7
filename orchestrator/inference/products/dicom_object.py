"""What every DICOM object that is made of a label map has: structures, the slices that it is of, identifiers."""

import hashlib
import math
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
    from pydicom.dataelem import DataElement
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
_WITH_FORM = frozenset({"AS", "CS", "DA", "DS", "DT", "IS", "TM"})
"""Kinds of elements whose values cannot be any text. Identifiers are kept as they are, even too long ones: by them an
archive finds the series that an object belongs to."""
_OF_PATIENT_AND_STUDY = frozenset({0x0008, 0x0010, 0x0012, 0x0032, 0x0038})
"""Groups of elements that objects have from their series."""
_SEXES = frozenset({"M", "F", "O"})

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
    labels_of_all = [label for segment in segments for label in segment.labels]
    # Of the whole volume numpy makes copies of eight bytes a voxel.
    if not any(np.isin(plane, labels_of_all).any() for plane in voxels):
        raise NothingFoundError(f"{labels}: no structure was found, and DICOM knows no segmentation without any")
    return voxels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Headers:
    """What the slices of a series say."""

    slices: tuple["Dataset", ...]
    """The header of each, without pixels."""
    left_out: tuple[str, ...]
    """Keywords of the elements of patient and study whose values were none that DICOM has."""


def headers_of(stack: Stack) -> Headers:
    """Return the header of each slice, with what must be there, and its texts as Unicode, whatever they were.

    Elements that must be there are empty where their value is none of their kind, as `ANONYMIZED` of a date; others are
    left out. Where several values stand in place of one, it is the first. Raises DataError for a file without study.
    """
    import pydicom

    found: list[Dataset] = []
    left_out: set[str] = set()
    for each in stack.slices:
        header = pydicom.dcmread(each.file, stop_before_pixels=True)
        if not header.get("StudyInstanceUID"):
            raise DataError(
                f"{each.file}: no StudyInstanceUID; expected that of its study, to which an object of it belongs. "
                "Export the series again"
            )
        # Objects are written in a character set that has the letters of all names, those of structures too.
        header.decode()
        header.SpecificCharacterSet = UNICODE
        left_out.update(_clean(header))
        for keyword in NEEDED:
            if keyword not in header:
                setattr(header, keyword, "")
        if not header.get("FrameOfReferenceUID"):
            header.FrameOfReferenceUID = uid_of(str(header.SeriesInstanceUID), "frame")
        if "SliceThickness" not in header or not _is_sound(header["SliceThickness"]):
            header.SliceThickness = f"{stack.geometry.spacing_mm[2]:.6g}"
        found.append(header)
    return Headers(slices=tuple(found), left_out=tuple(sorted(left_out)))


def _clean(header: "Dataset") -> list[str]:
    """Remove what is none of its kind in patient and study, and more than one value; return keywords of the former."""
    from pydicom.datadict import dictionary_VM

    removed = []
    for element in list(header):
        if element.keyword and element.VM > 1 and dictionary_VM(element.tag) == "1":
            element.value = element.value[0]
        if element.tag.group in _OF_PATIENT_AND_STUDY and not _is_sound(element):
            removed.append(element.keyword or str(element.tag))
            del header[element.tag]
    return removed


def _is_sound(element: "DataElement") -> bool:
    """Whether the values of an element are of its kind; numbers may have more digits than DICOM allows."""
    from pydicom.config import RAISE
    from pydicom.valuerep import DA, TM, validate_value

    if element.VR not in _WITH_FORM or element.VM == 0:
        return True
    texts = [str(value) for value in (element.value if element.VM > 1 else [element.value])]
    try:
        if element.VR == "DS":
            return all(math.isfinite(float(text)) for text in texts)
        for text in texts:
            validate_value(element.VR, text, RAISE)
            {"DA": DA, "TM": TM}.get(element.VR, str)(text)
    except ValueError:
        return False
    return element.keyword != "PatientSex" or texts[0] in _SEXES


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
