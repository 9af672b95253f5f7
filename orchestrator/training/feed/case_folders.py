"""Where a loader finds its cases, and what it asks of them."""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.packing.lane_unpacking import EVERYWHERE
from orchestrator.patches.layout import Index
from orchestrator.patches.reader import PatchFile

FILE_ENDING = "arrow"
"""Of patch files."""


class StoredCase(Protocol):
    """A preprocessed case, opened for reading; threads share it. `PatchFile` says what each of these is."""

    @property
    def shape(self) -> Index: ...  # noqa: D102

    @property
    def labels(self) -> tuple[Hashable, ...]: ...  # noqa: D102

    def class_locations(self, label: Hashable) -> NDArray[np.integer]: ...  # noqa: D102

    def read_into(  # noqa: D102
        self,
        image: NDArray[np.float32],
        segmentation: NDArray[np.int16],
        *,
        start: Index,
        slabs: NDArray[np.float64] = EVERYWHERE,
    ) -> None: ...


class CaseFolder(Protocol):
    """Preprocessed cases by their identifiers."""

    def open(self, identifier: str) -> StoredCase:
        """Open a case; raises IntegrityError if it is missing or not whole."""


@dataclass(frozen=True, slots=True)
class PatchFolder:
    """A folder of patch files, `<identifier>.arrow`."""

    folder: Path

    def open(self, identifier: str) -> PatchFile:
        """Open a case; raises IntegrityError if it is missing or not whole."""
        return PatchFile.open(self.folder / f"{identifier}.{FILE_ENDING}")
