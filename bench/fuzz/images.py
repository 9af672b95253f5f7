"""Volumes, label maps and DICOM series to be changed, and what reads them."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bench.fuzz.mutations import Random, mutate_bytes, mutate_text
from orchestrator.images.dicom.volume import DicomVolume
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import NiftiVolume

_GZIP = b"\x1f\x8b"
_LABEL_ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")
_NUM_SLICES = 4


def _image(*, dtype: type) -> sitk.Image:
    random = np.random.default_rng(0)
    image = sitk.GetImageFromArray(random.integers(0, 3, (4, 9, 8)).astype(dtype))
    image.SetSpacing((0.8, 0.8, 5.0))
    image.SetOrigin((-100.0, 20.0, 7.5))
    return image


def _digest(image: sitk.Image) -> str:
    geometry = (image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return hashlib.sha256(sitk.GetArrayViewFromImage(image).tobytes()).hexdigest() + repr(geometry)


def niftis(folder: Path) -> list[bytes]:
    """Return compressed volumes."""
    made = []
    for dtype in (np.int16, np.float32):
        sitk.WriteImage(_image(dtype=dtype), str(folder / "a.nii.gz"), useCompression=True)
        made.append((folder / "a.nii.gz").read_bytes())
    return made


def read_nifti(content: bytes, folder: Path) -> str:
    """Read a volume of a download, its header first."""
    path = folder / "a.nii.gz"
    path.write_bytes(content)
    volume = NiftiVolume(SourceFile(path=path))
    volume.read_geometry()
    return _digest(volume.read().image)


def label_maps(folder: Path) -> list[bytes]:
    """Return label maps, behind their ending."""
    made = []
    for ending in _LABEL_ENDINGS:
        for is_compressed in (False, True):
            path = folder / f"a{ending}"
            sitk.WriteImage(_image(dtype=np.uint8), str(path), useCompression=is_compressed)
            made.append(ending.encode().ljust(8) + path.read_bytes())
    return made


def read_label_map_file(content: bytes, folder: Path) -> str:
    """Read a label map as it is scored."""
    from orchestrator.images.label_maps import read_label_map

    path = folder / f"a{content[:8].decode().strip()}"
    path.write_bytes(content[8:])
    read = read_label_map(path)
    return hashlib.sha256(np.ascontiguousarray(read.array)).hexdigest() + repr(read.geometry)


def mutate_compressed(content: bytes, random: Random) -> bytes:
    """Change a file, or what it holds compressed, whose checksum is made right again."""
    head = content[:8] if content.startswith(b".") else b""
    body = content[len(head) :]
    is_text = head.strip() in {b".mha", b".nrrd"}
    if body.startswith(_GZIP) and random.random() < 0.8:
        body = gzip.compress(_change(gzip.decompress(body), random), mtime=0)
    elif is_text and random.random() < 0.6:
        at = 400
        body = mutate_text(body[:at], random) + body[at:]
    else:
        body = mutate_bytes(body, random)
    return head + body


def _change(content: bytes, random: Random) -> bytes:
    # Most of what can go wrong is in the header.
    if random.random() < 0.7:
        return mutate_bytes(content[:352], random) + content[352:]
    return mutate_bytes(content, random)


def dicoms(folder: Path) -> list[bytes]:
    """Return one slice of a series; it is read beside the others."""
    write_series(folder)
    return [(folder / "1.dcm").read_bytes()]


def write_series(folder: Path) -> None:
    """Write a CT series of a few slices."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in range(_NUM_SLICES):
        slice_ = sitk.GetImageFromArray(np.random.default_rng(index).integers(-1000, 400, (9, 8)).astype(np.int16))
        slice_.SetSpacing((0.8, 0.8))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.4.{index + 1}",
            "0008|0060": "CT",
            "0010|0010": "A",
            "0010|0020": "A",
            "0020|000d": "1.2.3.1",
            "0020|000e": "1.2.3.2",
            "0020|0013": str(index + 1),
            "0020|0032": f"0\\0\\{index * 5}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": "5",
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            slice_.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{index}.dcm"))
        writer.Execute(slice_)


def read_dicom(content: bytes, folder: Path) -> str:
    """Read the series with one slice in place of a sound one."""
    if not (folder / "0.dcm").exists():
        write_series(folder)
    (folder / "1.dcm").write_bytes(content)
    volume = DicomVolume((folder,), name="patient")
    volume.read_geometry()
    return _digest(volume.read().image)
