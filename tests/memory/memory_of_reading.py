"""A process of its own that reads images of many kinds, and prints what of its memory each took and was said to take.

Standard output is a line of JSON: bytes that were said and taken, by the name of a kind.
"""

import ctypes
import json
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bench.instruments.stock_models import labels_of, small_plans
from orchestrator.inference.cases import InputCase
from orchestrator.inference.input_image import ModelFiles, header_of, readable_image
from orchestrator.training.nnunet import prediction_memory
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.prepared_image import read_images

SHAPE = (50, 170, 180)
TYPES = ("uint8", "int16", "float32", "float64")
ENDINGS = (".nii", ".nii.gz", ".nrrd")
ORDERS = {"as it is": None, "brought to LPS": "LPS"}
READERS = {"stacked": ("SimpleITKIO", 2), "turned by nnU-Net": ("SimpleITKIOWithReorient", 1)}
KINDS = [
    *(f"{name} {ending} {order}" for name in TYPES for ending in ENDINGS for order in ORDERS),
    *(f"int16 scaled {order}" for order in ORDERS),
    *(f"float64 {reader}" for reader in READERS),
]


def memory_bytes(key: str) -> int:
    """What this process has in memory (`VmRSS`) or had at most (`VmHWM`)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def begin_measuring() -> int:
    """Let `VmHWM` begin anew; returns what the process has in memory."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return memory_bytes("VmRSS")


def write(path: Path, name: str) -> None:
    """Write noise, the worst that can be compressed, with axes in another order than LPS, unless it is there."""
    if path.exists():
        return
    voxels = (np.random.default_rng(0).standard_normal(SHAPE) * 20 + 100).astype(name)
    image = sitk.GetImageFromArray(voxels)
    image.SetDirection((0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    sitk.WriteImage(image, str(path), useCompression=path.suffix != ".nii", compressionLevel=1)


def scale(path: Path) -> None:
    """Give a NIfTI a slope and an intercept."""
    with path.open("r+b") as file:
        file.seek(112)
        file.write(struct.pack("<2f", 0.5, -3.25))


def measured(files: list[Path], *, reader: str = "SimpleITKIO", orientation: str | None = None) -> tuple[int, int]:
    """Read an image as a prediction does; returns what was said and what it took."""
    names = ["CT", "PET"][: len(files)]
    dataset = {"channel_names": dict(enumerate(names)), "labels": labels_of(3), "file_ending": ".nii.gz"}
    plan = Plan(plans=small_plans(reader=reader, channels=names), dataset_json=dataset, configuration="3d_fullres")
    own = plan.plans_manager.image_reader_writer_class
    model = ModelFiles.of(own, ending=".nii.gz", orientation=orientation, is_of_project=orientation is not None)
    case = InputCase(name="case", files=tuple(files))
    header = header_of(case, model)
    assert header is not None
    said = prediction_memory.reading_bytes(header, plan) - prediction_memory._loaded_bytes()
    before = begin_measuring()
    with readable_image(case, model) as image:
        read_images(image.files, plan)
    return said, memory_bytes("VmHWM") - before


def main() -> None:
    """Read all kinds; the first two are read once before, when libraries are loaded."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in [*KINDS[:2], *KINDS]:
            name, what, *rest = kind.split(maxsplit=2)
            ending = what if what in ENDINGS else ".nii"
            reader, num_channels = READERS.get(kind.removeprefix(f"{name} "), ("SimpleITKIO", 1))
            stem = f"{name}{'-scaled' * (what == 'scaled')}"
            files = [Path(folder) / f"{stem}_{channel:04d}{ending}" for channel in range(num_channels)]
            for file in files:
                write(file, name)
                if what == "scaled":
                    scale(file)
            found[kind] = measured(files, reader=reader, orientation=ORDERS.get("".join(rest)))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
