"""A label map as contours (DICOM RT Structure Set) of the series that it was predicted from, for planning systems."""

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.images.dicom.slice import Slice
from orchestrator.images.dicom.stack import Stack
from orchestrator.inference.products.dicom_object import (
    MANUFACTURER,
    MODEL_NAME,
    NEEDED,
    UNICODE,
    UNKNOWN,
    Segment,
    digest_of,
    headers_of,
    labels_on,
    name_of,
    uid_of,
)
from orchestrator.inference.products.outlines import Polygon, outlines
from orchestrator.inference.products.overlays import colour_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SERIES_NUMBER = 901
_COPIED = (*NEEDED, "StudyDescription", "StudyInstanceUID")
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Retired, and still what the reference to a study in a structure set names."""


def write_dicom_rtstruct(
    labels: Path, output: Path, *, stack: Stack, segments: Sequence[Segment], model: str, version: str
) -> tuple[str, ...]:
    """Write the label map of a series as closed planar contours, each in the plane of its slice, which it names.

    Contours run along the edges of voxels: filled, they are the voxels of the label map again, and their area is
    theirs. A hole is joined to its surroundings by a channel without width, as the standard says; readers that fill
    each contour by itself, and those that let contours exclude each other, see the same. Structures that were not
    found are left out. Parameters, result and errors are those of `write_dicom_seg`, but that no further library is
    needed.
    """
    voxels = labels_on(stack, labels, segments=segments)
    # Most slices have few of many structures, and are not searched for the others.
    labels_of_slices = [set(np.unique(plane).tolist()) for plane in voxels]
    there = set().union(*labels_of_slices)
    found = [segment for segment in segments if there.intersection(segment.labels)]
    series = headers_of(stack)
    slices = list(zip(voxels, labels_of_slices, stack.slices, series.slices, strict=True))
    data = _described(series.slices, voxels, model=model, version=version, segments=segments)
    frame = data.FrameOfReferenceUID
    data.ReferencedFrameOfReferenceSequence = [_referenced(series.slices, frame=frame)]
    data.StructureSetROISequence = [
        _item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=frame,
            ROIName=name_of(segment.name),
            ROIGenerationAlgorithm="AUTOMATIC",
            ROIGenerationDescription=name_of(model),
        )
        for number, segment in enumerate(found, start=1)
    ]
    data.ROIContourSequence = [
        _item(
            ReferencedROINumber=number,
            ROIDisplayColor=[round(channel) for channel in colour_of(segment.labels[0])],
            ContourSequence=list(_contours(segment, slices)),
        )
        for number, segment in enumerate(found, start=1)
    ]
    data.RTROIObservationsSequence = [_observed(number, segment) for number, segment in enumerate(found, start=1)]
    data.save_as(output, enforce_file_format=True)
    return series.left_out


def _described(
    headers: Sequence["Dataset"], voxels: NDArray[np.integer], *, model: str, version: str, segments: Sequence[Segment]
) -> "Dataset":
    """Return the object without its structures."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

    series = uid_of(str(headers[0].SeriesInstanceUID), model, "contours")
    now = datetime.datetime.now().astimezone()
    data = _item(
        SpecificCharacterSet=UNICODE,
        SOPClassUID=RTStructureSetStorage,
        SOPInstanceUID=uid_of(series, digest_of(voxels, segments)),
        Modality="RTSTRUCT",
        SeriesInstanceUID=series,
        SeriesNumber=_SERIES_NUMBER,
        SeriesDescription=name_of(f"Contours by {model}"),
        InstanceNumber=1,
        OperatorsName="",
        FrameOfReferenceUID=str(headers[0].FrameOfReferenceUID),
        PositionReferenceIndicator=str(headers[0].get("PositionReferenceIndicator") or ""),
        Manufacturer=MANUFACTURER,
        ManufacturerModelName=MODEL_NAME,
        SoftwareVersions=version[:64],
        StructureSetLabel=MODEL_NAME,
        StructureSetName=name_of(model),
        StructureSetDate=now.strftime("%Y%m%d"),
        StructureSetTime=now.strftime("%H%M%S"),
        ApprovalStatus="UNAPPROVED",
    )
    for keyword in _COPIED:
        if keyword in headers[0]:
            # As text: names are written in the character set of this object.
            setattr(data, keyword, str(headers[0].get(keyword) or ""))
    data.file_meta = FileMetaDataset()
    # Contours of more than 64 KiB cannot be written with explicit types but as unknown ones.
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return data


def _referenced(headers: Sequence["Dataset"], *, frame: str) -> "Dataset":
    """Return the reference to the frame, the study, the series and its slices."""
    series = _item(
        SeriesInstanceUID=str(headers[0].SeriesInstanceUID), ContourImageSequence=[_slice(header) for header in headers]
    )
    study = _item(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=str(headers[0].StudyInstanceUID),
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])


def _slice(header: "Dataset") -> "Dataset":
    return _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)


def _contours(
    segment: Segment, slices: Sequence[tuple[NDArray[np.integer], set[int], Slice, "Dataset"]]
) -> Iterator["Dataset"]:
    for plane, labels, place, header in slices:
        if labels.isdisjoint(segment.labels):
            continue
        for polygon in outlines(np.isin(plane, segment.labels)):
            contour = _item(
                ContourImageSequence=[_slice(header)],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(polygon),
            )
            _add_points(contour, _positions_mm(polygon, place))
            yield contour


def _positions_mm(polygon: Polygon, place: Slice) -> NDArray[np.float64]:
    """Return corners in the coordinates of the patient, shape (corners, 3)."""
    rows, columns = polygon.T
    along_row, along_column = (
        np.outer(columns * place.spacing_mm[0], place.row),
        np.outer(rows * place.spacing_mm[1], place.column),
    )
    positions: NDArray[np.float64] = np.asarray(place.origin_mm) + along_row + along_column
    return positions


def _add_points(contour: "Dataset", positions_mm: NDArray[np.float64]) -> None:
    """Add the points, as text already: there may be millions, and each would be looked at."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    text = "\\".join(f"{value:.4f}" for value in positions_mm.ravel().tolist()).encode()
    text += b" " * (len(text) % 2)
    tag = Tag("ContourData")
    contour[tag] = RawDataElement(tag, "DS", len(text), text, 0, is_implicit_VR=True, is_little_endian=True)


def _observed(number: int, segment: Segment) -> "Dataset":
    observed = _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
    if segment.codes != UNKNOWN:
        scheme, value, meaning = segment.codes.type
        code = _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
        observed.RTROIIdentificationCodeSequence = [code]
    return observed


def _item(**elements: object) -> "Dataset":
    from pydicom.dataset import Dataset

    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made
