"""Bit packing of three-dimensional chunks of 16-bit numbers; `lane_unpacking` reads them back, box by box.

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
from kernels.llvm.lane_intrinsics import LANES, pack_row, quantise_row, residual_row

UNIT = 16
"""Edge of a unit."""
PADDING_BYTES = 64
"""After the last unit: decoding reads up to two rows of words too far."""
BASE_ROW = UNIT * UNIT
"""Row of the scratch that holds the first value of a unit."""


@compiled
def neighbours_of(z: int, y: int, num_rows: int) -> tuple[int, int, int]:
    """Return the rows above, before and between of a row; where one is missing another stands for it."""
    row = z * num_rows + y
    above = row - 1 if y > 0 else (row - num_rows if z > 0 else BASE_ROW)
    before = row - num_rows if z > 0 else above
    if z == 0:
        return above, above, above
    if y == 0:
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
                end = pack_unit(values, codes, num_z, rows, payload, end)
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
            used = residual_row(values, row, neighbours_of(z, y, num_rows), codes)
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
