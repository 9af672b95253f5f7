"""Tiny downloads in the layouts of their owners, for the tests of sources and of the doctor.

One made-up patient in HU: two lung boxes in a body, seen from the feet as radiologists do. Volumes are 12 x 16 x 20
voxels (z, y, x) of 5.0 x 2.0 x 1.5 mm in LPS orientation: x grows to the patient's left.
"""

import io
import json
import shutil
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import dicom_phantom
import numpy as np
import SimpleITK as sitk

from orchestrator.benchmark.definition import Case, Dataset
from orchestrator.phantoms.layouts import keeping_locale
from orchestrator.sources.convert import convert_image, convert_labels

SHAPE = (12, 16, 20)
SPACING = (1.5, 2.0, 5.0)
ORIGIN = (-10.0, -20.0, 30.0)
LEFT = (slice(2, 10), slice(4, 12), slice(12, 18))
RIGHT = (slice(2, 10), slice(4, 12), slice(2, 8))
LESION = (slice(4, 6), slice(6, 9), slice(3, 6))

DATASETS = {
    name: Dataset(
        name=name,
        title=name,
        source=download,
        folder=download,
        channels=("CT",),
        label_sets=label_sets,
        case_names=case_names,
        num_slices=9,
    )
    for name, download, label_sets, case_names in (
        (
            "covid-19-ct-seg",
            "covid-19-ct-seg",
            ("lung", "infection", "lung-and-infection"),
            ("coronacases_001", "radiopaedia_10_85902_1"),
        ),
        ("structseg-lung", "structseg", ("lung",), ("train_7",)),
        ("structseg-gtv", "structseg", ("infection",), ("train_7",)),
        ("nsclc-lung", "nsclc", ("lung",), ("LUNG1-001",)),
        ("nsclc-pe", "nsclc", ("infection",), ("LUNG1-001",)),
        ("msd-lung-tumour", "msd", ("infection", "lung"), ("lung_001",)),
        ("mosmed", "mosmed", ("infection",), ("study_0255",)),
    )
}


@dataclass(frozen=True, kw_only=True)
class Converted:
    image: sitk.Image
    labels: dict[str, sitk.Image]
    source_sha256: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def convert(data: Path, dataset: str, case_name: str, *label_sets: str) -> Converted:
    """Convert the image of a case and then each of its label sets, as a run does."""
    case, where = Case(dataset=dataset, name=case_name), {"dataset": DATASETS[dataset], "downloads": data}
    image = convert_image(case, label_sets=label_sets, **where)
    masks = [convert_labels(case, label_set=name, image=image.image, **where) for name in label_sets]
    parts = (image, *masks)
    return Converted(
        image=image.image,
        labels={mask.label_set: mask.labels for mask in masks},
        source_sha256=tuple(part.source.sha256 for part in parts),
        notes=tuple(note for part in parts for note in part.notes),
        warnings=tuple(warning for part in parts for warning in part.warnings),
    )


def ct_voxels() -> np.ndarray:
    """Body at 40 HU with lungs at -800, a lesion at -300, one voxel of metal at 3000 and a little texture."""
    voxels = np.full(SHAPE, 40, dtype=np.int16)
    voxels[:, 0, :] = -1000
    voxels[LEFT] = voxels[RIGHT] = -800
    voxels[LESION] = -300
    voxels[0, 8, 10] = 3000
    return voxels + (np.arange(voxels.size, dtype=np.int16).reshape(SHAPE) % 7)


def mask_voxels(kind: str) -> np.ndarray:
    """Values of the masks: lung 1 left, 2 right; infection 1; lung-and-infection 1, 2, 3; oar adds 3 to 6."""
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    if kind != "infection":
        voxels[LEFT], voxels[RIGHT] = 1, 2
    if kind == "infection":
        voxels[LESION] = 1
    if kind == "lung-and-infection":
        voxels[LESION] = 3
    if kind == "oar":
        for value in (3, 4, 5, 6):
            voxels[value, 2, 9:11] = value
    return voxels


def image_of(voxels: np.ndarray, *, spacing: tuple = SPACING, origin: tuple = ORIGIN) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def write_nifti(image: sitk.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_downloads(data: Path) -> None:
    write_covid(data / "covid-19-ct-seg")
    write_structseg(data / "structseg")
    write_nsclc(data / "nsclc")
    write_msd(data / "msd")
    write_mosmed(data / "mosmed")


def write_covid(folder: Path) -> None:
    """Images at the root of the archive under one naming, masks in a folder of theirs under the other."""
    loose = folder / "loose"
    windowed = np.rint((np.clip(ct_voxels(), -1250, 250) + 1250) * (255 / 1500)).astype(np.uint8)
    write_nifti(image_of(ct_voxels()), loose / "coronacases_org_001.nii.gz")
    write_nifti(image_of(windowed), loose / "radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm.nii.gz")
    zip_files(folder / "COVID-19-CT-Seg_20cases.zip", {path.name: path for path in loose.iterdir()})
    for stem, kind in (
        ("Lung_Mask", "lung"),
        ("Infection_Mask", "infection"),
        ("Lung_and_Infection_Mask", "lung-and-infection"),
    ):
        members = {}
        for name in ("coronacases_001", "radiopaedia_10_85902_1"):
            path = loose / stem / f"{name}.nii.gz"
            write_nifti(image_of(mask_voxels(kind)), path)
            members[f"{stem}/{path.name}"] = path
        members["__MACOSX/._coronacases_001.nii.gz"] = path
        zip_files(folder / f"{stem}.zip", members)
    shutil.rmtree(loose)


def zip_files(archive: Path, members: dict[str, Path]) -> None:
    with zipfile.ZipFile(archive, "w") as opened:
        for name, path in members.items():
            opened.write(path, name)


def write_structseg(folder: Path) -> None:
    for part, kind in (("Thoracic_OAR", "oar"), ("Lung_GTV", "infection")):
        write_nifti(image_of(ct_voxels()), folder / part / "7" / "data.nii.gz")
        write_nifti(image_of(mask_voxels(kind)), folder / part / "7" / "label.nii.gz")


def write_nsclc(folder: Path) -> None:
    """CT and another series in folders of the patient; masks stored right-anterior-superior, as owners' tools do."""
    study = folder / "NSCLC-Radiomics" / "LUNG1-001" / "09-18-2008-StudyID"
    write_dicom(image_of(ct_voxels()), study / "0.000000-82046", modality="CT", series=1)
    write_dicom(image_of(mask_voxels("lung").astype(np.int16)), study / "300.0-Segmentation", modality="SEG", series=2)
    contours = study / "1.000000-RTSTRUCT"
    dicom_phantom.foreign(contours, "1-1.dcm", sop_class="1.2.840.10008.5.1.4.1.1.481.3", modality="RTSTRUCT")
    masks = folder / "Thoracic_Cavities" / "LUNG1-001"
    for kind, name in (("lung", "thor_cav_primary_reviewer"), ("infection", "effusion_first_reviewer")):
        mask = sitk.DICOMOrient(image_of(mask_voxels(kind)), "RAS")
        write_nifti(mask, masks / f"LUNG1-001_{name}.nii.gz")
    write_nifti(image_of(mask_voxels("lung")), masks / "LUNG1-001_effusion_second_reviewer.nii.gz")


def write_dicom(image: sitk.Image, folder: Path, *, modality: str, series: int) -> None:
    """One file a slice; file names run against the order of positions."""
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    depth = image.GetDepth()
    for z in range(depth):
        one = image[:, :, z]
        position = image.TransformIndexToPhysicalPoint((0, 0, z))
        for tag, value in (
            ("0008|0016", "1.2.840.10008.5.1.4.1.1.2"),
            ("0008|0018", f"1.2.826.0.1.3680043.2.1125.{series}.{z + 1}"),
            ("0008|0060", modality),
            ("0010|0020", "LUNG1-001"),
            ("0020|000d", "1.2.826.0.1.3680043.2.1125.9"),
            ("0020|000e", f"1.2.826.0.1.3680043.2.1125.{series}"),
            ("0020|0013", str(z)),
            ("0020|0032", "\\".join(f"{value:.6f}" for value in position)),
            ("0020|0037", "1\\0\\0\\0\\1\\0"),
            ("0018|0050", str(image.GetSpacing()[2])),
            ("0028|1052", "-1024"),
            ("0028|1053", "1"),
        ):
            one.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"1-{depth - z:02d}.dcm"))
        with keeping_locale():
            writer.Execute(one)


def write_msd(folder: Path) -> None:
    folder.mkdir(parents=True)
    path = folder / "volume.nii.gz"
    with tarfile.open(folder / "Task06_Lung.tar", "w") as tar:
        add_bytes(tar, "Task06_Lung/dataset.json", json.dumps({"labels": {"0": "background", "1": "cancer"}}).encode())
        for sub_folder, image in (
            ("imagesTr", image_of(ct_voxels().astype(np.float32))),
            ("labelsTr", image_of(mask_voxels("infection"))),
            ("labelsTr_lung", image_of(mask_voxels("lung"))),
        ):
            write_nifti(image, path)
            add_bytes(tar, f"Task06_Lung/{sub_folder}/._lung_001.nii.gz", b"macOS")
            add_bytes(tar, f"Task06_Lung/{sub_folder}/lung_001.nii.gz", path.read_bytes())
    path.unlink()


def add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_mosmed(folder: Path) -> None:
    top = folder / "COVID19_1110"
    write_nifti(image_of(ct_voxels()), top / "studies" / "CT-1" / "study_0255.nii.gz")
    write_nifti(image_of(mask_voxels("infection")), top / "masks" / "study_0255_mask.nii.gz")
