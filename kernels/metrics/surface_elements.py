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
from kernels.llvm.intrinsics import lowest_bit, popcount, spread_bits

NUM_CODES = 256
CODE_OF_ROWS = 17
"""In the plane the four voxels at z are those at z-1: the code of eight is so many times that of four."""


@lru_cache(maxsize=64)
def surfel_areas(spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the size of the element of every neighbour code.

    For three axes (z, y, x) that is an area in mm^2, shape (256,); for two, (y, x), the length of the contour between
    four pixels in mm, shape (16,), for the lowest four bits of the code.
    """
    sizes = _contour_lengths(*spacing_mm) if len(spacing_mm) == 2 else _areas(*spacing_mm)
    sizes.flags.writeable = False
    return sizes


def _contour_lengths(y: float, x: float) -> NDArray[np.float64]:
    """Return the lengths of the contour through the midpoints of a cell's edges, which cuts corners off."""
    lengths = np.full(16, np.sqrt(y**2 + x**2) / 2)
    lengths[[0b0000, 0b1111]] = 0.0
    lengths[[0b0011, 0b1100]] = x
    lengths[[0b0101, 0b1010]] = y
    # Two corners that lie across are cut off one by one.
    lengths[[0b0110, 0b1001]] *= 2
    return lengths


def _areas(z: float, y: float, x: float) -> NDArray[np.float64]:
    """Return the areas of a cell's surface.

    Every triangle of such a surface has a normal along an axis, along a face diagonal or along a space diagonal of the
    cell, so that seven areas scaled by the spacing make up all of them.
    """
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


def find_borders(mask: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Find the surface elements of a packed mask.

    Parameters
    ----------
    mask : uint64 array, shape (z + 2, y + 2, words), or (2, y + 2, words) if flat, as in `MaskPair`

    Returns
    -------
    uint64 array, shape (z + 1, y + 1, words), or (1, y + 1, words), one bit a dual point
    """
    borders = np.empty((mask.shape[0] - 1, mask.shape[1] - 1, mask.shape[2]), np.uint64)
    num = borders[0].size
    _write_borders(mask, borders, np.zeros(num + 1, np.uint64), np.zeros(num + 1, np.uint64))
    return borders


def count_codes(
    mask: NDArray[np.uint64], borders: NDArray[np.uint64], beyond: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count surface elements by neighbour code.

    Parameters
    ----------
    mask : uint64 array, shape (z + 2, y + 2, words), packed
    borders : uint64 array, shape (z + 1, y + 1, words): the mask's surface elements
    beyond : uint64 array of the same shape: some of them

    Returns
    -------
    Two int64 arrays, shape (256,): all elements and those of `beyond`
    """
    counts = np.zeros((2, NUM_CODES), np.int64)
    _add_codes(mask, borders, beyond, counts, np.empty(64, np.uint8))
    return counts[0] + counts[1], counts[1]


@compiled_in_place
def _write_borders(
    mask: NDArray[np.uint64], borders: NDArray[np.uint64], some: NDArray[np.uint64], every: NDArray[np.uint64]
) -> None:
    """Write the elements, slice by slice; `some` and `every`, a word of a slice and one more, are zeros and room.

    A row ends with a word of zeros, so that a slice can be passed as one long row: in simple loops, which the compiler
    turns into vector instructions.
    """
    one, top = np.uint64(1), np.uint64(63)
    row = mask.shape[2]
    num = borders.shape[1] * row
    some_before, every_before, some, every = some[:num], every[:num], some[1:], every[1:]
    for z in range(borders.shape[0]):
        above, below, border = mask[z].reshape(-1), mask[z + 1].reshape(-1), borders[z].reshape(-1)
        a, b, c, d = above[:num], above[row:], below[:num], below[row:]
        for i in range(num):
            some[i] = a[i] | b[i] | c[i] | d[i]
        for i in range(num):
            every[i] = a[i] & b[i] & c[i] & d[i]
        for i in range(num):
            some_of_eight = some[i] | (some[i] << one) | (some_before[i] >> top)
            every_of_eight = every[i] & ((every[i] << one) | (every_before[i] >> top))
            border[i] = some_of_eight & ~every_of_eight


@compiled_in_place
def _add_codes(
    mask: NDArray[np.uint64],
    borders: NDArray[np.uint64],
    beyond: NDArray[np.uint64],
    counts: NDArray[np.int64],
    codes: NDArray[np.uint8],
) -> None:
    """Add elements to the counts of their codes, those of `beyond` to the second; `codes`, shape (64,), is room."""
    one = np.uint64(1)
    for z in range(borders.shape[0]):
        for y in range(borders.shape[1]):
            for w in range(borders.shape[2]):
                left = borders[z, y, w]
                if left == np.uint64(0):
                    continue
                far = beyond[z, y, w]
                corners = _corners_of_word(mask, (z, y, w))
                a, b, c, d, e, f, g, h = corners
                # Most of a surface between thick slices is flat along z, in runs: counted without looking at each.
                flat_above = a & b & c & d & ~(e | f | g | h) & left
                flat_below = e & f & g & h & ~(a | b | c | d) & left
                counts[0, 0b11110000] += popcount(flat_above & ~far)
                counts[1, 0b11110000] += popcount(flat_above & far)
                counts[0, 0b00001111] += popcount(flat_below & ~far)
                counts[1, 0b00001111] += popcount(flat_below & far)
                left &= ~(flat_above | flat_below)
                if left != np.uint64(0):
                    spread_bits(codes, corners)
                while left != np.uint64(0):
                    place = np.uint64(lowest_bit(left))
                    counts[far >> place & one, codes[place]] += 1
                    left &= left - one


# Indices without a sign, since Numba looks for negative ones: that took a third of the time.
@compiled_in_place
def _corners_of_word(mask: NDArray[np.uint64], at: tuple[int, int, int]) -> tuple[np.uint64, ...]:
    """Return the voxels around the 64 dual points of one word (z, y, w): eight words, in the order of the code."""
    one, top = np.uint64(1), np.uint64(63)
    z, y, w = np.uint64(at[0]), np.uint64(at[1]), np.uint64(at[2])
    b, d = mask[z, y, w], mask[z, y + one, w]
    f, h = mask[z + one, y, w], mask[z + one, y + one, w]
    a, c, e, g = b << one, d << one, f << one, h << one
    if at[2] > 0:
        a |= mask[z, y, w - one] >> top
        c |= mask[z, y + one, w - one] >> top
        e |= mask[z + one, y, w - one] >> top
        g |= mask[z + one, y + one, w - one] >> top
    return a, b, c, d, e, f, g, h


@compiled_in_place
def codes_of_word(mask: NDArray[np.uint64], at: tuple[int, int, int], codes: NDArray[np.uint8]) -> None:
    """Write the neighbour codes of the 64 dual points of one word.

    Parameters
    ----------
    mask : uint64 array, shape (z + 2, y + 2, words), packed
    at : index (z, y, w) of the word of dual points
    codes : uint8 array, shape (64,), overwritten
    """
    spread_bits(codes, _corners_of_word(mask, at))
