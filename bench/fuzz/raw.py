"""Descriptions of data sets in nnU-Net's raw layout and pictures to be changed, and what reads them."""

import hashlib
import json
from pathlib import Path

import imageio.v3
import numpy as np
import SimpleITK as sitk
import tifffile

from bench.fuzz.mutations import Random, mutate_bytes
from orchestrator.images.image_file import ImageFile
from orchestrator.sources.nnunet_raw.description import parse_description
from orchestrator.sources.nnunet_raw.files import find_cases

_PICTURE_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
_FILES = ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz", "imagesTr/._a", "imagesTs/", "x")


def descriptions(folder: Path) -> list[bytes]:
    """Return files `dataset.json`."""
    del folder
    plain = {
        "channel_names": {"0": "CT", "1": "T2"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        "regions_class_order": [1, 2],
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    listed = {"a": {"images": [_FILES[0], _FILES[1]], "label": _FILES[2]}}
    return [json.dumps(content).encode() for content in (plain, plain | {"dataset": listed})]


def read_description(content: bytes, folder: Path) -> str:
    """Read a description, and sort the files of a folder by it."""
    del folder
    found = parse_description(content, name="dataset.json")
    return repr((found, find_cases(found, _FILES, folder="data")))


def pictures(folder: Path) -> list[bytes]:
    """Return pictures and stacks, behind their ending."""
    random, made = np.random.default_rng(0), []
    for ending in _PICTURE_ENDINGS:
        path = folder / f"a{ending}"
        if ending == ".tiff":
            tifffile.imwrite(path, random.integers(0, 255, (4, 9, 8)).astype(np.uint16), compression="zlib")
        else:
            imageio.v3.imwrite(path, random.integers(0, 255, (9, 8, 3)).astype(np.uint8))
        made.append(ending.encode().ljust(8) + path.read_bytes())
    return made


def mutate_behind_ending(content: bytes, random: Random) -> bytes:
    """Change a file, but not its ending."""
    return content[:8] + mutate_bytes(content[8:], random)


def read_picture(content: bytes, folder: Path) -> str:
    """Read a picture, its header first."""
    file = ImageFile(path=folder / f"a{content[:8].decode().strip()}")
    file.path.write_bytes(content[8:])
    file.header()
    channels = [sitk.GetArrayViewFromImage(image).tobytes() for image in file.read().channels]
    return hashlib.sha256(b"".join(channels)).hexdigest()
