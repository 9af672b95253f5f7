"""Rows of bits along another axis."""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled_in_place


def turn_rows(rows: NDArray[np.uint64], turned: NDArray[np.uint64]) -> None:
    """Exchange the last two axes of bits, of which 64 lie in a word.

    Parameters
    ----------
    rows : uint64 array, shape (o, x, words): bit b of word w is at 64 w + b along some axis
    turned : uint64 array of zeros, shape (o, that axis, words), whose bits are along x
    """
    _turn(rows, turned, np.empty(64, np.uint64))


@compiled_in_place
def _turn(rows: NDArray[np.uint64], turned: NDArray[np.uint64], block: NDArray[np.uint64]) -> None:
    """Turn 64 rows and 64 bits at a time, where there are any; `block`, shape (64,), is room."""
    for o in range(rows.shape[0]):
        for w in range(rows.shape[2]):
            for first_x in range(0, rows.shape[1], 64):
                num_x, some = min(64, rows.shape[1] - first_x), np.uint64(0)
                for i in range(num_x):
                    block[i] = rows[o, first_x + i, w]
                    some |= block[i]
                if some == np.uint64(0):
                    continue
                block[num_x:] = np.uint64(0)
                _exchange(block)
                for i in range(min(64, turned.shape[1] - 64 * w)):
                    turned[o, 64 * w + i, first_x >> 6] = block[i]


@compiled_in_place
def _exchange(block: NDArray[np.uint64]) -> None:
    """Exchange rows and columns of 64 words: bit b of word k becomes bit k of word b.

    By halves, quarters, ... of which two change places (Warren, Hacker's Delight, 7-3). Sizes are constants, so that
    the compiler makes vector instructions of each.
    """
    _exchange_parts(block, 32, np.uint64(0x00000000FFFFFFFF))
    _exchange_parts(block, 16, np.uint64(0x0000FFFF0000FFFF))
    _exchange_parts(block, 8, np.uint64(0x00FF00FF00FF00FF))
    _exchange_parts(block, 4, np.uint64(0x0F0F0F0F0F0F0F0F))
    _exchange_parts(block, 2, np.uint64(0x3333333333333333))
    _exchange_parts(block, 1, np.uint64(0x5555555555555555))


@compiled_in_place
def _exchange_parts(block: NDArray[np.uint64], size: int, low: np.uint64) -> None:
    step = np.uint64(size)
    for first in range(0, 64, 2 * size):
        for i in range(size):
            upper = np.uint64(first + i)
            lower = upper + step
            moved = ((block[upper] >> step) ^ block[lower]) & low
            block[upper] ^= moved << step
            block[lower] ^= moved
