"""Masks as bits: 64 voxels of a row in one word, cropped to where there is anything."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled
from kernels.llvm.intrinsics import popcount
from kernels.masks.label_rows import LabelRows
from kernels.masks.label_runs import LabelRuns


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskPair:
    """One label of two maps as bits, cropped to what both hold: bit b of word w of a row is voxel 64 w + b."""

    reference: NDArray[np.uint64]
    """Shape (z + 2, y + 2, words): around the box a row of zeros on every side of z and y, and a word of zeros at the
    end of every row, which has the last dual point. Of a flat pair shape (2, y + 2, words): the one slice twice, so
    that nothing lies above or below it."""
    prediction: NDArray[np.uint64]
    """The same of the prediction."""

    @property
    def is_flat(self) -> bool:
        """Whether these are masks in the plane."""
        return bool(self.reference.shape[0] == 2)

    def count_voxels(self) -> tuple[int, int, int]:
        """Return the voxels of the reference, of the prediction and of both at once."""
        return _count(self.reference[1:], self.prediction[1:])


def crop_pair(
    reference: LabelRows | LabelRuns, prediction: LabelRows | LabelRuns, number: int, *, is_flat: bool
) -> MaskPair | None:
    """Return the label of this index in both maps, or None if neither has it; flat maps are one slice."""
    box = _union(reference.boxes[number], prediction.boxes[number])
    if box[1] < 0:
        return None
    # Words are those of the map, however the box lies in it.
    shape = (box[1] - box[0] + 1, box[3] - box[2] + 3, (box[5] >> 6) - (box[4] >> 6) + 2)
    masks = []
    for found in (reference, prediction):
        mask = np.zeros((2 if is_flat else shape[0] + 2, *shape[1:]), np.uint64)
        found.crop(number, box, mask[1 : 1 + shape[0], 1:-1, :-1])
        if is_flat:
            mask[0] = mask[1]
        masks.append(mask)
    return MaskPair(reference=masks[0], prediction=masks[1])


@compiled
def _union(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the box that holds two boxes, of which one without anything ends at -1."""
    if a[1] < 0:
        return b
    if b[1] < 0:
        return a
    box = np.empty(6, np.int64)
    box[0::2] = np.minimum(a[0::2], b[0::2])
    box[1::2] = np.maximum(a[1::2], b[1::2])
    return box


@compiled
def _count(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> tuple[int, int, int]:
    """Return the set bits of two C-ordered arrays of one shape, and those set in both."""
    num_a, num_b, num_both = 0, 0, 0
    flat_a, flat_b = a.ravel(), b.ravel()
    for i in range(flat_a.size):
        num_a += popcount(flat_a[i])
        num_b += popcount(flat_b[i])
        num_both += popcount(flat_a[i] & flat_b[i])
    return num_a, num_b, num_both
