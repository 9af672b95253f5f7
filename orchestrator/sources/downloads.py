"""From a data folder to cases, the door of this room: convert one, look through all, write what was converted."""

from orchestrator.sources.case import CaseRequest, ConvertedImage, ConvertedLabels
from orchestrator.sources.case_files import write_volume
from orchestrator.sources.convert import (
    convert_image,
    convert_labels,
    source_of_image_now,
    source_of_labels_now,
    stamp_image_now,
    stamp_labels_now,
)
from orchestrator.sources.inspect import Inspection, inspect_downloads, voxels_by_header
from orchestrator.sources.registry import LAYOUTS, concerned_files
from orchestrator.sources.stamps import FileStamp, SourceStamp, changed_files

__all__ = [
    "LAYOUTS",
    "CaseRequest",
    "ConvertedImage",
    "ConvertedLabels",
    "FileStamp",
    "Inspection",
    "SourceStamp",
    "changed_files",
    "concerned_files",
    "convert_image",
    "convert_labels",
    "inspect_downloads",
    "source_of_image_now",
    "source_of_labels_now",
    "stamp_image_now",
    "stamp_labels_now",
    "voxels_by_header",
    "write_volume",
]
