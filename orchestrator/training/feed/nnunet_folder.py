"""Cases as nnU-Net's preprocessing has left them: blosc2 files, or whatever a data set class of nnU-Net's reads."""

import io
import pickle
import zipfile
import zlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset, nnUNetDatasetBlosc2
from numpy.typing import NDArray

from kernels.packing.lane_unpacking import EVERYWHERE
from orchestrator.errors import DataError, IntegrityError
from orchestrator.patches.layout import Index, Properties
from orchestrator.training.feed.blosc2_array import Blosc2Array

_PLAIN = {
    *(("numpy", "dtype"), ("numpy", "ndarray"), ("collections", "OrderedDict")),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}
"""What a pickle of numbers, texts, arrays and containers of these names."""


class _BoxReader(Protocol):
    shape: tuple[int, ...]

    def read_into(
        self, target: NDArray[np.generic], *, at: Sequence[int], lower: Sequence[int], upper: Sequence[int]
    ) -> None: ...


class _Slices:
    """Anything that has a shape and can be sliced, such as an array that is mapped to a file."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(map(int, array.shape))

    def read_into(
        self, target: NDArray[np.generic], *, at: Sequence[int], lower: Sequence[int], upper: Sequence[int]
    ) -> None:
        box = tuple(slice(a, a + high - low) for a, low, high in zip(at, lower, upper, strict=True))
        target[(slice(None), *box)] = self._array[(slice(None), *map(slice, lower, upper))]


class NnunetCase:
    """One preprocessed case; threads may share it."""

    def __init__(self, name: str, image: _BoxReader, segmentation: _BoxReader, properties: Properties | Path) -> None:
        """Take over what was opened; properties that are a path are read when they are asked for."""
        self._name = name
        self._image = image
        self._segmentation = segmentation
        self._properties = properties
        if len(image.shape) != 4 or segmentation.shape != (1, *image.shape[1:]):
            raise IntegrityError(
                f"{name}: an image {image.shape} with a segmentation {segmentation.shape}; expected (c, z, y, x) and "
                "(1, z, y, x) of equal voxels. Preprocess it again"
            )

    @property
    def shape(self) -> Index:
        """(C, Z, Y, X) of the image."""
        return self._image.shape

    @cached_property
    def labels(self) -> tuple[Hashable, ...]:
        """Labels (or regions) that have any voxel to draw from, in nnU-Net's order."""
        return tuple(label for label, voxels in self._locations.items() if len(voxels))

    def class_locations(self, label: Hashable) -> NDArray[np.integer]:
        """Voxels of a label (or region) that nnU-Net may draw from, (z, y, x), shape (n, 3)."""
        return self._locations.get(label, np.empty((0, 3), np.uint16))

    @cached_property
    def _locations(self) -> dict[Hashable, NDArray[np.integer]]:
        """Voxels by label: 6 bytes each, where nnU-Net has 32."""
        properties = self._properties
        if isinstance(properties, Path):
            properties = read_properties(properties)
        found = properties.get("class_locations")
        if not isinstance(found, dict):
            raise IntegrityError(f"{self._name}: no class_locations in its properties. Preprocess it again")
        is_small = max(self.shape) <= 2**16
        located: dict[Hashable, NDArray[np.integer]] = {
            label: _voxels(places).astype(np.uint16) if is_small else _voxels(places) for label, places in found.items()
        }
        for label, voxels in located.items():
            if len(voxels) and (voxels.max(axis=0) >= self.shape[1:]).any():
                raise IntegrityError(f"{self._name}: class_locations of label {label} lie outside of {self.shape}")
        return located

    def read_into(
        self,
        image: NDArray[np.float32],
        segmentation: NDArray[np.int16],
        *,
        start: Index,
        slabs: NDArray[np.float64] = EVERYWHERE,  # noqa: ARG002 - blosc2 leaves nothing out
    ) -> None:
        """Fill `image` and `segmentation` as `PatchFile.read_into` does: 0 and -1 outside of the case."""
        shape = segmentation.shape
        lower = [max(0, min(first, size)) for first, size in zip(start, self.shape[1:], strict=True)]
        upper = [
            max(low, min(first + extent, size))
            for low, first, extent, size in zip(lower, start, shape, self.shape[1:], strict=True)
        ]
        is_inside = all(high - low == extent for low, high, extent in zip(lower, upper, shape, strict=True))
        is_outside = any(high == low for low, high in zip(lower, upper, strict=True))
        at = [low - first for low, first in zip(lower, start, strict=True)]
        for stored, target, padding in ((self._image, image, 0), (self._segmentation, segmentation[None], -1)):
            if not is_inside:
                target.fill(padding)
            if not is_outside:
                stored.read_into(target, at=at, lower=lower, upper=upper)


def _voxels(places: object) -> NDArray[np.integer]:
    """Return the voxels (z, y, x) of (n, 4) places, the first column of which is 0."""
    found: NDArray[np.integer] = np.asarray(places)
    return found[:, 1:] if found.size else np.empty((0, 3), np.uint16)


@contextmanager
def reading_preprocessed(name: object) -> Iterator[None]:
    """Context in which nnU-Net reads cases; raises IntegrityError where files are missing or cut short."""
    try:
        yield
    except (FileNotFoundError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise IntegrityError(f"{name}: missing or not whole ({error}). Preprocess it again") from error


class NnunetFolder:
    """Preprocessed cases of one data set class of nnU-Net's."""

    def __init__(self, dataset: nnUNetBaseDataset) -> None:
        self._dataset = dataset

    def open(self, identifier: str) -> NnunetCase:
        """Open a case; raises IntegrityError if it is missing or not whole."""
        stem = Path(self._dataset.source_folder) / identifier
        if type(self._dataset) is nnUNetDatasetBlosc2:
            image, segmentation = (
                Blosc2Array(stem.with_name(f"{identifier}.b2nd")),
                Blosc2Array(stem.with_name(f"{identifier}_seg.b2nd")),
            )
            return NnunetCase(str(stem), image, segmentation, stem.with_name(f"{identifier}.pkl"))
        with reading_preprocessed(stem):
            data, seg, _, properties = self._dataset.load_case(identifier)
        return NnunetCase(str(stem), _Slices(data), _Slices(seg), properties)


class _PlainUnpickler(pickle.Unpickler):
    """Takes what a pickle names of numpy's, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def read_properties(path: Path) -> Properties:
    """Return the properties that nnU-Net has pickled beside a case, without running anything in them.

    Raises
    ------
    IntegrityError
        If the file is missing or not whole.
    DataError
        If it holds more than numbers, texts, arrays and containers of these.
    """
    try:
        found = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: cannot be read as plain properties ({error}); expected those of nnU-Net") from error
    except (AttributeError, EOFError, FileNotFoundError, ImportError, IndexError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path}: not whole ({type(error).__name__}: {error}). Preprocess it again") from error
    if not isinstance(found, dict):
        raise IntegrityError(f"{path}: holds a {type(found).__name__}; expected properties. Preprocess it again")
    return found
