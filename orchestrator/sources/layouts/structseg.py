"""StructSeg 2019: numbered folders with `data.nii.gz` and `label.nii.gz`, once for organs and once for tumours."""

from pathlib import Path, PurePosixPath
from typing import ClassVar

from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import NiftiVolume, Volume
from orchestrator.sources.ct_layout import CtLayout
from orchestrator.sources.labels import LabelRule, PairedStructure

_PARTS = {"lung": "Thoracic_OAR", "infection": "Lung_GTV"}
_LUNGS = PairedStructure(name="lung", plural="lungs", left=1, right=2, is_air=True)


class StructSeg(CtLayout):
    """Case `train_7` is folder 7 of `Thoracic_OAR` for lungs and of `Lung_GTV` for the gross target volume."""

    name: ClassVar = "structseg"
    origin: ClassVar = "the StructSeg 2019 challenge (registration)"
    licence: ClassVar = "the terms of the challenge"
    shows: ClassVar = "a chest"
    rules: ClassVar = {
        # 3 spinal cord, 4 oesophagus, 5 heart, 6 trachea
        "lung": LabelRule(values={1: 1, 2: 2, 3: 0, 4: 0, 5: 0, 6: 0}, pair=_LUNGS),
        "infection": LabelRule(values={1: 1}, near="lung"),
    }

    @classmethod
    def may_concern(cls, path: PurePosixPath, *, case_name: str) -> bool:
        """Whether a file can be needed for a case."""
        return path.parent.name in {case_name.removeprefix("train_"), *_PARTS.values(), cls.name}

    def find_image(self, case_name: str, *, label_set: str) -> Volume:
        """Find the image."""
        return NiftiVolume(self._find("data.nii.gz", case_name=case_name, label_set=label_set))

    def find_labels(self, case_name: str, *, label_set: str) -> SourceFile:
        """Find the mask."""
        return self._find("label.nii.gz", case_name=case_name, label_set=label_set)

    def _find(self, file_name: str, *, case_name: str, label_set: str) -> SourceFile:
        part: Path = self.folder / _PARTS[label_set]
        path = part / case_name.removeprefix("train_") / file_name
        if not path.is_file():
            nearest = next(folder for folder in (path.parent, part, self.folder) if folder.is_dir())
            raise self.missing(
                nearest,
                case_name=case_name,
                expected=str(path.relative_to(self.folder)),
                there=(entry.name for entry in nearest.iterdir()),
            )
        return SourceFile(path=path)
