"""Bit packing of three-dimensional chunks of 16-bit numbers, read back box by box.

A chunk is cut into units of 16 x 16 x 16, the first along z being the chunk itself. The rows of a unit (16 voxels along
x) follow each other with y running faster than z. Each row is predicted from the row above (y - 1), the row before
(z - 1) and the one between; the differences take as many bits as the largest of the 16 needs, with its sign.
Lane k of every row lies in word k of consecutive 32-byte rows of words, so all lanes move by the same shift and a
row is decoded by a dozen vector instructions: no table, no branch on the data.

Payload of a chunk, little endian: only the value, 2 bytes, if all are equal. Else the first value of every unit
(uint16), the end of every unit (uint32, from the end of this table), the units, 64 bytes of padding. A unit is empty
if it is constant; else 4 bits a row (bits of its differences, 15 meaning 16) and the words.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled
from kernels.intrinsics import popcount
from kernels.lane_intrinsics import (
    LANES,
    load_word,
    pack_row,
    quantise_row,
    residual_row,
    restore_lanes,
    restore_row,
    unpack_from_above,
    unpack_from_before,
    unpack_from_both,
)

UNIT = 16
"""Edge of a unit."""
PADDING_BYTES = 64
"""After the last unit: decoding reads up to two rows of words too far."""
BASE_ROW = UNIT * UNIT
"""Row of the scratch that holds the first value of a unit."""
WHOLE = -1
"""Result of `read_box` if no chunk was broken."""

UP, FRONT, BOTH = 0, 1, 2
"""Predictors: the row above, the row before, or both."""


@compiled
def neighbours_of(z: int, y: int, num_rows: int, predictor: int) -> tuple[int, int, int]:
    """Return the rows above, before and between of a row; where one is missing another stands for it."""
    row = z * num_rows + y
    above = row - 1 if y > 0 else (row - num_rows if z > 0 else BASE_ROW)
    before = row - num_rows if z > 0 else above
    if predictor == UP or z == 0:
        return above, above, above
    if predictor == FRONT or y == 0:
        return before, before, before
    return above, before, before - 1


@compiled
def max_chunk_bytes(num_z: int, num_y: int, num_x: int) -> int:
    """Return a size that no packed chunk of this shape exceeds."""
    num_units = -(-num_y // UNIT) * -(-num_x // UNIT)
    return num_units * (6 + UNIT * UNIT // 2 + UNIT * UNIT * 2 * LANES) + PADDING_BYTES + 2 * LANES


@compiled
def pack_chunk(
    source: NDArray[np.generic],
    box: NDArray[np.int64],
    factor: float,
    offset: int,
    predictor: int,
    payload: NDArray[np.uint8],
) -> int:
    """Pack one chunk of an image or label map; return the number of bytes.

    Parameters
    ----------
    source : float32, int8 or int16 array, shape (Z, Y, X)
        C-ordered.
    box : int64 array, shape (2, 3)
        First voxel of the chunk and the one after its last.
    factor : float
        Floats are multiplied by it and rounded to even; `offset` is then subtracted. All results must lie in
        0 ... 65535.
    offset : int
        See `factor`.
    predictor : int
        `UP`, `FRONT` or `BOTH`.
    payload : uint8 array
        Written, at least `max_chunk_bytes` long.
    """
    flat = source.reshape(-1)
    size_y, size_x = source.shape[1], source.shape[2]
    num_z, num_y, num_x = box[1, 0] - box[0, 0], box[1, 1] - box[0, 1], box[1, 2] - box[0, 2]
    num_units = -(-num_y // UNIT) * -(-num_x // UNIT)
    values, codes = np.empty((BASE_ROW + 1) * LANES, np.uint16), np.empty(LANES, np.uint16)
    edge = np.empty(LANES, source.dtype)
    table = 6 * num_units
    end, unit = table, 0
    is_constant = True
    for first_y in range(0, num_y, UNIT):
        rows = min(UNIT, num_y - first_y)
        for first_x in range(0, num_x, UNIT):
            lanes = min(UNIT, num_x - first_x)
            for z in range(num_z):
                for y in range(rows):
                    at = ((box[0, 0] + z) * size_y + box[0, 1] + first_y + y) * size_x + box[0, 2] + first_x
                    if lanes == LANES:
                        quantise_row(flat, at, np.float32(factor), offset, values, z * rows + y)
                    else:
                        for k in range(LANES):
                            edge[k] = flat[at + min(k, lanes - 1)]
                        quantise_row(edge, 0, np.float32(factor), offset, values, z * rows + y)
            for k in range(LANES):
                values[BASE_ROW * LANES + k] = values[0]
            differing = np.uint16(0)
            for k in range(num_z * rows * LANES):
                differing |= values[k] ^ values[0]
            payload[2 * unit] = values[0] & 255
            payload[2 * unit + 1] = values[0] >> 8
            if differing != 0:
                end = pack_unit(values, codes, num_z, rows, predictor, payload, end)
                is_constant = False
            elif payload[0] != payload[2 * unit] or payload[1] != payload[2 * unit + 1]:
                is_constant = False
            for k in range(4):
                payload[2 * num_units + 4 * unit + k] = ((end - table) >> (8 * k)) & 255
            unit += 1
    payload[end : end + PADDING_BYTES] = 0
    size: int = 2 if is_constant else end + PADDING_BYTES
    return size


@compiled
def pack_unit(
    values: NDArray[np.uint16],
    codes: NDArray[np.uint16],
    num_z: int,
    num_rows: int,
    predictor: int,
    payload: NDArray[np.uint8],
    start: int,
) -> int:
    """Write the widths and words of one unit to `payload` from `start` on; return where it ends."""
    widths = (num_z * num_rows + 1) // 2
    words = start + widths
    payload[start : words + 2 * LANES] = 0
    position = 0
    for z in range(num_z):
        for y in range(num_rows):
            row = z * num_rows + y
            used = residual_row(values, row, neighbours_of(z, y, num_rows, predictor), codes)
            width = 0
            if used:
                width = 1
                while (used & 65535) >> (width - 1):
                    width += 1
            stored = min(width, 15)
            width = 16 if stored == 15 else width
            payload[start + row // 2] |= np.uint8(stored << (4 * (row & 1)))
            if width:
                pack_row(codes, width, payload, words + 2 * LANES * (position >> 4), position & 15)
                position += width
    return words + 2 * LANES * ((position + 15) >> 4)


@compiled
def read_box(
    payloads: NDArray[np.uint8],
    ends: NDArray[np.int64],
    first_chunk: int,
    shape: NDArray[np.int64],
    chunk_shape: NDArray[np.int64],
    box: NDArray[np.int64],
    start: NDArray[np.int64],
    step: float,
    offset: int,
    predictor: int,
    target: NDArray[np.generic],
) -> int:
    """Decode the part of an array that lies in a box; return `WHOLE`, or the index of a chunk that is broken.

    Parameters
    ----------
    payloads : uint8 array
        All packed chunks, one after another.
    ends : int64 array, shape (chunks + 1,)
        Where each begins and the last ends.
    first_chunk : int
        Index of the first chunk of this channel.
    shape, chunk_shape : int64 arrays, shape (3,)
        Of the channel and of a chunk; a chunk has 16 slices.
    box : int64 array, shape (2, 3)
        Within the array: first voxel and the one after the last.
    start : int64 array, shape (3,)
        Voxel that belongs to ``target[0, 0, 0]``.
    step : float
        Floats become ``(number + offset) * step``, integers ``number + offset``.
    offset : int
        See `step`.
    predictor : int
        With which the chunks were packed.
    target : float32 or int16 array, shape (z, y, x)
        C-ordered; only the voxels of the box are written.
    """
    flat = target.reshape(-1)
    values = np.empty((BASE_ROW + 1) * LANES, np.uint16)
    grid_y, grid_x = -(-shape[1] // chunk_shape[1]), -(-shape[2] // chunk_shape[2])
    part = np.empty((2, 3), np.int64)
    origin = np.empty(3, np.int64)
    for chunk_z in range(box[0, 0] // chunk_shape[0], -(-box[1, 0] // chunk_shape[0])):
        for chunk_y in range(box[0, 1] // chunk_shape[1], -(-box[1, 1] // chunk_shape[1])):
            for chunk_x in range(box[0, 2] // chunk_shape[2], -(-box[1, 2] // chunk_shape[2])):
                chunk = first_chunk + (chunk_z * grid_y + chunk_y) * grid_x + chunk_x
                origin[0], origin[1] = chunk_z * chunk_shape[0], chunk_y * chunk_shape[1]
                origin[2] = chunk_x * chunk_shape[2]
                for axis in range(3):
                    part[0, axis] = max(box[0, axis], origin[axis])
                    part[1, axis] = min(box[1, axis], origin[axis] + chunk_shape[axis], shape[axis])
                first, last = ends[chunk], ends[chunk + 1]
                if last - first == 2:
                    for k in range(LANES):
                        values[BASE_ROW * LANES + k] = payloads[first] | payloads[first + 1] << 8
                    _fill(flat, target.shape, part, start, values, offset, np.float32(step))
                    continue
                is_whole = _read_chunk(
                    payloads, first, last, shape, chunk_shape, origin, part, start, np.float32(step), offset, predictor,
                    flat, target.shape, values,
                )  # fmt: skip
                if not is_whole:
                    broken: int = chunk
                    return broken
    return WHOLE


@compiled
def _fill(flat, target_shape, part, start, values, offset, step):  # type: ignore[no-untyped-def]
    """Set the voxels of a part of the box to the first value of a unit."""
    num_x = part[1, 2] - part[0, 2]
    for z in range(part[0, 0] - start[0], part[1, 0] - start[0]):
        for y in range(part[0, 1] - start[1], part[1, 1] - start[1]):
            at = (z * target_shape[1] + y) * target_shape[2] + part[0, 2] - start[2]
            if num_x < LANES:
                restore_lanes(values, BASE_ROW, offset, step, flat, at, 0, num_x)
                continue
            for x in range(0, num_x - LANES, LANES):
                restore_row(values, BASE_ROW, offset, step, flat, at + x)
            # The last row ends with the part: it may overlap the one before.
            restore_row(values, BASE_ROW, offset, step, flat, at + num_x - LANES)


@compiled
def _read_chunk(  # type: ignore[no-untyped-def]
    payloads, first, last, shape, chunk_shape, origin, part, start, step, offset, predictor, flat, target_shape, values,
):  # fmt: skip
    """Decode the units of a chunk that meet the part; False if the payload is broken."""
    num_y = min(chunk_shape[1], shape[1] - origin[1])
    num_x = min(chunk_shape[2], shape[2] - origin[2])
    num_z = min(chunk_shape[0], shape[0] - origin[0])
    units_x = -(-num_x // UNIT)
    num_units = -(-num_y // UNIT) * units_x
    table = first + 6 * num_units
    if table > last:
        return False
    # Where most units have the same value they are filled at once, and what differs is written over it.
    background = -1
    num_alike, num_needed = 0, 0
    for unit_y in range((part[0, 1] - origin[1]) // UNIT, -(-(part[1, 1] - origin[1]) // UNIT)):
        for unit_x in range((part[0, 2] - origin[2]) // UNIT, -(-(part[1, 2] - origin[2]) // UNIT)):
            unit = unit_y * units_x + unit_x
            num_needed += 1
            at = first + 2 * num_units + 4 * unit
            if _uint32(payloads, at) == (_uint32(payloads, at - 4) if unit else 0):
                value = int(payloads[first + 2 * unit]) | int(payloads[first + 2 * unit + 1]) << 8
                background = value if background < 0 else background
                num_alike += value == background
    if 2 * num_alike > num_needed:
        for k in range(LANES):
            values[BASE_ROW * LANES + k] = background
        _fill(flat, target_shape, part, start, values, offset, step)
    else:
        background = -1
    inner = part.copy()
    for unit_y in range((part[0, 1] - origin[1]) // UNIT, -(-(part[1, 1] - origin[1]) // UNIT)):
        rows = min(UNIT, num_y - unit_y * UNIT)
        inner[0, 1] = max(part[0, 1], origin[1] + unit_y * UNIT)
        inner[1, 1] = min(part[1, 1], origin[1] + unit_y * UNIT + rows)
        for unit_x in range((part[0, 2] - origin[2]) // UNIT, -(-(part[1, 2] - origin[2]) // UNIT)):
            unit = unit_y * units_x + unit_x
            inner[0, 2] = max(part[0, 2], origin[2] + unit_x * UNIT)
            inner[1, 2] = min(part[1, 2], origin[2] + (unit_x + 1) * UNIT)
            at = first + 2 * num_units + 4 * unit
            ends_at = _uint32(payloads, at)
            begins_at = _uint32(payloads, at - 4) if unit else 0
            for k in range(LANES):
                values[BASE_ROW * LANES + k] = payloads[first + 2 * unit] | payloads[first + 2 * unit + 1] << 8
            if begins_at == ends_at:
                if values[BASE_ROW * LANES] == background:
                    continue
                _fill(flat, target_shape, inner, start, values, offset, step)
                continue
            words = table + begins_at + (num_z * rows + 1) // 2
            if begins_at > ends_at or table + ends_at + PADDING_BYTES > last or words > table + ends_at:
                return False
            is_whole = _read_unit(
                payloads, table + begins_at, words, table + ends_at, rows, inner, start, step, offset, predictor, flat,
                target_shape, values, origin[0], origin[1] + unit_y * UNIT, origin[2] + unit_x * UNIT,
            )  # fmt: skip
            if not is_whole:
                return False
    return True


@compiled
def _uint32(payloads, at):  # type: ignore[no-untyped-def]
    # Of an int64: numba adds an unsigned and a signed number as floats.
    number = np.int64(0)
    for k in range(4):
        number |= np.int64(payloads[at + k]) << (8 * k)
    return number


@compiled
def _read_unit(  # type: ignore[no-untyped-def]
    payloads, widths, words, words_end, rows, inner, start, step, offset, predictor, flat, target_shape, values,
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
        if z == 0 or predictor == UP:
            unpack_from_above(
                payloads, words, position, coded, needed, values, row, BASE_ROW if z == 0 else before, row, skipped,
                offset, step, flat, at, target_shape[2],
            )  # fmt: skip
        elif predictor == FRONT:
            unpack_from_before(
                payloads, words, position, coded, needed, values, row, before, before, skipped, offset, step, flat, at,
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
