"""The labels of a map as runs: read once, whatever their number, and in the order in which the map lies in memory.

A run is a part of a row of voxels that have one label. Rows are those of the memory: of a map in Fortran order they go
along z. They are sorted by label once all are found, so that each label reads its own from one place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.llvm.intrinsics import lowest_bit, prefetch, unequal_bits
from kernels.masks.bit_rows import turn_rows

# So far ahead memory is asked for: a processor does not do so by itself beyond the end of a page.
PREFETCH_BYTES = 4096
# Maps that must be copied first are copied by so many voxels.
_VOXELS_AT_ONCE = 1 << 20
_FEWEST_RUNS = 1 << 14
_RUNS_AT_ONCE = 1 << 12
# Of a run: the number of its label, where its row lies along both other axes, and its first and last voxel.
_COLUMNS = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelRuns:
    """Voxels of some labels of one map."""

    axes: tuple[int, int, int]
    """Which axes of (z, y, x) the columns of the runs stand for: both that lead to a row, then the one along it."""
    runs: NDArray[np.signedinteger]
    """Shape (runs, 4), those of a label together: the place of the row along two axes, first and last voxel."""
    ends: NDArray[np.int64]
    """Shape (labels + 1,): first run of each label, then the number of runs."""
    boxes: NDArray[np.int64]
    """Shape (labels, 6): first and last z, y and x; the last are -1 if there is none."""
    num_voxels: NDArray[np.int64]
    """Shape (labels,)."""
    has_others: bool
    """Whether the map has values that are neither 0 nor among the labels."""

    def crop(self, number: int, box: NDArray[np.int64], cropped: NDArray[np.uint64]) -> None:
        """Write a label in a box, first and last z, y and x, into zeros, uint64, shape (z, y, words)."""
        a, b, along = self.axes
        origin = (int(box[0]), int(box[2]), int(box[4]) & ~63)
        places, own = (origin[a], origin[b], origin[along]), self.runs[self.ends[number] : self.ends[number + 1]]
        if along == 2:
            _set_bits(own, places, cropped.transpose(a, b, 2))
            return
        sizes = (cropped.shape[0], cropped.shape[1], 64 * cropped.shape[2])
        rows = np.zeros((sizes[a], sizes[b], (sizes[along] + 63) // 64), np.uint64)
        _set_bits(own, places, rows)
        turn_rows(rows.swapaxes(0, 1) if a == 2 else rows, cropped.swapaxes(0, 1) if along == 0 else cropped)


class _Rows(NamedTuple):
    """Rows of voxels in memory, as bit patterns."""

    values: NDArray[np.unsignedinteger]
    """Shape (elements,): the memory from the first voxel to the last."""
    sizes: tuple[int, int, int]
    rows_a_line: int
    """How many rows follow each other without a gap: they are a line."""
    strides: tuple[int, int]
    """In elements, along the first two axes."""
    is_reversed: tuple[bool, bool, bool]
    """Along which axes places are counted from the other end."""
    start: int
    """What is added to places along the first axis."""


class _Labels(NamedTuple):
    """A table of labels that is searched from a place that follows from the bits of the label."""

    keys: NDArray[np.uint64]
    """Shape (2^n,)."""
    numbers: NDArray[np.int64]
    """Shape (2^n,): which label it is; -1 where there is none."""


class _Found(NamedTuple):
    """What is filled in."""

    runs: NDArray[np.signedinteger]
    num_runs: NDArray[np.int64]
    """Shape (labels,)."""
    boxes: NDArray[np.int64]
    """Shape (labels, 6), along the axes of the runs."""
    num_voxels: NDArray[np.int64]
    has_others: NDArray[np.bool_]
    """Shape (1,)."""


def find_runs(array: NDArray[np.generic], labels: Sequence[int]) -> LabelRuns:
    """Find the runs of labels other than 0 in a bool or integer map, shape (Z, Y, X), in one pass.

    Of a bool map every true value is 1, whatever its byte.
    """
    table = _table(_patterns(labels, array.dtype))
    num = len(labels)
    boxes = np.empty((num, 6), np.int64)
    boxes[:, 0::2], boxes[:, 1::2] = np.iinfo(np.int64).max, -1
    # Half as many new pages, which take as long as what is written to them.
    dtype = np.int16 if max(*array.shape, num) < 1 << 15 else np.int32
    found = _Found(
        runs=np.empty((_FEWEST_RUNS, _COLUMNS), dtype),
        num_runs=np.zeros(num, np.int64),
        boxes=boxes,
        num_voxels=np.zeros(num, np.int64),
        has_others=np.zeros(1, np.bool_),
    )
    axes, blocks = _in_memory_order(array)
    pending = np.empty((3, _RUNS_AT_ONCE), np.int64)
    num_runs, full = 0, []
    for rows in blocks:
        line = first = needed = 0
        while line * rows.rows_a_line < rows.sizes[0] * rows.sizes[1]:
            if needed > len(found.runs):
                full.append(found.runs[:num_runs])
                found, num_runs = found._replace(runs=np.empty((2 * needed, _COLUMNS), dtype)), 0
            line, first, num_runs, needed = _collect(rows, (line, first), table, found, num_runs, pending)
    ends = np.concatenate([[0], np.cumsum(found.num_runs)])
    in_order, places = np.empty((ends[-1], _COLUMNS - 1), dtype), ends[:-1].copy()
    for part in (*full, found.runs[:num_runs]):
        _sort_by_label(part, places, in_order)
    in_axes = np.empty_like(boxes)
    for place, axis in enumerate(axes):
        in_axes[:, 2 * axis : 2 * axis + 2] = boxes[:, 2 * place : 2 * place + 2]
    return LabelRuns(
        axes=axes,
        runs=in_order,
        ends=ends,
        boxes=in_axes,
        num_voxels=found.num_voxels,
        has_others=bool(found.has_others[0]),
    )


def is_label(value: object) -> bool:
    """Whether it can be the value of a label: a whole number other than 0, of whatever type."""
    try:
        return value != 0 and int(value) == value  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return False


def count_labels(array: NDArray[np.generic], labels: Sequence[int]) -> list[int]:
    """Return the numbers of voxels of labels in a bool or integer map, shape (Z, Y, X).

    Raises ValueError for labels that are not different integers other than 0.
    """
    if not all(map(is_label, labels)) or len(set(labels)) < len(labels):
        raise ValueError(f"labels are {list(labels)}; expected different integers other than 0")
    return [int(num) for num in find_runs(array, labels).num_voxels]


def _patterns(labels: Sequence[int], dtype: np.dtype[np.generic]) -> dict[int, int]:
    """Return the number of the label that each pattern of bits in memory stands for.

    Patterns are read as the machine reads an integer without a sign. What the type cannot hold occurs nowhere.
    """
    if dtype.kind == "b":
        return {pattern: number for number, label in enumerate(labels) if label == 1 for pattern in range(1, 256)}
    limits = np.iinfo(dtype.str)
    return {
        int(np.array(label, dtype).view(f"u{dtype.itemsize}")): number
        for number, label in enumerate(labels)
        if limits.min <= label <= limits.max
    }


def _table(patterns: dict[int, int]) -> _Labels:
    size = 8
    while size < 4 * len(patterns):
        size *= 2
    table = _Labels(keys=np.zeros(size, np.uint64), numbers=np.full(size, -1))
    for pattern, number in patterns.items():
        _insert(table, np.uint64(pattern), number)
    return table


def _in_memory_order(array: NDArray[np.generic]) -> tuple[tuple[int, int, int], Iterator[_Rows]]:
    """Return the axes in the order of the memory and the rows, as they lie there or, if they are torn, copied."""
    values = array.view(f"u{array.itemsize}")
    if not values.size:
        return (0, 1, 2), iter(())
    # An axis of one voxel leads nowhere.
    steps = [
        abs(stride) if size > 1 else values.nbytes for size, stride in zip(values.shape, values.strides, strict=True)
    ]
    first, second, last = sorted(range(3), key=lambda axis: -steps[axis])
    is_whole = values.flags.aligned and all(step % values.itemsize == 0 for step in steps)
    if is_whole and values.shape[last] > 1 and steps[last] == values.itemsize:
        return (first, second, last), iter([_rows_in_place(values.transpose(first, second, last))])
    return (0, 1, 2), _copied_rows(values)


def _rows_in_place(values: NDArray[np.unsignedinteger]) -> _Rows:
    is_reversed = tuple(stride < 0 for stride in values.strides)
    forward = values[tuple(slice(None, None, -1 if turned else 1) for turned in is_reversed)]
    strides = [stride // values.itemsize for stride in forward.strides]
    num = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True))
    num_a, num_b, size = values.shape
    is_one_line, are_slices_lines = forward.flags.c_contiguous, forward[0].flags.c_contiguous
    return _Rows(
        values=np.lib.stride_tricks.as_strided(forward, (num,), (values.itemsize,)),
        sizes=(num_a, num_b, size),
        rows_a_line=num_a * num_b if is_one_line else num_b if are_slices_lines else 1,
        strides=(strides[0], strides[1]),
        is_reversed=(is_reversed[0], is_reversed[1], is_reversed[2]),
        start=0,
    )


def _copied_rows(values: NDArray[np.unsignedinteger]) -> Iterator[_Rows]:
    num_slices = max(1, _VOXELS_AT_ONCE // max(1, values[0].size))
    for start in range(0, len(values), num_slices):
        rows = _rows_in_place(np.array(values[start : start + num_slices], order="C"))
        yield rows._replace(start=start)


@compiled_in_place
def _first_place(keys: NDArray[np.uint64], key: np.uint64) -> np.uint64:
    """Return where in a table the search for a key begins."""
    # Knuth's multiplicative hash: the golden ratio spreads keys that follow each other.
    return np.uint64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & np.uint64(keys.size - 1)


@compiled_in_place
def _insert(table: _Labels, key: np.uint64, number: int) -> None:
    place = _first_place(table.keys, key)
    while table.numbers[place] >= 0:
        place = (place + np.uint64(1)) & np.uint64(table.keys.size - 1)
    table.keys[place], table.numbers[place] = key, number


@compiled_in_place
def _number_of(table: _Labels, key: np.uint64) -> int:
    """Return which label a key is, -1 if it is none."""
    place = _first_place(table.keys, key)
    while table.numbers[place] >= 0 and table.keys[place] != key:
        place = (place + np.uint64(1)) & np.uint64(table.keys.size - 1)
    return int(table.numbers[place])


@compiled_in_place
def _collect(
    rows: _Rows, place: tuple[int, int], table: _Labels, found: _Found, num_runs: int, pending: NDArray[np.int64]
) -> tuple[int, int, int, int]:
    """Add the runs from a place on, a line and a voxel in it, until there might be no room for more.

    Returns the next place, the number of runs, and for how many there must be room. `pending` is room, too.
    """
    line, first = place
    length, num_lines = rows.sizes[2] * rows.rows_a_line, rows.sizes[0] * rows.sizes[1] // rows.rows_a_line
    while line < num_lines:
        while first < length:
            next_first, num = _list_runs(rows, line, first, pending)
            needed = num_runs + num + (next_first - first) // rows.sizes[2] + 1
            if needed > found.runs.shape[0]:
                return line, first, num_runs, needed
            num_runs = _sort_in(rows, line, pending[:, :num], table, found, num_runs)
            first = next_first
        line, first = line + 1, 0
    return line, first, num_runs, num_runs


@compiled_in_place
def _list_runs(rows: _Rows, line: int, place: int, pending: NDArray[np.int64]) -> tuple[int, int]:
    """List the runs of a line from a place on that are not 0, until the list is full; returns the next place.

    `pending`, shape (3, room), is filled with first and last voxel and the bit pattern of each. Runs go on from row to
    row. No branch depends on a value, since no processor could foresee it.
    """
    values = rows.values
    base, length = _start_of_line(rows, line), rows.sizes[2] * rows.rows_a_line
    num, room = 0, pending.shape[1] - 64
    first, value = place, values[base + place]
    w = place
    while w < length and num < room:
        ends = _ends_of_runs(values, base + w, length - w)
        while ends != np.uint64(0):
            last = w + lowest_bit(ends)
            ends &= ends - np.uint64(1)
            pending[0, num], pending[1, num], pending[2, num] = first, last, np.int64(value)
            num += value != 0
            first = last + 1
            value = values[min(base + first, values.size - 1)]
        w += 64
    return first, num


@compiled_in_place
def _start_of_line(rows: _Rows, line: int) -> int:
    row = line * rows.rows_a_line
    return row // rows.sizes[1] * rows.strides[0] + row % rows.sizes[1] * rows.strides[1]


@compiled_in_place
def _ends_of_runs(values: NDArray[np.unsignedinteger], start: int, num: int) -> np.uint64:
    """Return which of the next 64 elements differ from the one after them; the last of the `num` that are left does."""
    prefetch(values, start + PREFETCH_BYTES // values.itemsize)
    if num > 64:
        bits: np.uint64 = unequal_bits(values, start)
        return bits
    last = np.uint64(1) << np.uint64(num - 1)
    if start + 64 < values.size:
        rest: np.uint64 = unequal_bits(values, start)
        return (rest & (last - np.uint64(1))) | last
    for i in range(num - 1):
        last |= np.uint64(values[start + i] != values[start + i + 1]) << np.uint64(i)
    return last


@compiled_in_place
def _sort_in(rows: _Rows, line: int, pending: NDArray[np.int64], table: _Labels, found: _Found, place: int) -> int:
    """Add the runs of a line that are of a label; returns how many there are now."""
    size = rows.sizes[2]
    before = np.uint64(0)
    number = -1
    for i in range(pending.shape[1]):
        key = np.uint64(pending[2, i])
        if key != before:
            number, before = _number_of(table, key), key
        if number < 0:
            found.has_others[0] = True
            continue
        first, last = pending[0, i], pending[1, i]
        row = first // size
        found.num_voxels[number] += last - first + 1
        first, last = first - row * size, last - row * size
        row += line * rows.rows_a_line
        while last >= size:
            place = _add(rows, row, (first, size - 1), number, found, place)
            row, first, last = row + 1, 0, last - size
        place = _add(rows, row, (first, last), number, found, place)
    return place


@compiled_in_place
def _add(rows: _Rows, row: int, part: tuple[int, int], number: int, found: _Found, place: int) -> int:
    """Write a part of a row as a run; returns the place after it."""
    first, last = part
    a = row // rows.sizes[1]
    b = row - a * rows.sizes[1]
    if rows.is_reversed[0]:
        a = rows.sizes[0] - 1 - a
    if rows.is_reversed[1]:
        b = rows.sizes[1] - 1 - b
    if rows.is_reversed[2]:
        first, last = rows.sizes[2] - 1 - last, rows.sizes[2] - 1 - first
    a += rows.start
    own = found.runs[place]
    own[0], own[1], own[2], own[3], own[4] = number, a, b, first, last
    found.num_runs[number] += 1
    box = found.boxes[number]
    box[0], box[1] = min(box[0], a), max(box[1], a)
    box[2], box[3] = min(box[2], b), max(box[3], b)
    box[4], box[5] = min(box[4], first), max(box[5], last)
    return place + 1


@compiled_in_place
def _sort_by_label(
    runs: NDArray[np.signedinteger], places: NDArray[np.int64], in_order: NDArray[np.signedinteger]
) -> None:
    """Copy runs, those of each label from its place on; the places move on."""
    for i in range(runs.shape[0]):
        number = runs[i, 0]
        place = places[number]
        for column in range(in_order.shape[1]):
            in_order[place, column] = runs[i, column + 1]
        places[number] = place + 1


@compiled_in_place
def _set_bits(runs: NDArray[np.signedinteger], origin: tuple[int, int, int], words: NDArray[np.uint64]) -> None:
    """Set the bits of runs in words, shape (a, b, words), whose first voxel is at an origin."""
    every = ~np.uint64(0)
    for i in range(runs.shape[0]):
        row = words[runs[i, 0] - origin[0], runs[i, 1] - origin[1]]
        first, last = runs[i, 2] - origin[2], runs[i, 3] - origin[2]
        w, stop = first >> 6, last >> 6
        bits = every << np.uint64(first & 63)
        while w < stop:
            row[w] |= bits
            bits = every
            w += 1
        row[w] |= bits & (every >> np.uint64(63 - (last & 63)))
