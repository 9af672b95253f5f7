"""Images and label maps written to disk."""

import gzip
import shutil
import tempfile
from pathlib import Path

import SimpleITK as sitk

from orchestrator.errors import StorageError


def write_volume(image: sitk.Image, path: Path) -> None:
    """Write an image or label map as compressed NIfTI, ending `.nii.gz`; raises StorageError."""
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
