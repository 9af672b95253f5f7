"""A folder of images predicted one after the other: what is done is kept, and one bad case is a row and not the end."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.errors import ConfigError, DataError, OrchestratorError, StorageError, is_of_a_disk, is_out_of_memory
from orchestrator.inference.cases import InputCase, find_cases
from orchestrator.inference.models import ModelSource, OpenModel, WindowSettings, check_step, opened
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json

if TYPE_CHECKING:
    from orchestrator.training.nnunet.prediction import Predictor

RECORD = "predict.json"
"""In the output folder: which model has predicted what lies there, and how."""
TABLE = "predictions.csv"
_ITK_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl")


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """How it is predicted."""

    device: Literal["cpu", "cuda"] = "cpu"
    tile_step_size: float | None = None
    """Step of the sliding window; that of the model unless given."""
    mirrors: bool | None = None
    """Whether predictions are averaged over mirrored images; as the model did unless given."""
    max_memory_gib: float | None = None
    """Cases that would take more fail, and say so."""
    num_threads: int | None = None
    """That torch computes with; unless given, what it finds."""

    def __post_init__(self) -> None:
        if self.tile_step_size is not None:
            check_step(self.tile_step_size, where="step")

    def settings(self, of_model: WindowSettings) -> WindowSettings:
        """Return what is asked for, and what the model does where nothing is."""
        return WindowSettings(
            tile_step_size=self.tile_step_size or of_model.tile_step_size,
            mirrors=of_model.mirrors if self.mirrors is None else self.mirrors,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CasePrediction:
    """What has become of one case."""

    case: str
    status: Literal["predicted", "kept", "failed"]
    message: str = ""
    """Why it failed."""
    volumes_ml: dict[str, float] = field(default_factory=dict)
    """By name of a structure; of regions, those of the labels that make them up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderPrediction:
    """Cases, a model, and where its label maps go; can be sent to other processes."""

    source: ModelSource
    options: PredictOptions
    output: str
    cases: tuple[InputCase, ...]
    ending: str
    """Of the label maps."""
    notes: tuple[str, ...] = ()
    """What was taken for granted of the model."""

    def names(self) -> list[str]:
        """Return the names of the cases."""
        return [case.name for case in self.cases]

    def announcement(self) -> str:
        """Return what the largest case takes, in a line; empty where that is not known before it is read."""
        storage = open_storage(self.output)
        left = [case for case in self.cases if not is_done(storage, case.name, ending=self.ending)]
        if not left:
            return ""
        predictor, _ = _loaded(self.source, self.options)
        expected = [(predictor.expected_bytes(case.files), case.name) for case in left]
        known = [(num_bytes, name) for num_bytes, name in expected if num_bytes is not None]
        if not known:
            return ""
        num_bytes, name = max(known)
        return (
            f"{len(left)} of {len(self.cases)} cases to predict; at most {num_bytes / 2**30:.2f} GiB of memory ({name})"
        )

    def predict(self, name: str) -> CasePrediction:
        """Predict a case unless that is done; whatever is wrong with it is said, and only a disk that fails raises."""
        storage = open_storage(self.output)
        (case,) = (case for case in self.cases if case.name == name)
        if is_done(storage, name, ending=self.ending):
            return self.row(storage, name, status="kept")
        try:
            self._predict(storage, case)
        except StorageError:
            raise
        except Exception as error:
            if is_of_a_disk(error):
                raise StorageError(f"{case.files[0]}: {error}; the same command goes on") from error
            return CasePrediction(case=name, status="failed", message=_words(error))
        return self.row(storage, name, status="predicted")

    def row(self, storage: Storage, name: str, *, status: Literal["predicted", "kept"]) -> CasePrediction:
        """Return what the record of a case that is done says."""
        record = read_json(storage, f"{name}.json", {"volumes_ml": dict})
        return CasePrediction(case=name, status=status, volumes_ml=record["volumes_ml"])

    def _predict(self, storage: Storage, case: InputCase) -> None:
        predictor, structures = _loaded(self.source, self.options)
        limit = self.options.max_memory_gib
        if limit is not None and (expected := predictor.expected_bytes(case.files) or 0) > limit * 2**30:
            raise DataError(
                f"would take {expected / 2**30:.2f} GiB of memory; expected at most {limit:g} GiB, as asked for"
            )
        with storage.writing(f"{case.name}{self.ending}") as path:
            num_voxels, voxel_mm3 = predictor.predict_files(case.files, path)
            volumes = {
                name: round(sum(num_voxels.get(label, 0) for label in labels) * voxel_mm3 / 1000, 6)
                for name, labels in structures.items()
            }
            # First, so that a case whose label map is there has it.
            write_json(
                storage,
                f"{case.name}.json",
                {
                    "case": case.name,
                    "files": [file.name for file in case.files],
                    "volumes_ml": {} if math.isnan(voxel_mm3) else volumes,
                },
            )


def plan_folder(source: ModelSource, images: Path, output: str, *, options: PredictOptions) -> FolderPrediction:
    """Read the model, find the cases, and mark the output as theirs.

    Raises
    ------
    ConfigError
        For a model or images that are not there, and an output with predictions of another model or other settings.
    DataError
        For a model that cannot be read without running it.
    """
    with opened(source) as found:
        plan = found.model.plan
        channels = plan.dataset_json.get("channel_names") or plan.dataset_json.get("modality") or {}
        cases = find_cases(images, endings=_endings(found), num_channels=len(channels))
        settings = options.settings(found.settings)
        identity: dict[str, Any] = {
            "model": found.name,
            "model_sha256": found.model.sha256,
            "folds": list(found.model.folds),
            "tile_step_size": settings.tile_step_size,
            "mirrors": settings.mirrors and bool(found.model.mirror_axes),
        }
        notes = found.model.notes
        ending = str(plan.dataset_json.get("file_ending", ".nii.gz"))
    storage = open_storage(output)
    if storage.exists(RECORD):
        before = read_json(storage, RECORD)
        if other := [key for key, value in identity.items() if key != "model" and before.get(key) != value]:
            raise ConfigError(
                f"{output}: has predictions with another {', '.join(other)} (of {before.get('model')}); expected those "
                f"of {found.name}. Choose another output"
            )
    else:
        write_json(storage, RECORD, identity)
    return FolderPrediction(source=source, options=options, output=output, cases=cases, ending=ending, notes=notes)


def is_done(storage: Storage, name: str, *, ending: str) -> bool:
    """Whether a case is predicted: its label map is written last."""
    return storage.exists(f"{name}{ending}") and storage.exists(f"{name}.json")


def write_table(output: str, rows: Sequence[CasePrediction]) -> None:
    """Write a row a case: whether it is predicted, the volume of each structure, why not."""
    names = list(dict.fromkeys(name for row in rows for name in row.volumes_ml))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "status", *(f"{name} (ml)" for name in names), "message"])
    for row in sorted(rows, key=lambda row: row.case):
        status = "failed" if row.status == "failed" else "predicted"
        writer.writerow([row.case, status, *(row.volumes_ml.get(name, "") for name in names), row.message])
    open_storage(output).write_bytes(TABLE, text.getvalue().encode())


def _endings(found: OpenModel) -> tuple[str, ...]:
    reader = found.model.plan.plans_manager.image_reader_writer_class
    endings = tuple(reader.supported_file_endings)
    return tuple(dict.fromkeys([*_ITK_ENDINGS, *endings])) if reader.__name__ == "SimpleITKIO" else endings


@lru_cache(maxsize=1)
def _loaded(source: ModelSource, options: PredictOptions) -> tuple["Predictor", dict[str, tuple[int, ...]]]:
    """Return the model that this process predicts with, and the labels of its structures."""
    from orchestrator.training.nnunet.model_folder import labels_of_structures
    from orchestrator.training.nnunet.prediction import ready_predictor
    from orchestrator.training.threads import limit_threads

    if options.num_threads is not None:
        limit_threads(options.num_threads)
    with opened(source) as found:
        settings, model = options.settings(found.settings), found.model
        predictor = ready_predictor(
            model.plan,
            model.weights,
            mirror_axes=model.mirror_axes if settings.mirrors else (),
            tile_step_size=settings.tile_step_size,
            device=options.device,
            trainer_name=model.trainer,
        )
        return predictor, labels_of_structures(model.plan)


def _words(error: Exception) -> str:
    """Return one line on why a case failed."""
    if is_out_of_memory(error):
        return f"memory was short ({' '.join(str(error).split())[:200]})"
    text = " ".join(str(error).split())
    return text if isinstance(error, OrchestratorError) else f"{type(error).__name__}: {text[:500]}"
