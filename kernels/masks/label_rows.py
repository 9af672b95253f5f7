"""Few labels of a map as bits, row by row: without a branch that depends on a voxel, faster than runs for a few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled, compiled_in_place
from kernels.llvm.intrinsics import equal_bits, prefetch
from kernels.masks.label_runs import PREFETCH_BYTES, LabelRuns, find_runs

# With more, each of which takes a look at what is not 0, runs are faster.
_MOST_LABELS = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelRows:
    """Rows along x that hold anything."""

    words: NDArray[np.uint64]
    """Shape (labels, rows, words): bit b of word w of a row is voxel 64 w + b."""
    places: NDArray[np.int64]
    """Shape (rows, 2): z and y of each row, in the order of the volume."""
    boxes: NDArray[np.int64]
    """Shape (labels, 6): first and last z, y and x, these of whole words; the last are -1 if there is none."""
    has_others: bool
    """Whether the map has values that are neither 0 nor among the labels."""

    def crop(self, number: int, box: NDArray[np.int64], cropped: NDArray[np.uint64]) -> None:
        """Write a label in a box, first and last z, y and x, into zeros, uint64, shape (z, y, words)."""
        _copy_box(self.words[number], self.places, box, cropped)


def find_labels(array: NDArray[np.generic], labels: Sequence[int]) -> LabelRows | LabelRuns:
    """Find labels other than 0 in a bool or integer map, shape (Z, Y, X), in one pass, whatever its type and layout."""
    is_plain = array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative
    return _pack_rows(array, labels) if is_plain and len(labels) <= _MOST_LABELS else find_runs(array, labels)


def _pack_rows(array: NDArray[np.generic], labels: Sequence[int]) -> LabelRows:
    values = array.view(f"u{array.itemsize}")
    size_z, size_y, size_x = values.shape
    occupied = np.empty((size_z * size_y, (size_x + 63) // 64), np.uint64)
    places = np.empty((size_z * size_y, 2), np.int64)
    num_rows = _pack_occupied(values, occupied, places)
    occupied, places = occupied[:num_rows], places[:num_rows]
    words, has_others = occupied[None], False
    if array.dtype != np.bool_ or tuple(labels) != (1,):
        limits = np.iinfo(values.dtype if array.dtype == np.bool_ else array.dtype)
        # A label that the type cannot hold occurs nowhere; 0 is packed nowhere either.
        held = [label if limits.min <= label <= limits.max else 0 for label in labels]
        patterns = np.array(held, limits.dtype).view(values.dtype)
        words = np.empty((len(labels), *occupied.shape), np.uint64)
        has_others = bool(_tell_apart(values, patterns, occupied, places, words))
    return LabelRows(words=words, places=places, boxes=_find_boxes(words, places), has_others=has_others)


@compiled_in_place
def _bits_of(row: NDArray[np.unsignedinteger], w: int, value: np.unsignedinteger) -> np.uint64:
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
def _pack_occupied(values: NDArray[np.unsignedinteger], words: NDArray[np.uint64], places: NDArray[np.int64]) -> int:
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
                prefetch(row, 64 * w + PREFETCH_BYTES // row.itemsize)
                word = ~equal_bits(row, 64 * w, zero)
                row_words[w] = word
                some |= word
            for w in range(num_whole, row_words.size):
                within = ~np.uint64(0) >> np.uint64(64 - min(64, row.size - 64 * w))
                word = ~_bits_of(row, w, zero) & within
                row_words[w] = word
                some |= word
            places[num_rows, 0] = z
            places[num_rows, 1] = y
            num_rows += some != np.uint64(0)
    return num_rows


@compiled_in_place
def _tell_apart(
    values: NDArray[np.unsignedinteger],
    patterns: NDArray[np.unsignedinteger],
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
            for k in range(patterns.size):
                bits = _bits_of(row, w, patterns[k]) & left if left != np.uint64(0) else left
                words[k, i, w] = bits
                left &= ~bits
            others |= left
    return bool(others != np.uint64(0))


@compiled
def _find_boxes(words: NDArray[np.uint64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return first and last z, y and x of whole words with a set bit of each label."""
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
                box[4], box[5] = min(box[4], 64 * w), 64 * w + 63
    return boxes


@compiled_in_place
def _copy_box(
    words: NDArray[np.uint64], places: NDArray[np.int64], box: NDArray[np.int64], cropped: NDArray[np.uint64]
) -> None:
    """Copy the rows of a box."""
    first_word = box[4] >> 6
    for i in range(places.shape[0]):
        z, y = places[i, 0] - box[0], places[i, 1] - box[2]
        if 0 <= z < cropped.shape[0] and 0 <= y < cropped.shape[1]:
            row = cropped[z, y]
            for w in range(row.size):
                row[w] = words[i, first_word + w]
