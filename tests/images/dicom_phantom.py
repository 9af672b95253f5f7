"""A small CT as DICOM files, written with pydicom; each test changes what it is about.

Six axial slices of 8 rows and 10 columns, 2.0 mm between columns, 1.5 between rows, 5.0 between slices, the first voxel
at (-10, -20, 30) in LPS. The HU at (z, y, x) are 100 z + 10 y + x - 900. Files are named against the order of heights.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SHAPE = (6, 8, 10)
SPACING = (2.0, 1.5, 5.0)
ORIGIN = (-10.0, -20.0, 30.0)
ROOT = "1.2.826.0.1.3680043.2.1125"

Change = Callable[[int, Dataset], None]


def voxels() -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    return (100 * z + 10 * y + x - 900).astype(np.int16)


def slice_of(index: int, *, series: int = 1) -> Dataset:
    """One slice; stored are HU + 1024 as unsigned numbers of 12 bits."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"{ROOT}.{series}.{index + 1}"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Modality = "CT"
    data.SeriesDescription = f"Thorax {series}"
    data.PatientID = "LUNG1-001"
    data.StudyInstanceUID = f"{ROOT}.9"
    data.SeriesInstanceUID = f"{ROOT}.{series}"
    data.FrameOfReferenceUID = f"{ROOT}.8"
    data.AcquisitionNumber = 1
    data.ImagePositionPatient = [-10, -20, 30 + 5 * index]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = SHAPE[1:]
    data.PixelSpacing = [1.5, 2.0]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleIntercept, data.RescaleSlope = "-1024", "1"
    data.PixelData = (voxels()[index] + 1024).astype("<u2").tobytes()
    return data


def foreign(folder: Path, name: str, *, sop_class: str, modality: str) -> Dataset:
    """Write an object beside the slices that is none, with the UID of the series."""
    data = slice_of(0)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop_class
    data.Modality = modality
    del data.PixelData
    save(data, folder / name)
    return data


def save(data: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def write_series(folder: Path, change: Change | None = None, *, series: int = 1, num: int = SHAPE[0]) -> list[Path]:
    """Write the slices; returns the files from the lowest to the topmost."""
    files = []
    for index in range(num):
        data = slice_of(index, series=series)
        if change is not None:
            change(index, data)
        files.append(folder / f"{series}-{num - index:02d}.dcm")
        save(data, files[-1])
    return files


def write_mask(path: Path, *, size: tuple[int, int, int] = (10, 8, 6), origin: tuple = ORIGIN) -> None:
    """Write an empty mask, stored right-anterior-superior as many tools do."""
    image = sitk.Image(*size, sitk.sitkUInt8)
    image.SetSpacing(SPACING)
    image.SetOrigin(origin)
    sitk.WriteImage(sitk.DICOMOrient(image, "RAS"), str(path))


def nested(depth: int, *, has_length: bool) -> bytes:
    """Return the bytes of a private sequence that holds itself, `depth` times; explicit, little endian."""
    tag, item = b"\x09\0\x10\x10SQ\0\0", b"\xfe\xff\0\xe0"
    if not has_length:
        end = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
        return (tag + b"\xff" * 4 + item + b"\xff" * 4) * depth + end * depth
    # From the inside to the outside: a tag of 12 bytes, an item of 8.
    lengths = [20 * level for level in range(depth)]
    return b"".join(
        tag + (length + 8).to_bytes(4, "little") + item + length.to_bytes(4, "little") for length in reversed(lengths)
    )


def insert_element(path: Path, element: bytes) -> None:
    """Put an element of group 9 where it belongs, before the patient's."""
    content = path.read_bytes()
    at = content.index(b"\x10\0\x20\0LO")
    path.write_bytes(content[:at] + element + content[at:])
