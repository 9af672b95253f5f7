"""What pictures, DICOM objects and derived values take of the memory, known before a case is predicted."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.inference.options import PredictOptions
from orchestrator.inference.products.derived import coarse_steps

if TYPE_CHECKING:
    from orchestrator.training.nnunet.prediction_memory import StoredImage

_DISTANCES_BYTES = 64
"""Of a voxel of the coarse grid: two distances, and what scipy calculates one of them from."""
_FRAME_BYTES, _FRAME_SHARE = 24 << 10, 3 / 8
"""Of a structure in a slice: its description, and its bits, which highdicom and pydicom have three times."""
_MOST_IN_A_SLICE = 40
"""Structures, of all slices on average: whole-body models of 118 have about 30."""
_SUM_BYTES = 9
"""Of a voxel in which structures may overlap: how many do."""
_CONTOURS_BYTES = 16
"""Of a voxel; organs of 40 mm side by side take 14. Contours that are longer than theirs take more."""


def extras_bytes(header: "StoredImage", options: PredictOptions, *, structures: Mapping[str, tuple[int, ...]]) -> int:
    """Return the bytes that what is made of a label map takes at most, one thing after the other.

    Parameters
    ----------
    header
        Of the image, as its reader has it.
    options
        What is asked for.
    structures
        Labels by the name of a structure, of those that the label map keeps.
    """
    num_voxels = math.prod(header.shape)
    labels = [label for of_structure in structures.values() for label in of_structure]
    label = 1 if max(labels, default=0) <= 255 else 2
    # Twice while ITK reads them.
    taken = [0.0]
    if options.study or options.dicom_seg or options.dicom_rtstruct:
        taken.append(2 * label)
    if options.overlays:
        taken += [2 * header.voxel_bytes, header.voxel_bytes + 2 * label]
    if options.study:
        taken.append(label + 5 + _DISTANCES_BYTES / math.prod(coarse_steps(header.spacing_mm)))
    if options.dicom_rtstruct:
        taken.append(_CONTOURS_BYTES)
    frames = 0.0
    if options.dicom_seg:
        are_apart = len(set(labels)) == len(labels)
        taken.append(label + (label if are_apart else len(structures) + _SUM_BYTES))
        num_of_slice = min(len(structures), _MOST_IN_A_SLICE)
        frames = num_of_slice * (_FRAME_SHARE * num_voxels + _FRAME_BYTES * header.shape[0])
    return round(num_voxels * max(taken) + frames)
