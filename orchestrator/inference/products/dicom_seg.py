"""A label map as DICOM Segmentation beside the series that it was predicted from, for viewers and archives."""

import hashlib
import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.benchmark.predicted import Code, SegmentCodes
from orchestrator.errors import ConfigError, DataError
from orchestrator.images.dicom.stack import Stack
from orchestrator.images.geometry import geometry_of, grid_difference

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

TISSUE: Code = ("SCT", "85756007", "Tissue")
"""What a structure is whose code nobody has said."""
_NEEDED = (
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
_MANUFACTURER, _MODEL_NAME = "nnU-Net orchestrator", "nnU-Net"
_SERIES_NUMBER = 900


UNKNOWN = SegmentCodes(category=TISSUE, type=TISSUE, region=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One structure of a label map."""

    name: str
    labels: tuple[int, ...]
    """Its values; those of a region are several, and regions may overlap."""
    codes: SegmentCodes = UNKNOWN


def require_highdicom() -> ModuleType:
    """Return the library that writes DICOM Segmentation; raises ConfigError if it is not installed."""
    try:
        return importlib.import_module("highdicom")
    except ImportError as error:
        raise ConfigError(
            "DICOM Segmentation needs the library highdicom, which is not installed; expected "
            "pip install 'nnunet-orchestrator[dicom]'"
        ) from error


def write_dicom_seg(
    labels: Path, output: Path, *, stack: Stack, segments: Sequence[Segment], model: str, version: str
) -> None:
    """Write the label map of a series as DICOM Segmentation (binary), each frame with the slice that it belongs to.

    Identifiers follow from those of the slices and the label map: the same segmentation is the same object.

    Parameters
    ----------
    labels, output
        The label map, in the voxel order of the series, and the `.dcm` to write.
    stack
        The slices that it was predicted from.
    segments
        Its structures.
    model, version
        Name of the model, kept as that of the algorithm; version of this software.

    Raises
    ------
    ConfigError
        If highdicom is not installed.
    DataError
        If the label map is not on the grid of the series, or no structure is there at all.
    """
    voxels = _labels_of(labels, stack)
    masks = np.stack([np.isin(voxels, segment.labels) for segment in segments], axis=-1)
    if not masks.any():
        raise DataError(f"{labels}: no structure was found, and a segmentation without any cannot be written")
    highdicom = require_highdicom()
    sources = [_source(each.file, thickness_mm=stack.geometry.spacing_mm[2]) for each in stack.slices]
    series = _uid(sources[0].SeriesInstanceUID, model)
    with _quiet():
        highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=masks.astype(np.uint8),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_descriptions(highdicom, segments, model=model, version=version),
            series_instance_uid=series,
            series_number=_SERIES_NUMBER,
            series_description=f"Segmentation by {model}"[:64],
            sop_instance_uid=_uid(series, hashlib.sha256(voxels.tobytes()).hexdigest()),
            instance_number=1,
            manufacturer=_MANUFACTURER,
            manufacturer_model_name=_MODEL_NAME,
            software_versions=version,
            device_serial_number="0",
            content_label="SEGMENTATION",
            omit_empty_frames=True,
        ).save_as(output)


def _labels_of(labels: Path, stack: Stack) -> NDArray[np.integer]:
    """Return a label map, which must lie on the grid of its series."""
    image = sitk.ReadImage(str(labels))
    if difference := grid_difference(stack.geometry, geometry_of(image)):
        raise DataError(f"{labels}: not on the grid of its series: {difference.words}")
    voxels: NDArray[np.integer] = sitk.GetArrayFromImage(image)
    return voxels


def _source(file: Path, *, thickness_mm: float) -> "Dataset":
    """Return the header of a slice, with what must be there."""
    import pydicom

    found = pydicom.dcmread(file, stop_before_pixels=True)
    for keyword in _NEEDED:
        if keyword not in found:
            setattr(found, keyword, "")
    if "SliceThickness" not in found:
        found.SliceThickness = f"{thickness_mm:.6g}"
    return found


def _descriptions(highdicom: ModuleType, segments: Sequence[Segment], *, model: str, version: str) -> list[object]:
    coded = highdicom.sr.CodedConcept
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=model[:64], version=version, family=coded("123109", "DCM", "Artificial Intelligence")
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment.name[:64],
            segmented_property_category=_coded(coded, segment.codes.category),
            segmented_property_type=_coded(coded, segment.codes.type),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            anatomic_regions=None if segment.codes.region is None else [_coded(coded, segment.codes.region)],
        )
        for number, segment in enumerate(segments, start=1)
    ]


def _coded(concept: type, code: Code) -> object:
    scheme, value, meaning = code
    return concept(value, scheme, meaning)


def _uid(*parts: str) -> str:
    """Return a UID that follows from texts, of the root for UUIDs."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Context in which highdicom logs nothing; it warns of the patients' data that it copies."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
