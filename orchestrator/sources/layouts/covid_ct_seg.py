"""COVID-19-CT-Seg: 20 CT volumes in one zip archive, and three kinds of masks in one archive each."""

import re
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from orchestrator.images.problem import SourceError
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import NiftiVolume, Volume
from orchestrator.sources.archives import FileTree, open_tree, the_only
from orchestrator.sources.ct_layout import CtLayout
from orchestrator.sources.intensity import AIR_HU, Intensities, check_hounsfield
from orchestrator.sources.labels import LabelRule, PairedStructure

_IMAGES = "COVID-19-CT-Seg_20cases"
_MASKS = {
    "lung": "Lung_Mask",
    "infection": "Infection_Mask",
    "lung-and-infection": "Lung_and_Infection_Mask",
}
_LUNGS = PairedStructure(name="lung", plural="lungs", left=1, right=2, is_air=True)
WINDOW_HU = (-1250.0, 250.0)
"""Window in which the radiopaedia cases were published."""
WINDOW_MAX = 255.0
"""Value that the upper end of the window was scaled to; the lower end became 0."""
_CORONACASES = re.compile(r"coronacases_(?:org_)?(\d+)\.nii\.gz")
_RADIOPAEDIA = re.compile(r"radiopaedia_(?:org_covid-19-pneumonia-)?(\d+_\d+_\d+)(?:-dcm)?\.nii\.gz")


def case_name_of(file_name: str) -> str | None:
    """Case name of a file by either of the two naming schemes that copies use; None if it follows neither."""
    if match := _CORONACASES.fullmatch(file_name):
        return f"coronacases_{match[1]}"
    if match := _RADIOPAEDIA.fullmatch(file_name):
        return f"radiopaedia_{match[1]}"
    return None


class CovidCtSeg(CtLayout):
    """Archives (or unpacked folders) with the files at their root or in a folder."""

    name: ClassVar = "covid-19-ct-seg"
    origin: ClassVar = "Zenodo record 3757476"
    licence: ClassVar = "CC BY-NC-SA"
    shows: ClassVar = "a chest"
    rules: ClassVar = {
        "lung": LabelRule(values={1: 1, 2: 2}, pair=_LUNGS),
        "infection": LabelRule(values={1: 1}, near="lung"),
        "lung-and-infection": LabelRule(values={1: 1, 2: 2, 3: 3}, pair=_LUNGS),
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

    def intensities(self, voxels: np.ndarray, *, channel: int, name: str) -> Intensities:
        """Bring both sources to one window in HU."""
        del channel
        return brought_to_window(voxels, shows=self.shows, name=name)

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
                there=[name for name in files if name is not None] or tree.files,
            )
        return the_only(files[case_name])


def brought_to_window(voxels: np.ndarray, *, name: str, shows: str = "a chest") -> Intensities:
    """Bring a COVID-19-CT-Seg volume to Hounsfield units within the window of the radiopaedia cases.

    Half of the cases (coronacases) are published in HU, the others (radiopaedia) were windowed to [-1250, 250] HU and
    scaled to [0, 255]; the owners recommend doing the same to the former. The same window is applied here, but kept in
    HU, since the networks of tasks 2 and 3 see other data sets in HU as well; nnU-Net's normalisation makes both
    scales the same for task 1. HU are recognised by the air.

    Parameters
    ----------
    voxels : array, shape (Z, Y, X)
        Finite intensities.
    name
        File name for the messages.
    shows
        What of a patient the volume shows, for the messages.

    Returns
    -------
    Intensities
        The volume in [-1250, 250] HU, rounded, with a note of what was done.

    Raises
    ------
    SourceError
        If the volume is neither in HU nor in the window.
    """
    lowest, highest = float(voxels.min()), float(voxels.max())
    low, high = WINDOW_HU
    if lowest < AIR_HU or lowest == highest:
        check_hounsfield(voxels, shows=shows, name=name)
        note = f"{name}: HU windowed to [{low:g}, {high:g}] like the radiopaedia cases"
        return Intensities(array=np.rint(np.clip(voxels, low, high)).astype(np.int16), notes=(note,))
    if highest > WINDOW_MAX or lowest < -0.5:
        raise SourceError.of(
            name,
            found=f"intensities from {lowest:g} to {highest:g}",
            expected=f"Hounsfield units (air below {AIR_HU:g}) or the window 0 to 255",
            advice="Another tool has rescaled it: get the file of the owners.",
        )
    scaled = np.rint(voxels.astype(np.float32) * ((high - low) / WINDOW_MAX) + low).astype(np.int16)
    # What is between 0 and 255 may have been another window, or a picture.
    check_hounsfield(scaled, shows=shows, name=name)
    note = f"{name}: [0, {WINDOW_MAX:g}] scaled back to the window of [{low:g}, {high:g}] HU that it was made from"
    return Intensities(array=scaled, notes=(note,))
