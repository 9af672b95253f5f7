"""One generated scan as the files of its public download, in the layout that the data set's owners ship."""

import hashlib
import locale
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK

from orchestrator.phantoms.anatomy import Phantom, make_phantom
from orchestrator.phantoms.lesions import LesionKind
from orchestrator.phantoms.scanner import LOOKS, ScannerLook
from orchestrator.phantoms.shapes import stable_seed

COVID_ARCHIVES = {
    "COVID-19-CT-Seg_20cases": "image",
    "Lung_Mask": "lung",
    "Infection_Mask": "infection",
    "Lung_and_Infection_Mask": "lung-and-infection",
}
"""Zip archives of COVID-19-CT-Seg and what their members hold."""
MSD_FOLDER = "Task06_Lung"
NSCLC_MASK_ORIENTATION = "RAI"
"""The published NSCLC masks are not stored in the orientation of their DICOM series; neither are these."""
COMPRESSION_LEVEL = 1
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "
"""Start of a `._*` file, which archives made on macOS hold beside every real one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """One scan of a download and the labelled sets that ask for it."""

    download: str
    """`covid-19-ct-seg`, `structseg`, `nsclc`, `msd` or `mosmed`."""
    name: str
    """Case name as in the published splits."""
    datasets: tuple[str, ...]
    """Names of the data sets that use it, sorted."""
    has_effusion: bool
    """Whether the patient has a pleural effusion."""


def scan_look(scan: Scan) -> ScannerLook:
    """Return the scanner of a scan; COVID-19-CT-Seg has two sources."""
    if scan.download == "covid-19-ct-seg":
        return LOOKS["radiopaedia" if scan.name.startswith("radiopaedia") else "coronacases"]
    return LOOKS[scan.download]


def scan_lesions(scan: Scan) -> tuple[LesionKind, ...]:
    """Return the diseases of the patients of a download."""
    if scan.download in {"covid-19-ct-seg", "mosmed"}:
        return ("infection",)
    return ("tumour", "effusion") if scan.has_effusion else ("tumour",)


def patient_of(scan: Scan) -> str:
    """Return the patient's name: `radiopaedia_10_85902_1` and `_3` are two scans of one patient."""
    return scan.name.rpartition("_")[0] if scan.name.startswith("radiopaedia") else scan.name


def write_scan(scan: Scan, folder: Path, *, spacing_mm: float | None, seed: int) -> None:
    """Generate one scan and write its files below the folder of its download.

    Files of downloads that are shipped as archives are laid out to be packed afterwards.
    """
    phantom = make_phantom(
        seed=stable_seed(seed, scan.download, scan.name),
        patient_seed=stable_seed(seed, scan.download, patient_of(scan)),
        look=scan_look(scan),
        lesions=scan_lesions(scan),
        spacing_mm=spacing_mm,
    )
    writers = {"covid-19-ct-seg": _write_covid, "structseg": _write_structseg, "nsclc": _write_nsclc, "msd": _write_msd}
    writers.get(scan.download, _write_mosmed)(scan, folder, phantom=phantom)


def to_image(array: npt.NDArray[np.generic], *, phantom: Phantom, scan_name: str) -> SimpleITK.Image:
    """Return an image in LPS with the geometry of the scan; its origin is off the middle, as a table position is."""
    voxels = array.astype(np.uint8) if array.dtype == np.bool_ else array
    image = SimpleITK.GetImageFromArray(voxels)
    spacing = phantom.spacing_mm[::-1]
    image.SetSpacing(spacing)
    table_z = -float(stable_seed(scan_name, "table") % 900)
    half = [-(num - 1) / 2 * step for num, step in zip(phantom.image.shape[::-1], spacing, strict=True)]
    image.SetOrigin((round(half[0], 3), round(half[1] - 20, 3), table_z))
    return image


def _save(
    path: Path, array: npt.NDArray[np.generic], *, phantom: Phantom, scan: Scan, orientation: str = "LPS"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = to_image(array, phantom=phantom, scan_name=scan.name)
    if orientation != "LPS":
        image = SimpleITK.DICOMOrient(image, orientation)
    SimpleITK.WriteImage(image, str(path), useCompression=True, compressionLevel=COMPRESSION_LEVEL)


def _write_covid(scan: Scan, folder: Path, *, phantom: Phantom) -> None:
    joint = np.where(phantom.infection, 3, phantom.lungs).astype(np.uint8)
    arrays: tuple[npt.NDArray[np.generic], ...] = (phantom.image, phantom.lungs, phantom.infection, joint)
    for archive, array in zip(COVID_ARCHIVES, arrays, strict=True):
        _save(folder / archive / f"{scan.name}.nii.gz", array, phantom=phantom, scan=scan)


def _write_structseg(scan: Scan, folder: Path, *, phantom: Phantom) -> None:
    number = scan.name.removeprefix("train_")
    # Radiotherapy contours: the gross target is not part of the lung.
    organs = np.where(phantom.tumour, 0, phantom.lungs).astype(np.uint8)
    for label, organ in ((3, phantom.spinal_cord), (4, phantom.esophagus), (5, phantom.heart), (6, phantom.trachea)):
        organs[organ & (organs == 0)] = label
    labels = {"structseg-lung": ("Thoracic_OAR", organs), "structseg-gtv": ("Lung_GTV", phantom.tumour)}
    for dataset in scan.datasets:
        kind, array = labels[dataset]
        _save(folder / kind / number / "data.nii.gz", phantom.image, phantom=phantom, scan=scan)
        _save(folder / kind / number / "label.nii.gz", array, phantom=phantom, scan=scan)


def _write_nsclc(scan: Scan, folder: Path, *, phantom: Phantom) -> None:
    study, series = (_uid(scan.name, kind) for kind in ("study", "series"))
    image = to_image(phantom.image, phantom=phantom, scan_name=scan.name)
    _write_dicom(image, folder / scan.name / study / series, patient=scan.name, study=study, series=series)
    cavity = folder / "thoracic_cavity" / f"{scan.name}_thor_cav_primary_reviewer.nii.gz"
    _save(cavity, phantom.lungs, phantom=phantom, scan=scan, orientation=NSCLC_MASK_ORIENTATION)
    if scan.has_effusion:
        effusion = folder / "effusion" / f"{scan.name}_effusion_first_reviewer.nii.gz"
        _save(effusion, phantom.effusion, phantom=phantom, scan=scan, orientation=NSCLC_MASK_ORIENTATION)


def _write_msd(scan: Scan, folder: Path, *, phantom: Phantom) -> None:
    parts: tuple[tuple[str, npt.NDArray[np.generic]], ...] = (
        ("imagesTr", phantom.image),
        ("labelsTr", phantom.tumour),
        ("labelsTr_lung", phantom.lungs),
    )
    for part, array in parts:
        path = folder / MSD_FOLDER / part / f"{scan.name}.nii.gz"
        _save(path, array, phantom=phantom, scan=scan)
        path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)


def _write_mosmed(scan: Scan, folder: Path, *, phantom: Phantom) -> None:
    _save(folder / "studies" / "CT-1" / f"{scan.name}.nii.gz", phantom.image, phantom=phantom, scan=scan)
    _save(folder / "masks" / f"{scan.name}_mask.nii.gz", phantom.infection, phantom=phantom, scan=scan)


def _uid(*parts: str | int) -> str:
    """Return a DICOM UID of the UUID-derived root 2.25, the same for the same parts."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


def _write_dicom(image: SimpleITK.Image, folder: Path, *, patient: str, study: str, series: str) -> None:
    """Write a CT series of axial slices, one file each, named as TCIA names them."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    num_slices = image.GetSize()[2]
    for index in range(num_slices):
        # One slice in three dimensions: from a flat image GDCM may write a slice spacing of 1.
        plane = image[:, :, index : index + 1]
        position = image.TransformIndexToPhysicalPoint((0, 0, index))
        for tag, value in _slice_tags(image, position=position, index=index).items():
            plane.SetMetaData(tag, value)
        for tag, value in (("0010|0010", patient), ("0010|0020", patient), ("0020|000d", study), ("0020|000e", series)):
            plane.SetMetaData(tag, value)
        plane.SetMetaData("0020|0052", _uid(study, "frame"))
        plane.SetMetaData("0008|0018", _uid(series, index))
        # The last slice comes first, as on many scanners: the order of names is not the order in space.
        writer.SetFileName(str(folder / f"1-{num_slices - index:03d}.dcm"))
        with keeping_locale():
            writer.Execute(plane)


@contextmanager
def keeping_locale() -> Iterator[None]:
    """Context after which the locale is what it was: GDCM leaves that of C, in which Python reads ASCII alone."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _slice_tags(image: SimpleITK.Image, *, position: Sequence[float], index: int) -> dict[str, str]:
    thickness = f"{image.GetSpacing()[2]:.6g}"
    return {
        "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
        "0008|0012": "20140101",
        "0008|0013": "120000",
        "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
        "0008|0020": "20140101",
        "0008|0021": "20140101",
        "0008|0030": "120000",
        "0008|0031": "120000",
        "0008|0060": "CT",
        "0008|0070": "Phantom",
        "0008|103e": "Thorax phantom",
        "0018|0050": thickness,
        "0018|0088": thickness,
        "0018|5100": "HFS",
        "0020|0011": "1",
        "0020|0013": str(image.GetSize()[2] - index),
        "0020|0032": "\\".join(f"{value:.6f}" for value in position),
        "0020|0037": "1\\0\\0\\0\\1\\0",
        "0028|1050": "-600",
        "0028|1051": "1500",
        "0028|1052": "0",
        "0028|1053": "1",
        "0028|1054": "HU",
    }
