"""Reading of what `lane_packing` packed, box by box: only the units that a box meets are unpacked.

All that a box needs is done here in one call. Between two boxes a training does so much else that the processor has
to fetch the code of every function again, which costs more than running it.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled
from kernels.llvm.intrinsics import popcount
from kernels.llvm.lane_intrinsics import (
    LANES,
    load_word,
    repeat_row,
    restore_lanes,
    unpack_from_above,
    unpack_from_both,
)
from kernels.packing.lane_packing import BASE_ROW, PADDING_BYTES, UNIT

WHOLE, UNCHECKED = -1, -2
"""Results of `read_box` if no chunk was broken, and if one that is needed was not compared with its checksum yet."""
EVERYWHERE = np.empty((0, 4))
"""Slabs of a box that is wanted as a whole."""

Index = tuple[int, ...]

# A box is filled at once with the number that at least one of so many of its chunks holds alone.
_ENOUGH = 3
_ROUNDING = 1e-6
# A slab that changes so little from slice to slice wants all of them or none.
_PARALLEL = 1e-12


@compiled
def read_box(
    payloads: NDArray[np.uint8],
    ends: NDArray[np.int64],
    is_checked: NDArray[np.bool_],
    first_chunk: int,
    shape: Index,
    chunk_shape: Index,
    step: float,
    offset: int,
    padding: int,
    start: Index,
    slabs: NDArray[np.float64],
    target: NDArray[np.generic],
) -> int:
    """Fill a box; return `WHOLE`, `UNCHECKED`, or the index of a chunk that is broken.

    Parameters
    ----------
    payloads : uint8 array
        All packed chunks, one after another.
    ends : int64 array, shape (chunks + 1,)
        Where each begins and the last ends.
    is_checked : bool array, shape (chunks,)
        Which chunks may be read; with others nothing is done.
    first_chunk : int
        Index of the first chunk of this channel.
    shape, chunk_shape : tuple of int
        (z, y, x) of the channel and of a chunk; a chunk has 16 slices.
    step : float
        Floats become ``(number + offset) * step``, integers ``number + offset``.
    offset : int
        See `step`.
    padding : int
        What voxels outside of the array become.
    start : tuple of int
        Voxel that belongs to ``target[0, 0, 0]``.
    slabs : float64 array, shape (n, 4)
        Voxels p are wanted where ``abs(slabs[k, :3] @ p - slabs[k, 3]) <= 1`` for every k; p counts from `start`. The
        others of the box may become anything.
    target : float32 or int16 array, shape (z, y, x)
        The box; C-ordered.
    """
    flat = target.reshape(-1)
    box = fill_outside(target, start, shape, padding)
    if box[0, 0] >= box[1, 0] or box[0, 1] >= box[1, 1] or box[0, 2] >= box[1, 2]:
        return WHOLE
    first_z, first_y, first_x = box[0] // np.array(chunk_shape)
    last_z, last_y, last_x = -(-box[1] // np.array(chunk_shape))
    grid_y, grid_x = -(-shape[1] // chunk_shape[1]), -(-shape[2] // chunk_shape[2])
    for chunk_z in range(first_z, last_z):
        for chunk_y in range(first_y, last_y):
            for chunk_x in range(first_x, last_x):
                if not is_checked[first_chunk + (chunk_z * grid_y + chunk_y) * grid_x + chunk_x]:
                    return UNCHECKED
    values = np.empty((BASE_ROW + 1) * LANES, np.uint16)
    background = -1
    # Where only slabs are wanted most of the box may stay as it is.
    if slabs.shape[0] == 0:
        chunk = _constant_chunk(
            payloads, ends, first_chunk, (first_z, last_z), (first_y, last_y), (first_x, last_x), grid_y, grid_x
        )
        if chunk >= 0:
            _set_base(values, payloads, ends[chunk])
            _fill(flat, target.shape, box, start, values, offset, np.float32(step))
            background = int(values[BASE_ROW * LANES])
    part = np.empty((2, 3), np.int64)
    for chunk_z in range(first_z, last_z):
        for chunk_y in range(first_y, last_y):
            for chunk_x in range(first_x, last_x):
                chunk = first_chunk + (chunk_z * grid_y + chunk_y) * grid_x + chunk_x
                origin = chunk_z * chunk_shape[0], chunk_y * chunk_shape[1], chunk_x * chunk_shape[2]
                for axis in range(3):
                    part[0, axis] = max(box[0, axis], origin[axis])
                    part[1, axis] = min(box[1, axis], origin[axis] + chunk_shape[axis])
                _narrow_slices(slabs, start, part)
                if part[0, 0] >= part[1, 0]:
                    continue
                is_whole = _read_chunk(
                    payloads, ends[chunk], ends[chunk + 1], shape, chunk_shape, origin, part, start, np.float32(step),
                    offset, slabs, flat, target.shape, values, background,
                )  # fmt: skip
                if not is_whole:
                    broken: int = chunk
                    return broken
    return WHOLE


@compiled
def fill_outside(target: NDArray[np.generic], start: Index, shape: Index, padding: int) -> NDArray[np.int64]:
    """Fill what of a box lies outside of an array; return the rest: first voxel of the array and one past the last."""
    box = np.empty((2, 3), np.int64)
    for axis in range(3):
        box[0, axis] = max(0, start[axis])
        box[1, axis] = max(box[0, axis], min(shape[axis], start[axis] + target.shape[axis]))
    z, y, x = start
    for k in range(target.shape[0]):
        if not box[0, 0] <= z + k < box[1, 0]:
            target[k] = padding
            continue
        target[k, : box[0, 1] - y] = padding
        target[k, box[1, 1] - y :] = padding
        if box[0, 2] > x or box[1, 2] - x < target.shape[2]:
            inner = target[k, box[0, 1] - y : box[1, 1] - y]
            inner[:, : box[0, 2] - x] = padding
            inner[:, box[1, 2] - x :] = padding
    return box


@compiled
def _constant_chunk(payloads, ends, first_chunk, along_z, along_y, along_x, grid_y, grid_x):  # type: ignore[no-untyped-def]
    """Return a chunk with one number only, which many of the chunks of a box have; -1 if there is none.

    The box is filled with it at once then, from end to end: memory that is not in the cache is written faster so than
    one chunk after the other.
    """
    constant, value = -1, -1
    num_alike, num_needed = 0, 0
    for z in range(along_z[0], along_z[1]):
        for y in range(along_y[0], along_y[1]):
            for x in range(along_x[0], along_x[1]):
                chunk = first_chunk + (z * grid_y + y) * grid_x + x
                at = ends[chunk]
                num_needed += 1
                if ends[chunk + 1] - at == 2:
                    number = int(payloads[at]) | int(payloads[at + 1]) << 8
                    if constant < 0:
                        constant, value = chunk, number
                    num_alike += number == value
    return constant if _ENOUGH * num_alike > num_needed else -1


@compiled
def _narrow_slices(slabs, start, part):  # type: ignore[no-untyped-def]
    """Reduce the slices of a part of the array to those that slabs want of any of its rows and columns."""
    middle_y, middle_x = 0.5 * (part[0, 1] + part[1, 1] - 1) - start[1], 0.5 * (part[0, 2] + part[1, 2] - 1) - start[2]
    half_y, half_x = 0.5 * (part[1, 1] - 1 - part[0, 1]), 0.5 * (part[1, 2] - 1 - part[0, 2])
    for k in range(slabs.shape[0]):
        along_z = slabs[k, 0]
        reach = 1 + _ROUNDING + abs(slabs[k, 1]) * half_y + abs(slabs[k, 2]) * half_x
        rest = slabs[k, 3] - slabs[k, 1] * middle_y - slabs[k, 2] * middle_x
        if abs(along_z) < _PARALLEL:
            if abs(rest) > reach:
                part[1, 0] = part[0, 0]
            continue
        a, b = (rest - reach) / along_z, (rest + reach) / along_z
        part[0, 0] = max(part[0, 0], start[0] + int(np.floor(min(a, b))))
        part[1, 0] = min(part[1, 0], start[0] + int(np.ceil(max(a, b))) + 1)


@compiled
def _fill(flat, target_shape, part, start, values, offset, step):  # type: ignore[no-untyped-def]
    """Set the voxels of a part of the box to the first value of a unit."""
    num_x = part[1, 2] - part[0, 2]
    for z in range(part[0, 0] - start[0], part[1, 0] - start[0]):
        for y in range(part[0, 1] - start[1], part[1, 1] - start[1]):
            at = (z * target_shape[1] + y) * target_shape[2] + part[0, 2] - start[2]
            if num_x < LANES:
                restore_lanes(values, BASE_ROW, offset, step, flat, at, 0, num_x)
            else:
                repeat_row(values, BASE_ROW, offset, step, flat, at, num_x)


@compiled
def _read_chunk(  # type: ignore[no-untyped-def]
    payloads, first, last, shape, chunk_shape, origin, part, start, step, offset, slabs, flat, target_shape,
    values, filled_with,
):  # fmt: skip
    """Decode the units of a chunk that meet the part, which holds a number already; False if the payload is broken."""
    if last - first == 2:
        _set_base(values, payloads, first)
        if values[BASE_ROW * LANES] != filled_with:
            _fill(flat, target_shape, part, start, values, offset, step)
        return True
    num_z = min(chunk_shape[0], shape[0] - origin[0])
    num_y = min(chunk_shape[1], shape[1] - origin[1])
    num_x = min(chunk_shape[2], shape[2] - origin[2])
    units_x = -(-num_x // UNIT)
    num_units = -(-num_y // UNIT) * units_x
    table = first + 6 * num_units
    if table > last:
        return False
    unit_part = (
        ((part[0, 1] - origin[1]) // UNIT, -(-(part[1, 1] - origin[1]) // UNIT)),
        ((part[0, 2] - origin[2]) // UNIT, -(-(part[1, 2] - origin[2]) // UNIT)),
    )
    background = _background(payloads, first, num_units, units_x, unit_part)
    if background >= 0:
        _set_base(values, payloads, first + 2 * background)
        background = int(values[BASE_ROW * LANES])
        if background != filled_with:
            _fill(flat, target_shape, part, start, values, offset, step)
            filled_with = background
    inner = np.empty((2, 3), np.int64)
    for unit_y in range(unit_part[0][0], unit_part[0][1]):
        rows = min(UNIT, num_y - unit_y * UNIT)
        for unit_x in range(unit_part[1][0], unit_part[1][1]):
            unit = unit_y * units_x + unit_x
            ends_at = _uint32(payloads, first + 2 * num_units + 4 * unit)
            begins_at = _uint32(payloads, first + 2 * num_units + 4 * unit - 4) if unit else 0
            _set_base(values, payloads, first + 2 * unit)
            if begins_at == ends_at and values[BASE_ROW * LANES] == filled_with:
                continue
            first_y, first_x = origin[1] + unit_y * UNIT, origin[2] + unit_x * UNIT
            inner[0, 0], inner[1, 0] = part[0, 0], part[1, 0]
            inner[0, 1], inner[1, 1] = max(part[0, 1], first_y), min(part[1, 1], first_y + UNIT)
            inner[0, 2], inner[1, 2] = max(part[0, 2], first_x), min(part[1, 2], first_x + UNIT)
            _narrow_slices(slabs, start, inner)
            if inner[0, 0] >= inner[1, 0]:
                continue
            if begins_at == ends_at:
                _fill(flat, target_shape, inner, start, values, offset, step)
                continue
            words = table + begins_at + (num_z * rows + 1) // 2
            if begins_at > ends_at or table + ends_at + PADDING_BYTES > last or words > table + ends_at:
                return False
            is_whole = _read_unit(
                payloads, table + begins_at, words, table + ends_at, rows, inner, start, step, offset, flat,
                target_shape, values, origin[0], first_y, first_x,
            )  # fmt: skip
            if not is_whole:
                return False
    return True


@compiled
def _set_base(values, payloads, at):  # type: ignore[no-untyped-def]
    """Fill the row of the first value of a unit."""
    for k in range(LANES):
        values[BASE_ROW * LANES + k] = payloads[at] | payloads[at + 1] << 8


@compiled
def _background(payloads, first, num_units, units_x, unit_part):  # type: ignore[no-untyped-def]
    """Return a unit whose value most of the needed units have, -1 if there is none.

    They are filled at once then, and what differs is written over it.
    """
    unit_of_value, background = -1, -1
    num_alike, num_needed = 0, 0
    for unit_y in range(unit_part[0][0], unit_part[0][1]):
        for unit_x in range(unit_part[1][0], unit_part[1][1]):
            unit = unit_y * units_x + unit_x
            num_needed += 1
            at = first + 2 * num_units + 4 * unit
            if _uint32(payloads, at) == (_uint32(payloads, at - 4) if unit else 0):
                value = int(payloads[first + 2 * unit]) | int(payloads[first + 2 * unit + 1]) << 8
                if background < 0:
                    unit_of_value, background = unit, value
                num_alike += value == background
    return unit_of_value if 2 * num_alike > num_needed else -1


@compiled
def _uint32(payloads, at):  # type: ignore[no-untyped-def]
    # Of an int64: numba adds an unsigned and a signed number as floats.
    number = np.int64(0)
    for k in range(4):
        number |= np.int64(payloads[at + k]) << (8 * k)
    return number


@compiled
def _read_unit(  # type: ignore[no-untyped-def]
    payloads, widths, words, words_end, rows, inner, start, step, offset, flat, target_shape, values,
    first_z, first_y, first_x,
):  # fmt: skip
    """Decode a unit up to the last row that is needed; False if it asks for more words than it has."""
    position = 0
    lower, upper = inner[0, 2] - first_x, inner[1, 2] - first_x
    needed = inner[1, 1] - first_y
    plane = target_shape[1] * target_shape[2]
    for z in range(inner[1, 0] - first_z):
        row = z * rows
        coded = load_word(payloads, widths + (row >> 1)) >> np.uint64(4 * (row & 1))
        if rows < UNIT:
            coded &= (np.uint64(1) << np.uint64(4 * rows)) - np.uint64(1)
        end = position + _sum_of_widths(coded)
        if words + 2 * LANES * ((end + 15) >> 4) > words_end:
            return False
        first = needed if first_z + z < inner[0, 0] else inner[0, 1] - first_y
        skipped = first if upper - lower == LANES else needed
        at = (first_z + z - start[0]) * plane + (first_y - start[1]) * target_shape[2] + first_x - start[2]
        before = row - rows
        if z == 0:
            unpack_from_above(
                payloads, words, position, coded, needed, values, row, BASE_ROW, row, skipped, offset, step, flat, at,
                target_shape[2],
            )  # fmt: skip
        else:
            unpack_from_both(
                payloads, words, position, coded, needed, values, row, before, before, skipped, offset, step, flat, at,
                target_shape[2],
            )  # fmt: skip
        position = end
        if upper - lower == LANES:
            continue
        for y in range(first, needed):
            restore_lanes(values, row + y, offset, step, flat, at + y * target_shape[2], lower, upper)
    return True


@compiled
def _sum_of_widths(coded):  # type: ignore[no-untyped-def]
    """Add 16 numbers of 4 bits, of which 15 means 16."""
    low = np.uint64(0x0F0F0F0F0F0F0F0F)
    pairs = (coded & low) + ((coded >> np.uint64(4)) & low)
    total = (pairs * np.uint64(0x0101010101010101)) >> np.uint64(56)
    widest = coded & (coded >> np.uint64(1))
    widest &= widest >> np.uint64(2)
    return np.int64(total) + popcount(widest & np.uint64(0x1111111111111111))
