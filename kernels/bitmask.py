"""Masks as bits: 64 voxels of a row in one word, cropped to where there is anything."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled, compiled_in_place
from kernels.intrinsics import equal_bits, popcount


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedLabels:
    """Labels of one map as bits."""

    words: NDArray[np.uint64]
    """Shape (labels, Z, Y, words): bit b of word w of a row is voxel 64 w + b."""
    boxes: NDArray[np.int64]
    """Shape (labels, 6): first and last z, y and word with a set bit; the last are -1 if there is none."""
    has_others: bool
    """Whether the map has values that are neither 0 nor among the labels."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskPair:
    """One label of two maps as bits, cropped to what both hold."""

    reference: NDArray[np.uint64]
    """Shape (z + 2, y + 2, words): a row of zeros around the box on every side of z and y, and at least one zero bit
    after the last voxel of a row."""
    prediction: NDArray[np.uint64]
    """The same of the prediction."""

    def count_voxels(self) -> tuple[int, int, int]:
        """Return the voxels of the reference, of the prediction and of both at once."""
        return _count(self.reference, self.prediction)


class _Buffers(threading.local):
    """Memory for the words of two maps, kept between calls: fresh pages cost a fifth of a whole comparison."""

    def __init__(self) -> None:
        self._buffers = [np.empty(0, np.uint64), np.empty(0, np.uint64)]

    def take(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.uint64]:
        size = math.prod(shape)
        if self._buffers[slot].size < size:
            self._buffers[slot] = np.empty(size, np.uint64)
        return self._buffers[slot][:size].reshape(shape)


_buffers = _Buffers()


def pack_pair(
    reference: NDArray[np.generic],
    prediction: NDArray[np.generic],
    labels: Sequence[int],
    prediction_labels: Sequence[int],
) -> tuple[PackedLabels, PackedLabels]:
    """Pack labels other than 0 of two integer or bool maps, shape (Z, Y, X), in one pass over each.

    The words are only good until the next call in the same thread; `crop_pair` copies them.
    """
    return _pack(reference, labels, slot=0), _pack(prediction, prediction_labels, slot=1)


def _pack(array: NDArray[np.generic], labels: Sequence[int], *, slot: int) -> PackedLabels:
    values = np.ascontiguousarray(array)
    values = values.view(np.uint8) if values.dtype == np.bool_ else values
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    words = _buffers.take(slot, (len(labels), *values.shape[:2], (values.shape[2] + 63) // 64))
    # Rows of whole words lie behind one another like a single long one.
    rows, row_words = values, words
    if values.shape[2] % 64 == 0:
        rows, row_words = values.reshape(1, 1, -1), words.reshape(len(labels), 1, 1, -1)
    _pack_occupied(rows, row_words[0])
    has_others = False
    if array.dtype != np.bool_ or tuple(labels) != (1,):
        limits = np.iinfo(values.dtype)
        # A label that the type cannot hold occurs nowhere; 0 is packed nowhere either.
        held = np.array([label if limits.min <= label <= limits.max else 0 for label in labels], values.dtype)
        row_words[1:] = 0
        has_others = bool(_tell_apart(rows, held, row_words))
    return PackedLabels(words=words, boxes=_find_boxes(words), has_others=has_others)


def crop_pair(reference: PackedLabels, prediction: PackedLabels, number: int) -> MaskPair | None:
    """Return the label of this index in both maps, or None if neither has it."""
    box = _union(reference.boxes[number], prediction.boxes[number])
    if box[1] < 0:
        return None
    return MaskPair(reference=_crop(reference.words[number], box), prediction=_crop(prediction.words[number], box))


@compiled_in_place
def _bits_of(row: NDArray[np.integer], w: int, value: np.integer) -> np.uint64:
    """Compare the elements of word w of a row with a value; bits beyond the end of the row are 0."""
    start = 64 * w
    num = min(64, row.size - start)
    if num == 64:
        whole: np.uint64 = equal_bits(row, start, value)
        return whole
    if row.size >= 64:
        # The last 64, without those that the word before has.
        last: np.uint64 = equal_bits(row, row.size - 64, value)
        return last >> np.uint64(64 - num)
    bits = np.uint64(0)
    for b in range(num):
        bits |= np.uint64(row[start + b] == value) << np.uint64(b)
    return bits


@compiled_in_place
def _pack_occupied(values: NDArray[np.integer], words: NDArray[np.uint64]) -> None:
    """Fill in the words of what is not 0."""
    zero = values.dtype.type(0)
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            row = values[z, y]
            num_whole = row.size // 64
            # Straight on: a test that would spare the empty words takes longer than what it spares.
            for w in range(num_whole):
                words[z, y, w] = ~equal_bits(row, 64 * w, zero)
            for w in range(num_whole, words.shape[2]):
                words[z, y, w] = ~_bits_of(row, w, zero) & _within(row.size, w)


@compiled_in_place
def _tell_apart(values: NDArray[np.integer], labels: NDArray[np.integer], words: NDArray[np.uint64]) -> bool:
    """Fill in the words of all labels, of which the first holds what is not 0 and the others nothing.

    Returns whether there are values that are neither 0 nor a label.
    """
    others = np.uint64(0)
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            row = values[z, y]
            for w in range(words.shape[3]):
                left = words[0, z, y, w]
                if left != np.uint64(0):
                    for k in range(labels.size):
                        bits = _bits_of(row, w, labels[k]) & left
                        words[k, z, y, w] = bits
                        left &= ~bits
                    others |= left
    return bool(others != np.uint64(0))


@compiled_in_place
def _within(size_x: int, w: int) -> np.uint64:
    """Return the bits of word w that are voxels of a row."""
    num = min(64, size_x - 64 * w)
    return ~np.uint64(0) >> np.uint64(64 - num)


@compiled
def _find_boxes(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return first and last z, y and word with a set bit of each label."""
    num_labels, size_z, size_y, num_words = words.shape
    boxes = np.empty((num_labels, 6), np.int64)
    boxes[:, 0::2] = np.iinfo(np.int64).max
    boxes[:, 1::2] = -1
    for k in range(num_labels):
        box = boxes[k]
        in_any_slice = np.zeros(size_y * num_words, np.uint64)
        for z in range(size_z):
            in_slice = words[k, z].reshape(-1)
            some = np.uint64(0)
            for i in range(in_any_slice.size):
                some |= in_slice[i]
                in_any_slice[i] |= in_slice[i]
            if some != np.uint64(0):
                box[0] = min(box[0], z)
                box[1] = z
        for i in range(in_any_slice.size):
            if in_any_slice[i] != np.uint64(0):
                y, w = i // num_words, i % num_words
                box[2] = min(box[2], y)
                box[3] = y
                box[4] = min(box[4], w)
                box[5] = max(box[5], w)
    return boxes


@compiled
def _union(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the box that holds two boxes."""
    box = np.empty(6, np.int64)
    box[0::2] = np.minimum(a[0::2], b[0::2])
    box[1::2] = np.maximum(a[1::2], b[1::2])
    return box


@compiled
def _crop(words: NDArray[np.uint64], box: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Copy a box and put the rows of zeros around it; the further word keeps the last dual point of a full row."""
    size_z, size_y, num_words = box[1] - box[0] + 3, box[3] - box[2] + 3, box[5] - box[4] + 2
    cropped = np.empty((size_z, size_y, num_words), np.uint64)
    for z in range(size_z):
        for y in range(size_y):
            if 0 < z < size_z - 1 and 0 < y < size_y - 1:
                for w in range(num_words - 1):
                    cropped[z, y, w] = words[box[0] + z - 1, box[2] + y - 1, box[4] + w]
                cropped[z, y, num_words - 1] = np.uint64(0)
            else:
                for w in range(num_words):
                    cropped[z, y, w] = np.uint64(0)
    return cropped


@compiled
def _count(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> tuple[int, int, int]:
    """Return the set bits of two arrays of one shape, and those set in both."""
    num_a, num_b, num_both = 0, 0, 0
    flat_a, flat_b = a.ravel(), b.ravel()
    for i in range(flat_a.size):
        num_a += popcount(flat_a[i])
        num_b += popcount(flat_b[i])
        num_both += popcount(flat_a[i] & flat_b[i])
    return num_a, num_b, num_both
