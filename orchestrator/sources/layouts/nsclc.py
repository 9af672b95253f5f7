"""NSCLC-Radiomics: CT as DICOM series in patient folders; masks of lungs and effusion as NIfTI anywhere below."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from orchestrator.images.dicom.elements import looks_like_dicom
from orchestrator.images.dicom.volume import DicomVolume
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import Volume
from orchestrator.sources.archives import files_below
from orchestrator.sources.ct_layout import CtLayout
from orchestrator.sources.labels import LabelRule, PairedStructure

_PATIENT = re.compile(r"LUNG1-\d+")
_LUNGS = PairedStructure(name="lung", plural="lungs", left=1, right=2, is_air=True)
_STRUCTURES = {"lung": "thor_cav", "infection": "effusion"}
_REVIEWERS = ("primary", "first", "second", "third")
"""Order of preference among several masks of one case; others follow by name."""


class Nsclc(CtLayout):
    """The folders of the archive, with the masks beside or inside the patient folders."""

    name: ClassVar = "nsclc"
    origin: ClassVar = "the TCIA collections NSCLC-Radiomics and PleThora"
    licence: ClassVar = "as The Cancer Imaging Archive states it of both collections"
    shows: ClassVar = "a chest"
    rules: ClassVar = {
        "lung": LabelRule(values={1: 1, 2: 2}, pair=_LUNGS),
        "infection": LabelRule(values={1: 1}, near="lung"),
    }

    @classmethod
    def may_concern(cls, path: PurePosixPath, *, case_name: str) -> bool:
        """Whether a file can be needed for a case."""
        return set(_PATIENT.findall(str(path))) <= {case_name}

    def find_image(self, case_name: str, *, label_set: str) -> Volume:
        """Find the folders of the patient that hold DICOM files, and all masks, which tell one series from another."""
        del label_set
        files = self._files_of(case_name)
        below = [file for file in files if case_name in file.relative_to(self.folder).parts[:-1]]
        folders = sorted({file.parent for file in below if _may_be_dicom(file)})
        if not folders:
            raise self.missing(
                self.folder,
                case_name=case_name,
                expected=f"a patient folder {case_name} with a CT series (*.dcm)",
                there=(entry.name for entry in self.folder.iterdir()),
            )
        top = next(parent for parent in (folders[0], *folders[0].parents) if parent.name == case_name)
        masks = [self._masks_of(case_name, label_set=each, files=files) for each in _STRUCTURES]
        return DicomVolume(
            tuple(folders), name=str(top), masks=tuple(SourceFile(path=each[0]) for each in masks if each)
        )

    def find_labels(self, case_name: str, *, label_set: str) -> SourceFile:
        """Find the mask; of several reviewers the primary or first one."""
        files = self._files_of(case_name)
        masks = self._masks_of(case_name, label_set=label_set, files=files)
        if not masks:
            prefix = _prefix(case_name, label_set=label_set)
            raise self.missing(
                self.folder,
                case_name=case_name,
                expected=f"a mask {prefix}*_reviewer.nii.gz or {prefix}*.nii.gz",
                there=[file.name for file in files if file.name.endswith(".nii.gz")]
                or [file.name for file in files if not _may_be_dicom(file)],
            )
        return SourceFile(path=masks[0])

    @staticmethod
    def _masks_of(case_name: str, *, label_set: str, files: Sequence[Path]) -> list[Path]:
        prefix = _prefix(case_name, label_set=label_set)
        masks = (file for file in files if file.name.startswith(prefix) and file.name.endswith(".nii.gz"))
        return sorted(masks, key=lambda file: _preference(file, prefix=prefix))

    def _files_of(self, case_name: str) -> list[Path]:
        """Every file below the download except those in the folders of other patients (50,000 slices in all)."""
        files = files_below(self.folder, enter=lambda name: name == case_name or not _PATIENT.fullmatch(name))
        return sorted(file for file in files if not file.name.startswith("._"))


def _prefix(case_name: str, *, label_set: str) -> str:
    return f"{case_name}_{_STRUCTURES[label_set]}_"


def _may_be_dicom(file: Path) -> bool:
    if file.suffix.lower() == ".dcm":
        return True
    try:
        return file.is_file() and looks_like_dicom(file)
    except OSError:
        return False


def _preference(file: Path, *, prefix: str) -> tuple[int, str, Path]:
    reviewer = file.name.removeprefix(prefix).split("_")[0]
    rank = _REVIEWERS.index(reviewer) if reviewer in _REVIEWERS else len(_REVIEWERS)
    return rank, file.name, file
