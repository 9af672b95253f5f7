"""What is made of a finished label map: values that a study defines, pictures, DICOM objects."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import SimpleITK as sitk

from orchestrator.benchmark.predicted import PredictedTables, load_predicted
from orchestrator.errors import ConfigError
from orchestrator.inference.cases import InputCase
from orchestrator.inference.input_image import ModelFiles, dicom_volume, readable_image
from orchestrator.inference.options import PredictOptions
from orchestrator.inference.products.derived import derived_values
from orchestrator.inference.products.dicom_object import UNKNOWN, NothingFoundError, Segment
from orchestrator.inference.products.dicom_rtstruct import write_dicom_rtstruct
from orchestrator.inference.products.dicom_seg import require_highdicom, write_dicom_seg
from orchestrator.inference.products.overlays import overlay_pngs
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """A case that is predicted."""

    case: InputCase
    files: ModelFiles
    structures: Mapping[str, tuple[int, ...]]
    """Labels by the name of a structure, of those that the label map keeps."""
    model: str
    """Name of the model."""

    @property
    def labels_key(self) -> str:
        """Of its label map."""
        return f"{self.case.name}{self.files.ending}"


def check_extras(options: PredictOptions, cases: tuple[InputCase, ...]) -> None:
    """Raise ConfigError for what is asked for and cannot be made."""
    if options.study is not None:
        study_tables(options.study)
    if options.dicom_seg:
        require_highdicom()
    others = [case.name for case in cases if not case.is_dicom]
    if others and (options.dicom_seg or options.dicom_rtstruct):
        raise ConfigError(
            f"case {others[0]}: no DICOM series, whose slices DICOM Segmentation and contours name; expected DICOM "
            "cases alone with --dicom-seg and --dicom-rtstruct"
        )


def keys_of_extras(name: str, options: PredictOptions) -> list[str]:
    """Return the files that are made for a case."""
    wanted = {"overlays": options.overlays, "dicom_seg": options.dicom_seg, "dicom_rtstruct": options.dicom_rtstruct}
    return [key for key in _every_key(name) if wanted[key.partition("/")[0]]]


def remove_extras(storage: Storage, name: str) -> None:
    """Remove what was made of another label map."""
    for key in filter(storage.exists, _every_key(name)):
        storage.delete(key)


def _every_key(name: str) -> list[str]:
    return [*_pictures(name), f"dicom_seg/{name}.dcm", f"dicom_rtstruct/{name}.dcm"]


def _pictures(name: str) -> list[str]:
    return [f"overlays/{name}.png", f"overlays/{name}_mosaic.png"]


@lru_cache(maxsize=4)
def study_tables(study: str) -> PredictedTables:
    """Return what a study says of predictions; raises ConfigError as `load_predicted`."""
    return load_predicted(Path(study))


def add_extras(storage: Storage, predicted: Predicted, options: PredictOptions) -> tuple[str, ...]:
    """Make what was asked for and is not there yet; a label map that is there is not predicted again.

    Returns a note for each thing that there cannot be.
    """
    notes = []
    name = predicted.case.name
    if options.study is not None:
        _add_derived(storage, predicted, study_tables(options.study))
    if options.overlays and not all(map(storage.exists, _pictures(name))):
        notes += _add_pictures(storage, predicted)
    for write, folder, is_wanted in (
        (write_dicom_seg, "dicom_seg", options.dicom_seg),
        (write_dicom_rtstruct, "dicom_rtstruct", options.dicom_rtstruct),
    ):
        key = f"{folder}/{name}.dcm"
        if not is_wanted or storage.exists(key):
            continue
        try:
            with storage.writing(key) as path:
                write(
                    storage.fetch(predicted.labels_key),
                    path,
                    stack=dicom_volume(predicted.case).stack(),
                    segments=_segments(predicted, options),
                    model=predicted.model,
                    version=version("nnunet-orchestrator"),
                )
        except NothingFoundError:
            notes.append(f"no structure was found: nothing in {folder}")
    return tuple(notes)


def _add_pictures(storage: Storage, predicted: Predicted) -> list[str]:
    with readable_image(predicted.case, predicted.files) as image:
        voxels = sitk.ReadImage(str(image.files[0]))
    if voxels.GetDimension() != 3 or voxels.GetNumberOfComponentsPerPixel() != 1:
        return ["nothing in overlays: they are drawn of images with three axes and one value a voxel"]
    labels = sitk.ReadImage(str(storage.fetch(predicted.labels_key)))
    for key, content in zip(_pictures(predicted.case.name), overlay_pngs(voxels, labels), strict=True):
        storage.write_bytes(key, content)
    return []


def _segments(predicted: Predicted, options: PredictOptions) -> list[Segment]:
    codes = {} if options.study is None else study_tables(options.study).codes
    return [
        Segment(name=structure, labels=labels, codes=codes.get(structure, UNKNOWN))
        for structure, labels in predicted.structures.items()
    ]


def _add_derived(storage: Storage, predicted: Predicted, tables: PredictedTables) -> None:
    key = f"{predicted.case.name}.json"
    record = read_json(storage, key)
    wanted = [one for one in tables.derived if all(name in predicted.structures for name in one.structures)]
    before = record.get("derived_percent")
    if not wanted or (isinstance(before, dict) and all(one.name in before for one in wanted)):
        return
    labels = sitk.ReadImage(str(storage.fetch(predicted.labels_key)))
    if labels.GetDimension() != 3:
        return
    found = derived_values(
        sitk.GetArrayViewFromImage(labels),
        spacing_mm=labels.GetSpacing()[::-1],
        structures=predicted.structures,
        wanted=wanted,
    )
    values = {name: None if math.isnan(value) else value for name, value in found.items()}
    write_json(storage, key, record | {"derived_percent": values})
