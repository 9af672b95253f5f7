"""What a data set in nnU-Net's raw layout says of itself, as far as a study must know it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class RawDataset:
    """What is in `dataset.json`, and which cases there are."""

    folder: str
    """`DatasetNNN_Name`."""
    channels: tuple[str, ...]
    """Names of the images of a case, in their order."""
    labels: Mapping[str, tuple[int, ...]]
    """Structure to its value in the label maps, or to those of its region; without background."""
    regions_class_order: tuple[int, ...] = ()
    """What a prediction writes for each region; empty if no structure is a region."""
    ignored_label: int | None = None
    """Value of voxels that nobody has annotated."""
    cases: tuple[str, ...] = ()
    """Those of `imagesTr` with a label map, sorted."""
    test_cases: tuple[str, ...] = field(default=())
    """Those of `imagesTs` with a label map in `labelsTs`, sorted."""
    num_slices: int = 0
    """Of a typical case, roughly, as 512 x 512 voxels each; 0 if nothing tells."""
    file_ending: str = ".nii.gz"
    """Of images and label maps."""
    reader: str = "SimpleITKIO"
    """nnU-Net's class that reads them."""


Describe = Callable[[str], RawDataset]
"""Returns what the data set in a folder says of itself; raises an error of ours if it is not there or not readable."""
