"""Where the surface of a mask is, and how large each of its elements is.

The definition is that of google-deepmind/surface-distance. A surface element sits on the dual grid, at the point where
eight voxels meet, and is there if some but not all of the eight belong to the mask; beyond the volume nothing does, so
that the border of the volume is a surface. Its *neighbour code* has one bit a voxel: 128 for (z-1, y-1, x-1), then 64
with x, 32 with y, 16 with y and x, and 8, 4, 2, 1 the same at z. Its area is that of the marching-cubes surface through
the midpoints of the cell's edges.
"""

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place
from kernels.intrinsics import lowest_bit, popcount, spread_bits

NUM_CODES = 256


@lru_cache(maxsize=64)
def surfel_areas(spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the area in mm^2 of the surface element of every neighbour code, shape (256,).

    Every triangle of such a surface has a normal along an axis, along a face diagonal or along a space diagonal of the
    cell, so that seven areas scaled by the spacing make up all of them.
    """
    z, y, x = spacing_mm
    face_z, face_y, face_x = y * x, z * x, z * y
    parts = np.array(
        [
            face_z,
            face_y,
            face_x,
            np.sqrt(face_y**2 + face_x**2),
            np.sqrt(face_z**2 + face_x**2),
            np.sqrt(face_z**2 + face_y**2),
            np.sqrt(face_z**2 + face_y**2 + face_x**2),
        ]
    )
    areas: NDArray[np.float64] = _area_parts() @ parts
    areas.flags.writeable = False
    return areas


@cache
def _area_parts() -> NDArray[np.float64]:
    """Return shape (256, 7): how much of each of the seven areas every code has.

    Complementary codes share one surface. On a face whose two diagonals differ, the surface keeps apart the corners of
    the side with fewer corners, so that each piece of that side, connected along cell edges, has its own surface.
    """
    parts = np.zeros((NUM_CODES, 7))
    for code in range(NUM_CODES):
        corners = {bit for bit in range(8) if code >> bit & 1}
        if len(corners) > 4:
            corners = set(range(8)) - corners
        while corners:
            piece = _connected_piece(corners)
            corners -= piece
            parts[code] += _piece_parts(piece)
    return parts


# Corners are numbered by the bits of the code; neighbours along an edge differ in one bit of their number:
# 4 along z, 2 along y, 1 along x.
_AXIS_BITS = (4, 2, 1)


def _connected_piece(corners: set[int]) -> set[int]:
    piece, front = set(), {min(corners)}
    while front:
        piece |= front
        front = {corner ^ bit for corner in front for bit in _AXIS_BITS} & corners - piece
    return piece


def _piece_parts(piece: set[int]) -> NDArray[np.float64]:
    """Return the seven shares of one connected piece of one to four corners."""
    parts = np.zeros(7)
    degrees = {corner: [a for a, bit in enumerate(_AXIS_BITS) if corner ^ bit in piece] for corner in piece}
    axes = sorted({axis for own in degrees.values() for axis in own})
    largest = max(len(own) for own in degrees.values())
    if len(piece) == 1:  # a triangle that cuts the corner off
        parts[6] = 1 / 8
    elif len(piece) == 2:  # a rectangle along the edge
        parts[3 + axes[0]] = 1 / 2
    elif len(piece) == 3:  # half of a face, and a trapezium that leans from it to the missing corner
        parts[({0, 1, 2} - set(axes)).pop()] = 1 / 2
        parts[6] = 3 / 8
    elif len(axes) == 2:  # a square half-way between two faces
        parts[({0, 1, 2} - set(axes)).pop()] = 1
    elif largest == 3:  # a corner and its three neighbours: a flat hexagon
        parts[6] = 3 / 4
    else:  # a path along three axes: a twisted hexagon of four triangles, two of them along the path's ends
        ends = [own[0] for own in degrees.values() if len(own) == 1]
        parts[3 + ends[0]] += 1 / 4
        parts[3 + ends[1]] += 1 / 4
        parts[6] = 1 / 2
    return parts


@compiled_in_place
def _shifted(mask: NDArray[np.uint64], z: int, y: int, w: int) -> np.uint64:
    """Return word w of a row with every voxel moved to x + 1."""
    before: np.uint64 = mask[z, y, w - 1] >> np.uint64(63) if w > 0 else np.uint64(0)
    word: np.uint64 = (mask[z, y, w] << np.uint64(1)) | before
    return word


@compiled_in_place
def count_codes(
    mask: NDArray[np.uint64],
    at: tuple[int, int, int],
    elements: np.uint64,
    counts: NDArray[np.int64],
    codes: NDArray[np.uint8],
) -> None:
    """Add the neighbour codes of some dual points of one word to their counts.

    Parameters
    ----------
    mask : uint64 array, shape (z + 2, y + 2, words), packed
    at : index (z, y, w) of the word of dual points
    elements : bits of those that count
    counts : int64 array, shape (256,), added to
    codes : uint8 array, shape (64,), overwritten
    """
    z, y, w = at
    row_0, row_1, row_2, row_3 = mask[z, y, w], mask[z, y + 1, w], mask[z + 1, y, w], mask[z + 1, y + 1, w]
    left_0, left_1 = _shifted(mask, z, y, w), _shifted(mask, z, y + 1, w)
    left_2, left_3 = _shifted(mask, z + 1, y, w), _shifted(mask, z + 1, y + 1, w)
    # Most of a surface between thick slices is flat along z, in runs: those are counted without looking at each.
    flat_above = (left_0 & row_0 & left_1 & row_1) & ~(left_2 | row_2 | left_3 | row_3) & elements
    flat_below = (left_2 & row_2 & left_3 & row_3) & ~(left_0 | row_0 | left_1 | row_1) & elements
    counts[0b11110000] += popcount(flat_above)
    counts[0b00001111] += popcount(flat_below)
    left = elements & ~(flat_above | flat_below)
    if left != np.uint64(0):
        spread_bits(codes, (left_0, row_0, left_1, row_1, left_2, row_2, left_3, row_3))
    while left != np.uint64(0):
        counts[codes[lowest_bit(left)]] += 1
        left &= left - np.uint64(1)


@compiled_in_place
def codes_of_word(mask: NDArray[np.uint64], at: tuple[int, int, int], codes: NDArray[np.uint8]) -> None:
    """Write the neighbour codes of the 64 dual points of one word.

    Parameters
    ----------
    mask : uint64 array, shape (z + 2, y + 2, words), packed
    at : index (z, y, w) of the word of dual points
    codes : uint8 array, shape (64,), overwritten
    """
    z, y, w = at
    row_0, row_1, row_2, row_3 = mask[z, y, w], mask[z, y + 1, w], mask[z + 1, y, w], mask[z + 1, y + 1, w]
    left_0, left_1 = _shifted(mask, z, y, w), _shifted(mask, z, y + 1, w)
    left_2, left_3 = _shifted(mask, z + 1, y, w), _shifted(mask, z + 1, y + 1, w)
    spread_bits(codes, (left_0, row_0, left_1, row_1, left_2, row_2, left_3, row_3))


def find_borders(mask: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Find the surface elements of a packed mask.

    Parameters
    ----------
    mask : uint64 array, shape (z + 2, y + 2, words), as `crop_pair` returns it

    Returns
    -------
    borders : uint64 array, shape (z + 1, y + 1, words), one bit a dual point
    counts : int64 array, shape (256,), elements by neighbour code
    """
    borders = np.empty((mask.shape[0] - 1, mask.shape[1] - 1, mask.shape[2]), np.uint64)
    counts = np.zeros(NUM_CODES, np.int64)
    _write_borders(mask, borders, counts, np.empty(64, np.uint8))
    return borders, counts


@compiled_in_place
def _write_borders(
    mask: NDArray[np.uint64], borders: NDArray[np.uint64], counts: NDArray[np.int64], codes: NDArray[np.uint8]
) -> None:
    """Write the elements and add up their codes; `codes`, shape (64,), is room."""
    one, top = np.uint64(1), np.uint64(63)
    for z in range(borders.shape[0]):
        for y in range(borders.shape[1]):
            some_before = np.uint64(0)
            every_before = np.uint64(0)
            for w in range(borders.shape[2]):
                some = mask[z, y, w] | mask[z, y + 1, w] | mask[z + 1, y, w] | mask[z + 1, y + 1, w]
                every = mask[z, y, w] & mask[z, y + 1, w] & mask[z + 1, y, w] & mask[z + 1, y + 1, w]
                border = (some | (some << one) | some_before) & ~(every & ((every << one) | every_before))
                some_before, every_before = some >> top, every >> top
                borders[z, y, w] = border
                if border != np.uint64(0):
                    count_codes(mask, (z, y, w), border, counts, codes)
