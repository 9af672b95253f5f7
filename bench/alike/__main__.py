"""How surely copies of an image are found, and how often other images are taken for copies.

    python -m bench.alike [--phantoms N] [--spacing MM] [--images FOLDER]

Phantoms of N patients, and the images of a folder if one is named, are copied in each of the ways of
bench.alike.copies, and each copy is compared with its original. All originals are compared with each other: of every
pair, the highest likeness that any placement has is told, where landmarks suggest one.
"""

import sys
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bench.alike.copies import COPIES, HARD_COPIES, Image, likeness_of, phantom_images
from bench.instruments.command_line import command_line, existing_folder, positive_integer
from bench.instruments.machine import conditions
from orchestrator.images.alike import pairs
from orchestrator.images.alike.thumbnail import make_thumbnail


def main() -> int:
    """Run the benchmark."""
    parser = command_line("alike", description=__doc__)
    parser.add_argument("--phantoms", type=positive_integer, default=40, help="patients (default: 40)")
    parser.add_argument("--spacing", type=float, default=4.0, help="of phantoms, in mm (default: 4)")
    parser.add_argument("--images", type=existing_folder, help="folder with further images")
    options = parser.parse_args()
    print(conditions("numpy", "scipy"))
    images = phantom_images(options.phantoms, spacing_mm=options.spacing)
    print(f"{len(images)} phantoms of {options.spacing:g} mm")
    _report(images)
    if options.images:
        images = [_read(path) for path in sorted(options.images.iterdir()) if path.is_file()]
        print(f"{len(images)} images of {options.images.name}")
        _report(images)
    return 0


def _read(path: Path) -> Image:
    image = sitk.ReadImage(str(path))
    z, y, x = image.GetSpacing()[::-1]
    return sitk.GetArrayFromImage(image), (z, y, x)


def _report(images: Sequence[Image]) -> None:
    started_s = time.process_time()
    originals = [make_thumbnail(*image) for image in images]
    made_s = time.process_time() - started_s
    print(f"made small: {1000 * made_s / len(images):.0f} ms of CPU an image")
    for copies in (COPIES, HARD_COPIES):
        for name, copy in copies.items():
            found = [likeness_of(original, make_thumbnail(*copy(image))) for original, image in
                     zip(originals, images, strict=True)]  # fmt: skip
            share = np.mean([one >= pairs.LEAST_LIKENESS for one in found])
            print(f"  {name:40} {share:6.1%} found, likeness {min(found):.2f} to {max(found):.2f}"
                  f"{'' if copies is COPIES else ', not claimed'}")  # fmt: skip
    started_s = time.process_time()
    alike = pairs.alike_images([one for one in originals if one is not None])
    compared_s = time.process_time() - started_s
    num = len(list(combinations(originals, 2)))
    others = [likeness_of(*pair) for pair in combinations(originals, 2)]
    most = max(others, default=0.0)
    print(f"  different images: {len(alike)} of {num} pairs taken for copies, likeness at most {most:.2f}")
    print(f"  compared: {1000 * compared_s / max(num, 1):.2f} ms of CPU a pair")


if __name__ == "__main__":
    sys.exit(main())
