"""Boxes of an array that blosc2 has stored, as nnU-Net stores preprocessed cases.

blosc2's own module for Python holds the interpreter's lock while it expands, so that neither another thread of a loader
nor the training itself could go on meanwhile. The library that comes with it is therefore called without that lock;
where a package does not bring the library along, the module does it.
"""

import ctypes
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import IntegrityError

_LIBRARIES = ("lib/libblosc2.so", "lib/libblosc2.dylib", "lib64/libblosc2.so")
"""Below the folder of the package."""


class Blosc2Array:
    """One array (c, z, y, x) in a file; threads share it."""

    def __init__(self, path: Path) -> None:
        """Open a file; raises IntegrityError if it is none of blosc2's, or not whole."""
        self._path = path
        array = _opened(path)
        self.shape: tuple[int, ...] = tuple(map(int, array.shape))
        self.dtype: np.dtype[np.generic] = np.dtype(array.dtype)
        if len(self.shape) != 4:
            raise IntegrityError(f"{path}: an array of shape {self.shape}; expected (c, z, y, x). Preprocess it again")
        self._lock = threading.Lock()
        self._library = _library()
        self._free: list[ctypes.c_void_p] = []  # handles, each of which one thread at a time can use
        self._array: Any = array
        if self._library is not None:
            self._free.append(self._opened_again())
            self._array = None

    def read_into(
        self, target: NDArray[np.generic], *, at: Sequence[int], lower: Sequence[int], upper: Sequence[int]
    ) -> None:
        """Fill a part of `target` with the box from `lower` to `upper`, all channels at once.

        nnU-Net's releases differ in whether a block of a file has one channel or all of them, and a block is expanded
        whole.

        Parameters
        ----------
        target : array, shape (C, Z, Y, X), C-ordered
            Of any type.
        at : three int
            Where in each channel of `target` the box begins.
        lower, upper : three int
            First voxel (z, y, x) of the box and the end of it.
        """
        extent = (self.shape[0], *(high - low for low, high in zip(lower, upper, strict=True)))
        if self._library is not None and target.dtype == self.dtype and target.shape == extent:
            self._expand(target, lower, upper)
            return
        box = tuple(slice(first, first + size) for first, size in zip(at, extent[1:], strict=True))
        target[(slice(None), *box)] = self._read(extent, lower, upper)

    def _read(self, extent: Sequence[int], lower: Sequence[int], upper: Sequence[int]) -> NDArray[np.generic]:
        if self._library is None:
            with self._lock:
                read: NDArray[np.generic] = self._array[(slice(None), *map(slice, lower, upper))]
            return read
        box: NDArray[np.generic] = np.empty(extent, self.dtype)
        self._expand(box, lower, upper)
        return box

    def _expand(self, box: NDArray[np.generic], lower: Sequence[int], upper: Sequence[int]) -> None:
        """Fill an array that has just the size of the box: the library clears all of it first."""
        start, stop, shape = (
            (ctypes.c_int64 * 4)(*numbers) for numbers in ((0, *lower), (self.shape[0], *upper), box.shape)
        )
        try:
            handle = self._free.pop()
        except IndexError:  # other threads are reading
            handle = self._opened_again()
        try:
            self._check(self._library.b2nd_get_slice_cbuffer(handle, start, stop, box.ctypes.data, shape, box.nbytes))
        finally:
            self._free.append(handle)

    def _opened_again(self) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._check(self._library.b2nd_open(str(self._path).encode(), ctypes.byref(handle)))
        return handle

    def _check(self, code: int) -> None:
        if code < 0:
            raise IntegrityError(f"{self._path}: blosc2 cannot read it (error {code}). Preprocess it again")

    def __del__(self) -> None:
        for handle in getattr(self, "_free", ()):
            self._library.b2nd_free(handle)


def _opened(path: Path) -> Any:
    import blosc2

    try:
        array = blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1})
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        raise IntegrityError(f"{path}: not an array of blosc2 ({error}). Preprocess it again") from error
    if not isinstance(array, blosc2.NDArray):
        raise IntegrityError(f"{path}: a {type(array).__name__} of blosc2; expected an array. Preprocess it again")
    return array


@cache
def _library() -> Any:
    """Return the library of blosc2's package, or None if it has none that can be called."""
    import blosc2

    folder = Path(blosc2.__file__).parent
    for path in (folder / name for name in _LIBRARIES):
        try:
            library: Any = ctypes.CDLL(str(path))
            library.b2nd_get_slice_cbuffer.argtypes = [
                *(ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_int64)),
                *(ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64), ctypes.c_int64),
            ]
            library.b2nd_open.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)]
            library.b2nd_free.argtypes = [ctypes.c_void_p]
        except (AttributeError, OSError):
            continue
        library.blosc2_init()
        return library
    return None
