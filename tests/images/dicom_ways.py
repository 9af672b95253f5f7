"""One CT as DICOM in many ways: turned, in another order, encoded otherwise, with other things beside it."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import dicom_phantom as phantom
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from bench.instruments.stock_models import write_image

Change = Callable[[int, Dataset], None]
SPACING = (1.0, 1.25, 2.5)


def scan(folder: Path) -> sitk.Image:
    """A CT of noise in LPS, whose spacing and origin every format holds exactly."""
    (path,) = write_image(folder / "scan", shape=(12, 24, 26), seed=3)
    voxels = np.clip(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), -1000, 2000)
    path.unlink()
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING)
    image.SetOrigin((-16.0, 8.0, 32.0))
    return image


def write_dicom(
    image: sitk.Image, folder: Path, change: Change = lambda _index, _data: None, *, series: int = 1
) -> None:
    """Write the slices of an image along its third axis, named against their order."""
    direction, voxels = np.reshape(image.GetDirection(), (3, 3)), sitk.GetArrayFromImage(image)
    x_mm, y_mm, _ = image.GetSpacing()
    for index, plane in enumerate(voxels):
        data = phantom.slice_of(0, series=series)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{phantom.ROOT}.{series}.{index + 1}"
        data.Rows, data.Columns = plane.shape
        data.PixelSpacing = [y_mm, x_mm]
        data.ImageOrientationPatient = [round(float(value), 9) for value in direction[:, :2].T.ravel()]
        position = image.TransformIndexToPhysicalPoint((0, 0, index))
        data.ImagePositionPatient = [f"{value:.6f}" for value in position]
        data.InstanceNumber = index + 1
        data.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()
        change(index, data)
        phantom.save(data, folder / f"{series}-{len(voxels) - index:02d}.dcm")


def oblique(image: sitk.Image) -> sitk.Image:
    turned = sitk.Image(image)
    turned.SetDirection((1.0, 0.0, 0.0, 0.0, 0.8, -0.6, 0.0, 0.6, 0.8))
    return turned


def signed(_: int, data: Dataset) -> None:
    values = np.frombuffer(data.PixelData, "<u2").astype(np.int32) - 1024
    data.PixelRepresentation, data.RescaleIntercept = 1, "0"
    data.BitsStored, data.HighBit = 16, 15
    data.PixelData = values.astype("<i2").tobytes()


def implicit(_: int, data: Dataset) -> None:
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def rle(_: int, data: Dataset) -> None:
    data.compress(RLELossless, generate_instance_uid=False)


def jpeg_2000(_: int, data: Dataset) -> None:
    """Compress by GDCM, which writes a file of its own."""
    plane = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "plane.dcm")
        sitk.WriteImage(sitk.GetImageFromArray(plane[None]), file, useCompression=True)
        written = pydicom.dcmread(file)
        assert written.file_meta.TransferSyntaxUID == JPEG2000Lossless
        (frame,) = generate_frames(written.PixelData, number_of_frames=1)
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.BitsStored, data.HighBit = 16, 15
    data.PixelData = encapsulate([frame])
    data["PixelData"].is_undefined_length = True


def tilted(index: int, data: Dataset) -> None:
    x, y, z = map(float, data.ImagePositionPatient)
    data.ImagePositionPatient = [x, y + 0.8 * index, z]


def localiser(folder: Path) -> None:
    data = phantom.slice_of(0)
    data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{phantom.ROOT}.77"
    phantom.save(data, folder / "scout.dcm")


def derived(_: int, data: Dataset) -> None:
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]


TURNED = {
    "as it is": "LPS",
    "feet first": "RPI",
    "prone": "RAS",
    "decubitus": "PRS",
    "other decubitus": "ALS",
    "sagittal": "PIR",
    "coronal": "LIP",
}
"""Orders of axes that scanners write, right-handed."""
ENCODED: dict[str, Change] = {"signed": signed, "implicit": implicit, "RLE": rle, "JPEG 2000": jpeg_2000}
