"""Ways to spoil the tiny downloads of `layouts`: each takes a data folder and makes one thing wrong with it."""

import gzip
import os
import shutil
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pydicom
import SimpleITK as sitk

Spoil = Callable[[Path], object]

GTV = "structseg/Lung_GTV/7"
OAR = "structseg/Thoracic_OAR/7"
STUDY = "nsclc/NSCLC-Radiomics/LUNG1-001/09-18-2008-StudyID"
SLICES = f"{STUDY}/0.000000-82046"
MOSMED_IMAGE = "mosmed/COVID19_1110/studies/CT-1/study_0255.nii.gz"
MOSMED_MASK = "mosmed/COVID19_1110/masks/study_0255_mask.nii.gz"


def all_of(*spoils: Spoil) -> Spoil:
    """Do one after the other."""
    return lambda data: [spoil(data) for spoil in spoils]


# Files and folders.


def remove(path: str) -> Spoil:
    return lambda data: shutil.rmtree(data / path) if (data / path).is_dir() else (data / path).unlink()


def cut(path: str, *, share: float) -> Spoil:
    return changed(path, lambda content: content[: int(len(content) * share)])


def replace(path: str, content: bytes) -> Spoil:
    return changed(path, lambda _: content)


def changed(path: str, change: Callable[[bytes], bytes]) -> Spoil:
    return lambda data: (data / path).write_bytes(change((data / path).read_bytes()))


def copy(path: str, to: str) -> Spoil:
    def spoil(data: Path) -> None:
        (data / to).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / path, data / to)

    return spoil


def rename(path: str, to: str) -> Spoil:
    return lambda data: (data / path).rename((data / path).with_name(to))


def folder_instead(path: str) -> Spoil:
    def spoil(data: Path) -> None:
        (data / path).unlink()
        (data / path).mkdir()

    return spoil


def link(path: str, to: str) -> Spoil:
    """Link to a place relative to the folder of the link; what is there before goes away."""

    def spoil(data: Path) -> None:
        (data / path).unlink(missing_ok=True)
        (data / path).symlink_to(to)

    return spoil


def pipe(path: str) -> Spoil:
    def spoil(data: Path) -> None:
        (data / path).unlink()
        os.mkfifo(data / path)

    return spoil


# Archives.


def rezip(archive: str, members: dict[str, bytes]) -> Spoil:
    def spoil(data: Path) -> None:
        with zipfile.ZipFile(data / archive, "w") as opened:
            for name, content in members.items():
                opened.writestr(name, content)

    return spoil


def marked_zip(archive: str, *, method: int | None = None, flag: int = 0) -> Spoil:
    """Say of every member, in both of its headers, that it is compressed or encrypted otherwise than it is."""

    def mark(content: bytes) -> bytes:
        marked = bytearray(content)
        for start, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
            here = 0
            while (here := marked.find(start, here)) >= 0:
                flags, was = struct.unpack_from("<2H", marked, here + at)
                struct.pack_into("<2H", marked, here + at, flags | flag, was if method is None else method)
                here += 4
        return bytes(marked)

    return changed(archive, mark)


def zipped_twice(archive: str) -> Spoil:
    """Add every file of a zip once more, under the name that it has."""

    def spoil(data: Path) -> None:
        with zipfile.ZipFile(data / archive) as old:
            members = [(info.filename, old.read(info)) for info in old.infolist()]
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(data / archive, "w") as new:
            for name, content in [*members, *members]:
                new.writestr(name, content)

    return spoil


def retar(*, keep: Callable[[str], bool]) -> Spoil:
    def spoil(data: Path) -> None:
        source, target = data / "msd" / "Task06_Lung.tar", data / "new.tar"
        with tarfile.open(source) as old, tarfile.open(target, "w") as new:
            for member in old.getmembers():
                if keep(member.name):
                    new.addfile(member, old.extractfile(member))
        target.replace(source)

    return spoil


def described_otherwise(text: str) -> Spoil:
    def spoil(data: Path) -> None:
        with tarfile.open(data / "msd" / "Task06_Lung.tar") as tar:
            tar.extractall(data / "msd", filter="data")
        (data / "msd" / "Task06_Lung" / "dataset.json").write_text(text)

    return spoil


def flip_a_byte(content: bytes) -> bytes:
    return content[:200] + bytes([content[200] ^ 255]) + content[201:]


# NIfTI.


def nifti(path: str, voxels: np.ndarray, **header: tuple) -> Spoil:
    return lambda data: layouts.write_nifti(layouts.image_of(voxels, **header), data / path)


def volume(path: str, image: sitk.Image) -> Spoil:
    return lambda data: layouts.write_nifti(image, data / path)


def directed(voxels: np.ndarray, direction: tuple[float, ...]) -> sitk.Image:
    image = layouts.image_of(voxels)
    image.SetDirection(direction)
    return image


def header(*paths: str, **values: tuple) -> Spoil:
    """Write fields of NIfTI headers: a name of `FIELDS` to the values."""

    def patch(content: bytes) -> bytes:
        raw = bytearray(gzip.decompress(content))
        for name, numbers in values.items():
            offset, form = FIELDS[name]
            struct.pack_into(form, raw, offset, *numbers)
        return gzip.compress(bytes(raw))

    return all_of(*(changed(path, patch) for path in paths))


FIELDS = {
    "dim": (40, "<8h"),
    "datatype": (70, "<h"),
    "bitpix": (72, "<h"),
    "qfac": (76, "<f"),
    "pixdim": (80, "<3f"),
    "vox_offset": (108, "<f"),
    "scaling": (112, "<2f"),
    "units": (123, "<b"),
    "codes": (252, "<2h"),
    "quaternion": (256, "<3f"),
    "offset": (268, "<3f"),
    "srow_x": (280, "<4f"),
    "srow_y": (296, "<4f"),
    "srow_z": (312, "<4f"),
}
"""Offset and form of fields; `codes` are those of qform and sform."""


def unpacked(path: str, change: Callable[[bytes], bytes]) -> Spoil:
    """Change what a compressed file holds."""
    return changed(path, lambda content: gzip.compress(change(gzip.decompress(content))))


# DICOM.


def dicom(change: Callable[[int, pydicom.Dataset], None]) -> Spoil:
    """Change each slice, by its number from the lowest."""

    def spoil(data: Path) -> None:
        for path in (data / SLICES).iterdir():
            read = pydicom.dcmread(path)
            change(int(read.InstanceNumber), read)
            read.save_as(path)

    return spoil


def set_in_all(**values: object) -> Spoil:
    def change(_: int, slice_: pydicom.Dataset) -> None:
        for name, value in values.items():
            setattr(slice_, name, value)

    return dicom(change)


def set_in_one(**values: object) -> Spoil:
    def change(number: int, slice_: pydicom.Dataset) -> None:
        for name, value in values.items() if number == 5 else ():
            setattr(slice_, name, value)

    return dicom(change)


def other_series(voxels: np.ndarray, **header: tuple) -> Spoil:
    return lambda data: layouts.write_dicom(
        layouts.image_of(voxels, **header), data / STUDY / "0-other", modality="CT", series=3
    )


def other_size_of_one_slice(data: Path) -> None:
    small = layouts.image_of(layouts.ct_voxels()[:2, :8])
    layouts.write_dicom(small, data / "small", modality="CT", series=1)
    shutil.copy(data / "small" / "1-01.dcm", data / SLICES / "1-11.dcm")


def drift(number: int, slice_: pydicom.Dataset) -> None:
    """Move each slice up by a tenth of a mm more than the one below it: no gap differs much from the next."""
    slice_.ImagePositionPatient = [-10, -20, 30 + 5 * number + 0.05 * number**2]


def tilt(_: int, slice_: pydicom.Dataset) -> None:
    """Turn the planes about x by 15 degrees, while the table moves along z."""
    slice_.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(np.pi / 12)), float(np.sin(np.pi / 12))]


def foreign_object(name: str, **values: object) -> Spoil:
    """Put a DICOM object without pixels beside the slices."""

    def spoil(data: Path) -> None:
        read = pydicom.dcmread(data / SLICES / "1-05.dcm")
        del read.PixelData
        for keyword, value in values.items():
            setattr(read, keyword, value)
        read.file_meta.MediaStorageSOPClassUID = read.SOPClassUID
        read.save_as(data / SLICES / name)

    return spoil
