"""How every kernel is compiled."""

import glob
import hashlib
import uuid
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile at the first call, release the GIL and keep the machine code on disk.

    Without `fastmath`: products and sums must round as numpy rounds them, or distances equal to a tolerance would
    fall on either side of it. Kernels are serial; callers run many cases at a time.
    """
    return _kept_on_disk(function, _njit(function))


def compiled_in_place(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that makes no array, only fills in those that it is given.

    References to arrays are not counted in it. Numba counts them, with atomic instructions, whenever a function that
    branches is given an array or takes a row of one: most of the time of a loop over words. With its own flag for
    functions without memory management the compiler refuses to make an array instead.
    """
    return _kept_on_disk(function, _njit(function, _nrt=False))


def _njit(function: Callable[P, R], **options: bool) -> Any:
    # Instructions of the processor cannot run as Python, whatever NUMBA_DISABLE_JIT asks for.
    asked, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 0
    try:
        return numba.njit(nogil=True, **options)(function)
    finally:
        numba.config.DISABLE_JIT = asked


def _kept_on_disk(function: Callable[P, R], dispatcher: Any) -> Callable[P, R]:
    try:
        dispatcher._cache = _Cache(function)  # noqa: SLF001
    except RuntimeError:  # numba has found no folder that it can write to
        _warn_that_nothing_is_kept()
    kept: Callable[P, R] = dispatcher
    return kept


@cache
def _warn_that_nothing_is_kept() -> None:
    warnings.warn(
        f"neither {Path(__file__).parent} nor a folder of this user can be written to: every process will compile the "
        "kernels anew. Set NUMBA_CACHE_DIR to a folder that can",
        stacklevel=2,
    )


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, valid as long as no file of the kernels has changed.

    Numba itself looks only at the file of the function that is called, not at those of the functions that it calls,
    so that a new release could go on with old machine code.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _CacheFile(self._cache_path, self._impl.filename_base, digest=_digest_of_kernels())


class _CacheFile(IndexDataCacheFile):  # type: ignore[misc]
    """Numba's index of machine code, which is in files with names of their own, written before the index names them.

    Numba numbers the files: of two processes that compile a function for different types at the same moment, both take
    the same number, and the index says that the machine code for one type is that for the other. A process that dies
    between index and file leaves the machine code of an earlier release under a number of this one.
    """

    def __init__(self, cache_path: str, filename_base: str, *, digest: str) -> None:
        super().__init__(cache_path, filename_base, source_stamp=digest)
        # Compared before the rest of an index is read, which may name classes that only its release of the kernels has.
        self._version = f"{numba.__version__} {digest}"

    def save(self, key: object, data: object) -> None:
        """Keep what a function was compiled to."""
        stem = Path(self._index_name).stem
        if not self._load_index():
            for old in Path(self._cache_path).glob(f"{glob.escape(stem)}.*.nbc"):
                old.unlink(missing_ok=True)
        name = f"{stem}.{uuid.uuid4().hex}.nbc"
        self._save_data(name, data)
        self._save_index(self._load_index() | {key: name})


@cache
def _digest_of_kernels() -> str:
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
