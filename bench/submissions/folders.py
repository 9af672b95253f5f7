"""Folders of a challenge: references of many structures, and predictions of many methods, some of them broken."""

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from bench.whole_body.cases import whole_body

SHAPE = (64, 256, 256)
SPACING_MM = (3.0, 1.5, 1.5)


def make_folders(
    folder: Path, *, num_submissions: int, num_cases: int, num_labels: int, num_variants: int, seed: int = 0
) -> None:
    """Write `reference/` and `submissions/` below a folder.

    Of each case there are several predictions, of growing error; each submission has one of them as its own, by a hard
    link: writing takes longer than scoring. Submissions with a lower number tend to be better.
    """
    (folder / "reference").mkdir(parents=True)
    for number in range(num_submissions):
        (folder / "submissions" / name_of(number)).mkdir(parents=True)
    for case in range(num_cases):
        random = np.random.default_rng([seed, case])
        # Half a body in each direction: every fourth slice of it.
        truth = np.ascontiguousarray(whole_body(shape=(256, 256, 256), num_labels=num_labels, seed=case)[::4])
        file = f"case{case:03}.nii.gz"
        _write(folder / "reference" / file, truth)
        variants = []
        for variant in range(num_variants):
            variants.append(folder / "variants" / f"{variant}" / file)
            _write(variants[-1], _predicted(truth, error=1 + variant, random=random))
        for number in range(num_submissions):
            # A better one is not better in every case.
            skill = number * num_variants / num_submissions
            chosen = int(np.clip(skill + random.integers(-1, 2), 0, num_variants - 1))
            os.link(variants[chosen], folder / "submissions" / name_of(number) / file)


def name_of(number: int) -> str:
    """Return the name of a submission."""
    return f"team{number:03}"


def _predicted(truth: NDArray[np.integer], *, error: int, random: np.random.Generator) -> NDArray[np.integer]:
    """Return labels that are moved a little, each by itself."""
    predicted = np.zeros_like(truth)
    for label in np.unique(truth[truth > 0]):
        shift = random.integers(-error, error + 1, 3) // (3, 1, 1)
        moved = np.roll(truth == label, shift, (0, 1, 2))
        predicted[moved] = label
    return predicted


def _write(path: Path, array: NDArray[np.integer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    sitk.WriteImage(image, str(path), useCompression=True)
