"""A label map as DICOM Segmentation beside the series that it was predicted from, for viewers and archives."""

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from orchestrator.benchmark.predicted import Code
from orchestrator.errors import ConfigError
from orchestrator.images.dicom.stack import Stack
from orchestrator.inference.products.dicom_object import (
    MANUFACTURER,
    MODEL_NAME,
    Segment,
    digest_of,
    headers_of,
    labels_on,
    name_of,
    uid_of,
)

_SERIES_NUMBER = 900


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
) -> tuple[str, ...]:
    """Write the label map of a series as DICOM Segmentation (binary), each frame with the slice that it belongs to.

    Identifiers follow from those of the slices, the label map and the codes: the same segmentation is the same object,
    and archives take a corrected one for another. Returns the keywords of the elements of the series that are left out.

    Parameters
    ----------
    labels, output
        The label map, in the voxel order of the series, and the `.dcm` to write.
    stack, segments
        The slices that it was predicted from, and its structures.
    model, version
        Name of the model, kept as that of the algorithm; version of this software.

    Raises
    ------
    ConfigError
        If highdicom is not installed.
    DataError
        If the label map is not on the grid of the series, or its files name no study.
    NothingFoundError
        If no structure is there at all.
    """
    voxels = labels_on(stack, labels, segments=segments)
    highdicom = require_highdicom()
    headers = headers_of(stack)
    series = uid_of(headers.slices[0].SeriesInstanceUID, model)
    with _quiet():
        highdicom.seg.Segmentation(
            source_images=headers.slices,
            pixel_array=_segments_of(voxels, segments),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_descriptions(highdicom, segments, model=model, version=version),
            series_instance_uid=series,
            series_number=_SERIES_NUMBER,
            series_description=name_of(f"Segmentation by {model}"),
            sop_instance_uid=uid_of(series, digest_of(voxels, segments)),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL_NAME,
            software_versions=version,
            device_serial_number="0",
            content_label="SEGMENTATION",
            omit_empty_frames=True,
        ).save_as(output)
    return headers.left_out


def _segments_of(voxels: NDArray[np.integer], segments: Sequence[Segment]) -> NDArray[np.unsignedinteger]:
    """Return the segment number of each voxel; only where segments overlap masks, shape (Z, Y, X, segments)."""
    labels = [label for segment in segments for label in segment.labels]
    if len(set(labels)) < len(labels):
        masks = np.empty((*voxels.shape, len(segments)), np.uint8)
        for plane, target in zip(voxels, masks, strict=True):
            for number, segment in enumerate(segments):
                target[..., number] = np.isin(plane, segment.labels)
        return masks
    table: NDArray[np.unsignedinteger]
    table = np.zeros(max(*labels, int(voxels.max())) + 1, np.min_scalar_type(len(segments)))
    for number, segment in enumerate(segments, start=1):
        table[list(segment.labels)] = number
    numbers = np.empty_like(table, shape=voxels.shape)
    for plane, target in zip(voxels, numbers, strict=True):  # numpy makes indices of eight bytes of each voxel
        target[:] = table[plane]
    return numbers


def _descriptions(highdicom: ModuleType, segments: Sequence[Segment], *, model: str, version: str) -> list[object]:
    coded = highdicom.sr.CodedConcept
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=name_of(model), version=version, family=coded("123109", "DCM", "Artificial Intelligence")
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name_of(segment.name),
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
