"""MosMed COVID19_1110: studies in folders by severity, masks for fifty of them in one folder."""

from pathlib import PurePosixPath
from typing import ClassVar

from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import NiftiVolume, Volume
from orchestrator.sources.archives import FileTree, folder_tree, the_only
from orchestrator.sources.ct_layout import CtLayout
from orchestrator.sources.labels import LabelRule


class Mosmed(CtLayout):
    """`studies/CT-1/study_0255.nii.gz` and `masks/study_0255_mask.nii.gz`, perhaps below a folder COVID19_1110."""

    name: ClassVar = "mosmed"
    origin: ClassVar = "mosmed.ai (COVID19_1110)"
    licence: ClassVar = "CC BY-NC-ND"
    shows: ClassVar = "a chest"
    rules: ClassVar = {"infection": LabelRule(values={1: 1})}

    @classmethod
    def may_concern(cls, path: PurePosixPath, *, case_name: str) -> bool:
        """Whether a file can be needed for a case."""
        return not path.name.startswith("study_") or path.name.removesuffix(".nii.gz").removesuffix("_mask") == _study(
            case_name
        )

    def find_image(self, case_name: str, *, label_set: str) -> Volume:
        """Find the image in whichever severity it is."""
        del label_set
        return NiftiVolume(self._find("studies", case_name=case_name, suffix=".nii.gz"))

    def find_labels(self, case_name: str, *, label_set: str) -> SourceFile:
        """Find the mask."""
        del label_set
        return self._find("masks", case_name=case_name, suffix="_mask.nii.gz")

    def _find(self, kind: str, *, case_name: str, suffix: str) -> SourceFile:
        roots = [root for root in (self.folder, self.folder / "COVID19_1110") if (root / kind).is_dir()]
        where = (roots[0] if roots else self.folder) / kind
        tree: FileTree | None = folder_tree(where) if roots else None
        files = tree.below() if tree else {}
        file_name = f"{_study(case_name)}{suffix}"
        if file_name not in files:
            raise self.missing(where, case_name=case_name, expected=file_name, there=files)
        return the_only(files[file_name])


def _study(case_name: str) -> str:
    return f"study_{case_name.removeprefix('study_')}"
