"""Patch files as a data set of nnU-Net's loaders."""

from pathlib import Path

import numpy as np
from nnunetv2.training.dataloading import nnunet_dataset
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from numpy.typing import DTypeLike, NDArray

from orchestrator.patches.layout import Properties
from orchestrator.patches.reader import PatchFile
from orchestrator.patches.stored_array import Key, PatchArray
from orchestrator.patches.writer import write_patches
from orchestrator.training.feed.case_folders import FILE_ENDING


class LoaderArray:
    """A stored array that nnU-Net's `crop_and_pad_nd` accepts.

    That function fills a box wholly outside of the image only for types it knows, by `isinstance`; for these
    `__class__` claims to be an ndarray. Numpy itself looks at the true type and goes through `__array__`, so that no
    operation can mistake this for memory.
    """

    def __init__(self, stored: PatchArray) -> None:
        self._stored = stored
        self.shape = stored.shape
        self.dtype = stored.dtype
        self.ndim = stored.ndim

    @property  # type: ignore[misc]  # typeshed lets it be written
    def __class__(self) -> type:
        return np.ndarray

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, key: Key | tuple[Key, ...]) -> NDArray[np.generic]:
        return self._stored[key]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        return self._stored.__array__(dtype, copy)


class ArrowDataset(nnUNetBaseDataset):  # type: ignore[misc]  # nnU-Net has no types
    """Cases `<folder>/<identifier>.arrow`; each file is opened once and stays mapped."""

    def __init__(
        self,
        folder: str,
        identifiers: list[str] | None = None,
        folder_with_segs_from_previous_stage: str | None = None,
    ) -> None:
        super().__init__(str(folder), identifiers, folder_with_segs_from_previous_stage)
        self._opened: dict[str, PatchFile] = {}

    def __getstate__(self) -> Properties:
        return {**self.__dict__, "_opened": {}}

    def load_case(self, identifier: str) -> tuple[LoaderArray, LoaderArray, None, Properties]:
        """Return image, segmentation, no earlier segmentation, and properties.

        Raises IntegrityError if the file is missing or not whole.
        """
        if identifier not in self._opened:
            self._opened[identifier] = PatchFile.open(Path(self.source_folder) / f"{identifier}.{FILE_ENDING}")
        opened = self._opened[identifier]
        return LoaderArray(opened.image), LoaderArray(opened.segmentation), None, opened.properties

    @staticmethod
    def save_case(
        data: NDArray[np.generic], seg: NDArray[np.generic], properties: Properties, output_filename_truncated: str
    ) -> None:
        """Write `<output_filename_truncated>.arrow`, whole or not at all."""
        target = Path(f"{output_filename_truncated}.{FILE_ENDING}")
        unfinished = target.with_name(f".{target.name}.unfinished")
        write_patches(unfinished, data=data, seg=seg, properties=properties)
        unfinished.replace(target)

    @staticmethod
    def get_identifiers(folder: str) -> list[str]:
        """Names of the cases in a folder, sorted."""
        return sorted(path.stem for path in Path(folder).glob(f"[!.]*.{FILE_ENDING}"))


def register_arrow_dataset() -> None:
    """Make nnU-Net use `ArrowDataset` for folders of `.arrow` files."""
    nnunet_dataset.file_ending_dataset_mapping[FILE_ENDING] = ArrowDataset
