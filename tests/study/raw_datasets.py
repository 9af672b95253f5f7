"""Data sets in nnU-Net's raw layout, written for tests with the tools that people write them with."""

import json
from pathlib import Path

import imageio.v3
import numpy as np
import SimpleITK as sitk
import tifffile

from orchestrator.benchmark.definition import NNUNET_RAW, Dataset

NAMES = ("case_001", "case_0000", "b-2")
"""One with a number in it that looks like a channel."""
SHAPE = (12, 30, 26)


def write_dataset(
    data: Path,
    *,
    folder: str = "Dataset137_Things",
    channels: tuple[str, ...] = ("CT", "T2"),
    ending: str = ".nii.gz",
    labels: dict[str, object] | None = None,
    names: tuple[str, ...] = NAMES,
    shape: tuple[int, ...] = SHAPE,
    spacing_xyz: tuple[float, ...] = (0.75, 0.875, 5.0),
    orientation: str = "LPS",
    test_names: tuple[str, ...] = (),
    **others: object,
) -> Path:
    """Write a data set; two boxes of labels 1 and 2, one of which is in the other half of the image."""
    root = data / folder
    for number, name in enumerate((*names, *test_names)):
        kind = "Tr" if name in names else "Ts"
        random = np.random.default_rng(number)
        size = (shape[0], *(extent + 2 * number for extent in shape[1:]))
        mask = np.zeros(size, np.uint8)
        mask[..., 4:12, 5:11] = 1
        mask[..., 14:22, 5:15] = 2
        images = [random.integers(-900, 900, size).astype(np.int16) + 50 * (mask > 0) for _ in channels]
        for image in images:
            image[..., :3, :] = 0
        if channels[-1] != "CT":
            images[-1] = images[-1] + np.float32(0.25)
            images[-1][..., :3, :] = 0
        (root / f"images{kind}").mkdir(parents=True, exist_ok=True)
        (root / f"labels{kind}").mkdir(parents=True, exist_ok=True)
        for channel, image in enumerate(images):
            path = root / f"images{kind}" / f"{name}_{channel:04}{ending}"
            write(path, image, spacing_xyz=spacing_xyz, orientation=orientation)
            if ending == ".tiff":
                path.with_name(f"{name}.json").write_text(json.dumps({"spacing": list(spacing_xyz[::-1])}))
        write(root / f"labels{kind}" / f"{name}{ending}", mask, spacing_xyz=spacing_xyz, orientation=orientation)
    described = {
        "channel_names": {str(number): channel for number, channel in enumerate(channels)},
        "labels": {"background": 0, "small": 1, "large": 2} if labels is None else labels,
        "numTraining": len(names),
        "file_ending": ending,
    }
    (root / "dataset.json").write_text(json.dumps({**described, **others}))
    return root


def write(path: Path, array: np.ndarray, *, spacing_xyz=(1.0, 1.0, 1.0), orientation="LPS") -> None:
    if path.suffix in {".png", ".bmp"}:
        imageio.v3.imwrite(path, array.astype(np.uint8))
    elif path.suffix in {".tif", ".tiff"}:
        tifffile.imwrite(path, array)
    else:
        image = sitk.GetImageFromArray(array.squeeze(0) if len(spacing_xyz) == 2 else array)
        image.SetSpacing(spacing_xyz)
        image.SetOrigin((-20.0, 12.5, 7.0)[: image.GetDimension()])
        if orientation != "LPS":
            image = sitk.DICOMOrient(image, orientation)
        sitk.WriteImage(image, str(path))


def dataset_of(*, channels=("CT", "T2"), names=NAMES, folder="Dataset137_Things", values=None) -> Dataset:
    return Dataset(
        name="things",
        title="Things",
        source=NNUNET_RAW,
        folder=folder,
        channels=channels,
        label_sets=("things",),
        case_names=tuple(sorted(names)),
        num_slices=12,
        label_values={"things": {1: 1, 2: 2} if values is None else values},
    )
