"""Converted cases written to disk."""

import gzip
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import SimpleITK as sitk

from orchestrator.errors import DataError, StorageError
from orchestrator.sources.case import ConvertedCase


def write_case(converted: ConvertedCase, *, image_path: Path, label_paths: Mapping[str, Path]) -> None:
    """Write the image and label maps of a case as compressed NIfTI; equal cases give equal bytes.

    Parameters
    ----------
    converted
        The case.
    image_path
        File to write, ending `.nii.gz`; the caller gives a temporary path and renames it.
    label_paths
        Label set to file to write; exactly the label sets of the case.

    Raises
    ------
    DataError
        If the paths are for other label sets.
    StorageError
        If a file cannot be written.
    """
    if set(label_paths) != set(converted.labels):
        raise DataError(
            f"{converted.case.id}: paths for label sets {sorted(label_paths)}; expected {sorted(converted.labels)}"
        )
    write_volume(converted.image, image_path)
    for label_set, path in label_paths.items():
        write_volume(converted.labels[label_set], path)


def write_volume(image: sitk.Image, path: Path) -> None:
    """Write an image or label map as `write_case` does; raises StorageError."""
    # ITK ignores the compression level for NIfTI, hence our own gzip: level 1 is several times as fast as its level
    # 6 and makes the file a few per cent larger; without name and time in its header, equal volumes are equal files.
    try:
        with tempfile.TemporaryDirectory(prefix="case-") as folder:
            plain = Path(folder) / "volume.nii"
            sitk.WriteImage(image, str(plain))
            with (
                plain.open("rb") as source,
                path.open("wb") as raw,
                gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)
    except (OSError, RuntimeError) as error:
        raise StorageError(f"{path}: cannot be written; is the disk full or the folder missing? ({error})") from error
