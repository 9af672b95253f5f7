"""MINC files of both kinds, read by nibabel, with h5py below it for MINC 2."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.images.image_header import ImageHeader, not_one_volume, volume_header
from orchestrator.images.problem import Fault
from orchestrator.images.stored_voxels import Encoding, ReadBuffer, check_room

_VALUES = np.dtype(np.float64)
"""What nibabel makes of the numbers, which MINC scales slice by slice."""

Read = TypeVar("Read")


class MincFile:
    """A file of which the header is read; raises Fault."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._image = self._reading(lambda: _open(path))
        extents = tuple(int(extent) for extent in self._image.shape)
        if len(extents) != 3 or min(extents) < 1:
            raise not_one_volume(extents)
        check_room(int(np.prod(extents, dtype=object)), num_stored=path.stat().st_size, encoding=Encoding.GZIP)
        # nibabel's positions are in RAS, and its first axis is the slowest one of the file.
        affine = np.array([[-1.0], [-1.0], [1.0]]) * self._image.affine[:3]
        self.header: ImageHeader = volume_header(
            extents=extents[::-1], dtype=_VALUES, steps=affine[:, 2::-1], origin=affine[:, 3].tolist()
        )

    def read(self, buffer: ReadBuffer) -> NDArray[np.generic]:
        """Read the values (z, y, x)."""
        buffer.take(self.header.num_bytes)  # asks whether there is so much memory
        values: NDArray[np.generic] = self._reading(lambda: np.asarray(self._image.dataobj, dtype=_VALUES))
        return values

    def _reading(self, read: Callable[[], Read]) -> Read:
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                return read()
        except MemoryError:
            raise
        except Exception as error:  # of netCDF, of HDF5, and whatever a damaged header leads to
            raise Fault(
                f"a file that cannot be read as MINC ({error})",
                expected="MINC 1 or MINC 2",
                advice="It is damaged or cut short: write or download it again.",
            ) from error


def _open(path: Path) -> Any:
    # They take a third of a second to import, and few files are MINC.
    from nibabel.minc1 import Minc1Image
    from nibabel.minc2 import Minc2Image

    with path.open("rb") as file:
        is_first = file.read(3) == b"CDF"
    return (Minc1Image if is_first else Minc2Image).from_filename(path)
