"""The carriers of this room: what is asked for, and what a converted case holds."""

from dataclasses import dataclass

import SimpleITK as sitk

from orchestrator.benchmark.definition import Case, Dataset
from orchestrator.images.geometry import Geometry
from orchestrator.sources.stamps import SourceStamp


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseRequest:
    """One case with the label sets that are needed of it."""

    dataset: Dataset
    """Data set that the case belongs to."""
    case_name: str
    """Name of the case within the data set."""
    label_sets: tuple[str, ...]
    """Names of the label sets, at least one."""

    @property
    def case(self) -> Case:
        """The case itself."""
        return Case(dataset=self.dataset.name, name=self.case_name)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertedImage:
    """The image of a case as trainings use it, in memory."""

    case: Case
    """Which case it is of."""
    image: sitk.Image
    """Its first channel, int16 (float32 where the source has fractions); of a public download in LPS orientation."""
    original_grid: Geometry
    """Grid of the file or series that it was made from: the same voxels, perhaps in another order."""
    source: SourceStamp
    """What it was made from."""
    notes: tuple[str, ...]
    """What was changed or tolerated on the way, one sentence each."""
    warnings: tuple[str, ...]
    """What is taken as it is but hardly right, with numbers, one sentence each."""
    further: tuple[sitk.Image, ...] = ()
    """Its other channels, on the same grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertedLabels:
    """One label set of a case as trainings use it, in memory."""

    case: Case
    """Which case it is of."""
    label_set: str
    """Which label set it is."""
    labels: sitk.Image
    """Label map, uint8, in the geometry of the image."""
    labels_present: frozenset[int]
    """Labels that it holds, background aside."""
    source: SourceStamp
    """What it was made from."""
    notes: tuple[str, ...]
    """What was changed or tolerated on the way, one sentence each."""
    warnings: tuple[str, ...]
    """What is taken as it is but hardly right, with numbers, one sentence each."""
