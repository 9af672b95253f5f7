"""Masks as bits: 64 voxels of a row in one word, cropped to where there is anything."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled, compiled_in_place
from kernels.intrinsics import equal_bits, popcount, prefetch


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedLabels:
    """Labels of one map as bits."""

    words: NDArray[np.uint64]
    """Shape (labels, rows, words), the rows along x that hold anything: bit b of word w of a row is voxel 64 w + b."""
    places: NDArray[np.int64]
    """Shape (rows, 2): z and y of each row, in the order of the volume."""
    boxes: NDArray[np.int64]
    """Shape (labels, 6): first and last z, y and word with a set bit; the last are -1 if there is none."""
    has_others: bool
    """Whether the map has values that are neither 0 nor among the labels."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MaskPair:
    """One label of two maps as bits, cropped to what both hold."""

    reference: NDArray[np.uint64]
    """Shape (z + 2, y + 2, words): around the box a row of zeros on every side of z and y, and a word of zeros at the
    end of every row."""
    prediction: NDArray[np.uint64]
    """The same of the prediction."""

    def count_voxels(self) -> tuple[int, int, int]:
        """Return the voxels of the reference, of the prediction and of both at once."""
        return _count(self.reference, self.prediction)


# So far ahead memory is asked for: a processor does not do so by itself beyond the end of a page.
_PREFETCH_BYTES = 4096


def pack_pair(
    reference: NDArray[np.generic],
    prediction: NDArray[np.generic],
    labels: Sequence[int],
    prediction_labels: Sequence[int],
) -> tuple[PackedLabels, PackedLabels]:
    """Pack labels other than 0 of two integer or bool maps, shape (Z, Y, X), in one pass over each."""
    return _pack(reference, labels), _pack(prediction, prediction_labels)


def _pack(array: NDArray[np.generic], labels: Sequence[int]) -> PackedLabels:
    values = np.ascontiguousarray(array)
    values = values.view(np.uint8) if values.dtype == np.bool_ else values
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    size_z, size_y, size_x = values.shape
    occupied = np.empty((size_z * size_y, (size_x + 63) // 64), np.uint64)
    places = np.empty((size_z * size_y, 2), np.int64)
    num_rows = _pack_occupied(values, occupied, places)
    occupied, places = occupied[:num_rows], places[:num_rows]
    words, has_others = occupied[None], False
    if array.dtype != np.bool_ or tuple(labels) != (1,):
        limits = np.iinfo(values.dtype)
        # A label that the type cannot hold occurs nowhere; 0 is packed nowhere either.
        held = np.array([label if limits.min <= label <= limits.max else 0 for label in labels], values.dtype)
        words = np.empty((len(labels), *occupied.shape), np.uint64)
        has_others = bool(_tell_apart(values, held, occupied, places, words))
    return PackedLabels(words=words, places=places, boxes=_find_boxes(words, places), has_others=has_others)


def crop_pair(reference: PackedLabels, prediction: PackedLabels, number: int) -> MaskPair | None:
    """Return the label of this index in both maps, or None if neither has it."""
    box = _union(reference.boxes[number], prediction.boxes[number])
    if box[1] < 0:
        return None
    return MaskPair(reference=_crop(reference, number, box), prediction=_crop(prediction, number, box))


def _crop(packed: PackedLabels, number: int, box: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a box of one label with zeros around it; the further word has the last dual point of a row."""
    cropped = np.zeros((box[1] - box[0] + 3, box[3] - box[2] + 3, box[5] - box[4] + 2), np.uint64)
    _copy_box(packed.words[number], packed.places, box, cropped)
    return cropped


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
def _pack_occupied(values: NDArray[np.integer], words: NDArray[np.uint64], places: NDArray[np.int64]) -> int:
    """Fill in the rows of what is not 0, and where they are; returns how many they are.

    A row without anything is written over by the next one, so that hardly more memory is touched than is needed.
    """
    zero = values.dtype.type(0)
    num_whole = values.shape[2] // 64
    num_rows = 0
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            row, row_words = values[z, y], words[num_rows]
            some = np.uint64(0)
            for w in range(num_whole):
                prefetch(row, 64 * w + _PREFETCH_BYTES // row.itemsize)
                word = ~equal_bits(row, 64 * w, zero)
                row_words[w] = word
                some |= word
            for w in range(num_whole, row_words.size):
                word = ~_bits_of(row, w, zero) & _within(row.size, w)
                row_words[w] = word
                some |= word
            places[num_rows, 0] = z
            places[num_rows, 1] = y
            num_rows += some != np.uint64(0)
    return num_rows


@compiled_in_place
def _tell_apart(
    values: NDArray[np.integer],
    labels: NDArray[np.integer],
    occupied: NDArray[np.uint64],
    places: NDArray[np.int64],
    words: NDArray[np.uint64],
) -> bool:
    """Fill in the words of all labels; return whether there are values that are neither 0 nor a label."""
    others = np.uint64(0)
    for i in range(places.shape[0]):
        row = values[places[i, 0], places[i, 1]]
        for w in range(occupied.shape[1]):
            left = occupied[i, w]
            for k in range(labels.size):
                bits = _bits_of(row, w, labels[k]) & left if left != np.uint64(0) else left
                words[k, i, w] = bits
                left &= ~bits
            others |= left
    return bool(others != np.uint64(0))


@compiled_in_place
def _within(size_x: int, w: int) -> np.uint64:
    """Return the bits of word w that are voxels of a row."""
    num = min(64, size_x - 64 * w)
    return ~np.uint64(0) >> np.uint64(64 - num)


@compiled
def _find_boxes(words: NDArray[np.uint64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return first and last z, y and word with a set bit of each label."""
    num_labels, num_rows, num_words = words.shape
    boxes = np.empty((num_labels, 6), np.int64)
    boxes[:, 0::2] = np.iinfo(np.int64).max
    boxes[:, 1::2] = -1
    in_any_row = np.empty(num_words, np.uint64)
    for k in range(num_labels):
        box = boxes[k]
        in_any_row[:] = 0
        for i in range(num_rows):
            some = np.uint64(0)
            for w in range(num_words):
                some |= words[k, i, w]
                in_any_row[w] |= words[k, i, w]
            if some != np.uint64(0):
                z, y = places[i]
                box[0], box[1] = min(box[0], z), z
                box[2], box[3] = min(box[2], y), max(box[3], y)
        for w in range(num_words):
            if in_any_row[w] != np.uint64(0):
                box[4], box[5] = min(box[4], w), w
    return boxes


@compiled
def _union(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the box that holds two boxes."""
    box = np.empty(6, np.int64)
    box[0::2] = np.minimum(a[0::2], b[0::2])
    box[1::2] = np.maximum(a[1::2], b[1::2])
    return box


@compiled_in_place
def _copy_box(
    words: NDArray[np.uint64], places: NDArray[np.int64], box: NDArray[np.int64], cropped: NDArray[np.uint64]
) -> None:
    """Copy the rows of a box into the middle of zeros."""
    for i in range(places.shape[0]):
        z, y = places[i, 0] - box[0], places[i, 1] - box[2]
        if 0 <= z <= box[1] - box[0] and 0 <= y <= box[3] - box[2]:
            row = cropped[z + 1, y + 1]
            for w in range(row.size - 1):
                row[w] = words[i, box[4] + w]


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
