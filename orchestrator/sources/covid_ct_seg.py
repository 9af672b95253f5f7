"""COVID-19-CT-Seg: 20 CT volumes in one zip archive, and three kinds of masks in one archive each."""

import re
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import NiftiVolume, Volume
from orchestrator.sources.archives import FileTree, open_tree, the_only
from orchestrator.sources.intensity import HounsfieldUnits, brought_to_window
from orchestrator.sources.labels import LabelRule
from orchestrator.sources.layout import Layout

_IMAGES = "COVID-19-CT-Seg_20cases"
_MASKS = {
    "lung": "Lung_Mask",
    "infection": "Infection_Mask",
    "lung-and-infection": "Lung_and_Infection_Mask",
}
_CORONACASES = re.compile(r"coronacases_(?:org_)?(\d+)\.nii\.gz")
_RADIOPAEDIA = re.compile(r"radiopaedia_(?:org_covid-19-pneumonia-)?(\d+_\d+_\d+)(?:-dcm)?\.nii\.gz")


def case_name_of(file_name: str) -> str | None:
    """Case name of a file by either of the two naming schemes that copies use; None if it follows neither."""
    if match := _CORONACASES.fullmatch(file_name):
        return f"coronacases_{match[1]}"
    if match := _RADIOPAEDIA.fullmatch(file_name):
        return f"radiopaedia_{match[1]}"
    return None


class CovidCtSeg(Layout):
    """Archives (or unpacked folders) with the files at their root or in a folder."""

    name: ClassVar = "covid-19-ct-seg"
    origin: ClassVar = "Zenodo record 3757476"
    rules: ClassVar = {
        "lung": LabelRule(values={1: 1, 2: 2}, has_lungs=True),
        "infection": LabelRule(values={1: 1}, has_lungs=False),
        "lung-and-infection": LabelRule(values={1: 1, 2: 2, 3: 3}, has_lungs=True),
    }

    @classmethod
    def may_concern(cls, path: PurePosixPath, *, case_name: str) -> bool:
        """Whether a file can be needed for a case."""
        return case_name_of(path.name) in {None, case_name}

    def find_image(self, case_name: str, *, label_set: str) -> Volume:
        """Find the image."""
        del label_set
        return NiftiVolume(self._find(_IMAGES, case_name=case_name))

    def find_labels(self, case_name: str, *, label_set: str) -> SourceFile:
        """Find the mask."""
        return self._find(_MASKS[label_set], case_name=case_name)

    def to_hounsfield(self, voxels: np.ndarray, *, name: str) -> HounsfieldUnits:
        """Bring both sources to one window in HU."""
        return brought_to_window(voxels, name=name)

    def _find(self, stem: str, *, case_name: str) -> SourceFile:
        tree: FileTree = open_tree(self.folder, stem=stem, origin=self.origin)
        files: dict[str | None, list[SourceFile]] = {}
        for name, named in tree.below().items():
            files.setdefault(case_name_of(name), []).extend(named)
        if case_name not in files:
            raise self.missing(
                tree.root,
                case_name=case_name,
                expected=f"{case_name}.nii.gz or the same case under its other name",
                there=(name for name in files if name is not None),
            )
        return the_only(files[case_name])
