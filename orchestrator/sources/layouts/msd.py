"""Medical Segmentation Decathlon, task 6 (lung tumours): one tar archive with images, labels and dataset.json."""

import json
from pathlib import PurePosixPath
from typing import ClassVar

from orchestrator.images.problem import SourceError, reading
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import NiftiVolume, Volume
from orchestrator.sources.archives import FileTree, open_tree, the_only
from orchestrator.sources.ct_layout import CtLayout
from orchestrator.sources.labels import LabelRule, PairedStructure

_STEM = "Task06_Lung"
_LUNGS = PairedStructure(name="lung", plural="lungs", left=1, right=2, is_air=True)
_LABEL_FOLDERS = {"infection": "labelsTr", "lung": "labelsTr_lung"}

_NO_LUNGS = (
    "The decathlon has no lung masks, these were annotated later: put them into a folder labelsTr_lung beside the "
    "archive, 1 left and 2 right lung, or leave these trainings out."
)


class Msd(CtLayout):
    """The archive or its unpacked folder; lung masks, annotated later, are in a folder `labelsTr_lung`."""

    name: ClassVar = "msd"
    origin: ClassVar = "medicaldecathlon.com (Task06_Lung.tar)"
    licence: ClassVar = "CC BY-SA 4.0"
    shows: ClassVar = "a chest"
    rules: ClassVar = {
        "infection": LabelRule(values={1: 1}, near="lung"),
        "lung": LabelRule(values={1: 1, 2: 2}, pair=_LUNGS),
    }

    @classmethod
    def may_concern(cls, path: PurePosixPath, *, case_name: str) -> bool:
        """Whether a file can be needed for a case."""
        return not path.name.startswith("lung_") or path.name == f"{case_name}.nii.gz"

    def find_image(self, case_name: str, *, label_set: str) -> Volume:
        """Find the image, after a check that `dataset.json` is that of this task."""
        del label_set
        tree = open_tree(self.folder, stem=_STEM, origin=self.origin)
        self._check_description(tree)
        return NiftiVolume(self._find(tree, case_name=case_name, folder="imagesTr"))

    def find_labels(self, case_name: str, *, label_set: str) -> SourceFile:
        """Find the mask."""
        tree = open_tree(self.folder, stem=_STEM, origin=self.origin)
        if label_set == "lung" and not tree.below("labelsTr_lung") and (self.folder / "labelsTr_lung").is_dir():
            # The owners' archive stays as it is: lung masks may lie beside it.
            tree = open_tree(self.folder, stem="labelsTr_lung", origin=self.origin)
            return self._find(tree, case_name=case_name, folder=None)
        return self._find(tree, case_name=case_name, folder=_LABEL_FOLDERS[label_set])

    def _find(self, tree: FileTree, *, case_name: str, folder: str | None) -> SourceFile:
        files = tree.below(folder) if folder else tree.below()
        file_name = f"{case_name}.nii.gz"
        if file_name not in files:
            raise self.missing(
                f"{tree.root}/{folder or ''}".rstrip("/"),
                case_name=case_name,
                expected=file_name,
                there=files or tree.files,
                advice=_NO_LUNGS if folder in {None, _LABEL_FOLDERS["lung"]} else "",
            )
        return the_only(files[file_name])

    def _check_description(self, tree: FileTree) -> None:
        described = tree.below().get("dataset.json")
        if described is None:
            raise SourceError.of(
                tree.root,
                found="no dataset.json",
                expected="dataset.json beside imagesTr and labelsTr",
                advice=f"Get the whole of it from {self.origin}.",
            )
        file = the_only(described)
        with file.open() as stream, reading(file):
            text = stream.read()
            try:
                labels = json.loads(text)["labels"]
            except (ValueError, KeyError, TypeError) as error:
                raise self._not_described(file, found=f"a file without readable labels ({error!r})") from error
        if not isinstance(labels, dict) or "1" not in labels:
            raise self._not_described(file, found=f"labels {labels!r}")

    def _not_described(self, file: SourceFile, *, found: str) -> SourceError:
        return SourceError.of(
            file,
            found=found,
            expected='a JSON object with "labels": {"0": "background", "1": "cancer"}',
            advice=f"Get it again from {self.origin}.",
        )
