"""What is made of a finished label map: values that a study defines, pictures, DICOM objects."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import SimpleITK as sitk

from orchestrator.benchmark.predicted import load_predicted
from orchestrator.errors import ConfigError, OrchestratorError, StorageError, is_of_a_disk
from orchestrator.inference.cases import InputCase
from orchestrator.inference.input_image import ModelFiles, dicom_volume, readable_image
from orchestrator.inference.options import PredictOptions
from orchestrator.inference.products.derived import derived_values
from orchestrator.inference.products.dicom_object import UNKNOWN, NothingFoundError, Segment
from orchestrator.inference.products.dicom_rtstruct import write_dicom_rtstruct
from orchestrator.inference.products.dicom_seg import require_highdicom, write_dicom_seg
from orchestrator.inference.products.overlays import overlay_pngs
from orchestrator.storage.copies import keeping_copies
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.storage.json_values import JsonMapping

_DERIVED = "derived_percent"
_MADE_OF = "made_of_sha256"
"""In the record of a case: digests of what the study said of structures when something was made of the label map."""


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

    @property
    def record_key(self) -> str:
        """Of its record."""
        return f"{self.case.name}.json"


def check_extras(options: PredictOptions, cases: tuple[InputCase, ...]) -> None:
    """Raise ConfigError for what is asked for and cannot be made."""
    if options.study is not None:
        load_predicted(Path(options.study))
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


@keeping_copies()
def add_extras(storage: Storage, predicted: Predicted, options: PredictOptions) -> tuple[str, ...]:
    """Make what was asked for and is not there yet, or was made of what the study said before of its structures.

    A label map that is there is not predicted again. Returns a note for each thing that there cannot be.
    """
    wanted: dict[str, tuple[bool, Callable[[Storage, Predicted, PredictOptions], Sequence[str]]]] = {
        _DERIVED: (options.study is not None, _add_derived),
        "overlays": (options.overlays, _add_pictures),
        "dicom_seg": (options.dicom_seg, partial(_add_object, folder="dicom_seg", write=write_dicom_seg)),
        "dicom_rtstruct": (
            options.dicom_rtstruct,
            partial(_add_object, folder="dicom_rtstruct", write=write_dicom_rtstruct),
        ),
    }
    notes: list[str] = []
    for name, (is_wanted, add) in wanted.items():
        try:
            notes += add(storage, predicted, options) if is_wanted else ()
        except NothingFoundError:
            notes.append(f"no structure was found: nothing in {name}")
        except Exception as error:
            if isinstance(error, StorageError) or is_of_a_disk(error):
                raise
            # The label map is there, and so may be all else that was asked for.
            kind = "" if isinstance(error, OrchestratorError) else f"{type(error).__name__}: "
            notes.append(f"nothing in {name}, which failed: {kind}{' '.join(str(error).split())[:500]}")
    return tuple(notes)


def _add_object(
    storage: Storage,
    predicted: Predicted,
    options: PredictOptions,
    *,
    folder: str,
    write: Callable[..., tuple[str, ...]],
) -> Sequence[str]:
    """Write a DICOM object unless it is there, of structures with the same codes."""
    from pydicom.config import disable_value_validation

    key, segments = f"{folder}/{predicted.case.name}.dcm", _segments(predicted, options)
    if storage.exists(key) and _made_of(read_json(storage, predicted.record_key)).get(folder) == _digest(segments):
        return ()
    # Identifiers that are too long are those of the series, and stay so.
    with disable_value_validation(), storage.writing(key) as path:
        left_out = write(
            storage.fetch(predicted.labels_key),
            path,
            stack=dicom_volume(predicted.case).stack(),
            segments=segments,
            model=predicted.model,
            version=version("nnunet-orchestrator"),
        )
    _note_made_of(storage, predicted, {folder: _digest(segments)})
    return [f"{folder}: left out, as the series has no valid value: {', '.join(left_out)}"] if left_out else ()


def _made_of(record: JsonMapping) -> JsonMapping:
    """Return by name the digests of what things were made of besides the label map, as far as the record tells."""
    found = record.get(_MADE_OF)
    return found if isinstance(found, dict) else {}


def _note_made_of(
    storage: Storage, predicted: Predicted, digests: Mapping[str, str], **changes: Mapping[str, float | None]
) -> None:
    record = read_json(storage, predicted.record_key)
    write_json(storage, predicted.record_key, record | changes | {_MADE_OF: {**_made_of(record), **digests}})


def _digest(definitions: object) -> str:
    return hashlib.sha256(repr(definitions).encode()).hexdigest()


def _add_pictures(storage: Storage, predicted: Predicted, _options: PredictOptions) -> Sequence[str]:
    if all(map(storage.exists, _pictures(predicted.case.name))):
        return ()
    with readable_image(predicted.case, predicted.files) as image:
        voxels = sitk.ReadImage(str(image.files[0]))
    if voxels.GetDimension() != 3 or voxels.GetNumberOfComponentsPerPixel() != 1:
        return ["nothing in overlays: they are drawn of images with three axes and one value a voxel"]
    labels = sitk.ReadImage(str(storage.fetch(predicted.labels_key)))
    for key, content in zip(_pictures(predicted.case.name), overlay_pngs(voxels, labels), strict=True):
        storage.write_bytes(key, content)
    return ()


def _segments(predicted: Predicted, options: PredictOptions) -> list[Segment]:
    codes = {} if options.study is None else load_predicted(Path(options.study)).codes
    return [
        Segment(name=structure, labels=labels, codes=codes.get(structure, UNKNOWN))
        for structure, labels in predicted.structures.items()
    ]


def _add_derived(storage: Storage, predicted: Predicted, options: PredictOptions) -> Sequence[str]:
    """Write the values that the study defines into the record, unless they are there by the same definitions."""
    tables = load_predicted(Path(options.study or ""))
    wanted = [one for one in tables.derived if all(name in predicted.structures for name in one.structures)]
    record = read_json(storage, predicted.record_key)
    if not (wanted or _DERIVED in record) or _made_of(record).get(_DERIVED) == _digest(wanted):
        return ()
    labels = sitk.ReadImage(str(storage.fetch(predicted.labels_key)))
    if labels.GetDimension() != 3:
        return ()
    found = derived_values(
        sitk.GetArrayViewFromImage(labels),
        spacing_mm=labels.GetSpacing()[::-1],
        structures=predicted.structures,
        wanted=wanted,
    )
    values = {name: None if math.isnan(value) else value for name, value in found.items()}
    _note_made_of(storage, predicted, {_DERIVED: _digest(wanted)}, derived_percent=values)
    return ()
