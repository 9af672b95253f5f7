"""A folder of images that are predicted: what is done is kept, and one bad case is a row and not the end."""

import csv
import io
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import SimpleITK as sitk

from orchestrator.errors import ConfigError, DataError, OrchestratorError, StorageError, is_of_a_disk, is_out_of_memory
from orchestrator.images.geometry import Geometry, geometry_of, order_onto, placed
from orchestrator.inference.cases import InputCase, find_cases
from orchestrator.inference.ensembles import LoadedModels, common_files, load_models, opened_together
from orchestrator.inference.folder_memory import FolderMemory, plan_memory
from orchestrator.inference.input_image import (
    ModelFiles,
    ReadableImage,
    header_of,
    image_digests,
    is_image_of,
    modalities_of,
    readable_image,
    source_files,
)
from orchestrator.inference.models import ModelSource, OpenModel
from orchestrator.inference.options import PredictOptions
from orchestrator.inference.output_folder import TABLE, check_claim, check_inputs, claim, taken_from_beside
from orchestrator.inference.overlapping import Steps, carried_out, overlapped
from orchestrator.inference.plausibility import doubts, doubts_of_direction
from orchestrator.inference.products.extras import Predicted, add_extras, check_extras, keys_of_extras, remove_extras
from orchestrator.inference.products.extras_memory import extras_bytes
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json

if TYPE_CHECKING:
    from orchestrator.training.nnunet.ensembles.averaged_prediction import CaseBytes


@dataclass(frozen=True, kw_only=True, slots=True)
class CasePrediction:
    """What has become of one case."""

    case: str
    status: Literal["predicted", "kept", "failed"]
    message: str = ""
    """Why it failed, or what is worth to be known of it."""
    volumes_ml: dict[str, float] = field(default_factory=dict)
    """By name of a structure; of regions, those of the labels that make them up."""
    derived_percent: dict[str, float | None] = field(default_factory=dict)
    """By name of a value that the study defines; None where nothing is there to have a share in."""
    is_bad_input: bool = False
    """Whether it failed since its image is not what it should be, and would fail again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderPrediction:
    """Cases, models, and where their label maps go; can be sent to other processes."""

    sources: tuple[ModelSource, ...]
    options: PredictOptions
    output: str
    cases: tuple[InputCase, ...]
    files: ModelFiles
    model: str
    """Name of the models."""
    identity: Mapping[str, object]
    """What the label maps depend on."""
    notes: tuple[str, ...] = ()
    """What was taken for granted of the models."""

    def claim(self) -> None:
        """Mark the output as theirs; raises ConfigError where another model or other settings have predicted."""
        claim(self.output, self.identity, keys=self._all_keys())

    def check_inputs(self, images: Path) -> None:
        """Raise ConfigError if an image, or a table of images, would be overwritten."""
        inputs = [file for case in self.cases for file in source_files(case)]
        check_inputs(self.output, self._all_keys(with_extras=True), inputs=[images, *inputs])

    def names(self) -> list[str]:
        """Return the names of the cases."""
        return [case.name for case in self.cases]

    def memory(self, *, is_alone: bool) -> FolderMemory:
        """Return what the cases that are left take, and which overlap.

        `is_alone` tells that each has a process of its own.
        """
        storage = open_storage(self.output)
        is_left = [not self.is_done(storage, case.name) for case in self.cases]
        found = [self._case_bytes(case) if left else None for case, left in zip(self.cases, is_left, strict=True)]
        limit = math.inf if self.options.max_memory_gib is None else self.options.max_memory_gib * 2**30
        num_left = sum(is_left)
        # Where nothing is known, there may be no room for two.
        is_alone = is_alone or not any(found)
        return plan_memory(found, num_left=num_left, own_bytes=_own_bytes(), most_bytes=limit, is_alone=is_alone)

    def announcement(self, memory: FolderMemory) -> str:
        """Return what the cases take at most, in a line; empty if none is left."""
        if memory.largest is None:
            unknown = f"{memory.num_left} of {len(self.cases)} cases to predict; the memory that they take is not known"
            return f"{unknown} before" if memory.num_left else ""
        others = " with those before and after it" if memory.overlaps[memory.largest] and memory.num_left > 1 else ""
        return (
            f"{memory.num_left} of {len(self.cases)} cases to predict; at most {memory.most_bytes / 2**30:.2f} GiB of "
            f"memory ({self.cases[memory.largest].name}{others})"
        )

    def is_done(self, storage: Storage, name: str) -> bool:
        """Whether a case is predicted: its label map is written last."""
        return all(storage.exists(key) for key in self._keys(name))

    def rows(self, memory: FolderMemory) -> Iterator[CasePrediction]:
        """Predict all cases in this process, and yield what has become of each."""
        cases = [self._steps(case, expected_bytes=taken) for case, taken in zip(self.cases, memory.alone, strict=True)]
        return overlapped(cases, may_overlap=memory.overlaps.__getitem__)

    def predict(self, name: str) -> CasePrediction:
        """Predict a case unless that is done; whatever is wrong with it is said, and only a disk that fails raises."""
        (case,) = (case for case in self.cases if case.name == name)
        taken = self._case_bytes(case)
        return carried_out(self._steps(case, expected_bytes=_own_bytes() + (0 if taken is None else taken.most)))

    def _steps(self, case: InputCase, *, expected_bytes: int) -> Steps[CasePrediction]:
        storage, name = open_storage(self.output), case.name
        was_done = self.is_done(storage, name)
        try:
            if was_done:
                self._check_image(storage, case)
            else:
                self._check_memory(expected_bytes)
                yield from self._predict(storage, case)
            notes = self._add_extras(storage, case)
            return self.row_of(storage, name, status="kept" if was_done else "predicted", notes=notes)
        except StorageError:
            raise
        except Exception as error:
            if is_of_a_disk(error):
                raise StorageError(f"{case.files[0]}: {error}; the same command goes on") from error
            is_bad_input = isinstance(error, DataError)
            return CasePrediction(case=name, status="failed", message=_words(error), is_bad_input=is_bad_input)

    def _check_image(self, storage: Storage, case: InputCase) -> None:
        """Raise DataError if a case of this name was predicted from another image; records may not tell."""
        known = read_json(storage, f"{case.name}.json").get("image")
        if isinstance(known, dict) and not is_image_of(case, known):
            raise DataError(
                f"{case.files[0]}: another image of this name was predicted in {self.output}; expected the same one. "
                f"Choose another output, or remove {case.name}.json there to predict this one in its place"
            )

    def _add_extras(self, storage: Storage, case: InputCase) -> tuple[str, ...]:
        if not self._has_extras:
            return ()
        structures = self._kept_structures(self._models())
        predicted = Predicted(case=case, files=self.files, structures=structures, model=self.model)
        return add_extras(storage, predicted, self.options)

    def _all_keys(self, *, with_extras: bool = False) -> Iterator[str]:
        for name in self.names():
            yield from self._keys(name)
            yield from keys_of_extras(name, self.options) if with_extras else ()

    def _keys(self, name: str) -> list[str]:
        further = [f"{name}.npz", f"{name}.pkl"] if self.options.save_probabilities else []
        return [f"{name}{self.files.ending}", f"{name}.json", *further]

    def row_of(
        self, storage: Storage, name: str, *, status: Literal["predicted", "kept"], notes: tuple[str, ...]
    ) -> CasePrediction:
        """Return what the record of a case that is done says."""
        record = read_json(storage, f"{name}.json", {"volumes_ml": dict})
        return CasePrediction(
            case=name,
            status=status,
            message="; ".join([*map(str, record.get("notes", [])), *notes]),
            volumes_ml=record["volumes_ml"],
            derived_percent=record.get("derived_percent", {}),
        )

    def _case_bytes(self, case: InputCase) -> "CaseBytes | None":
        header = header_of(case, self.files)
        if header is None:
            return None
        models = self._models()
        try:
            taken = models.ensemble.case_bytes(header, saves_probabilities=self.options.save_probabilities)
        except DataError:
            return None  # which predicting it will tell
        if taken is None:
            if self.options.max_memory_gib is not None:
                raise ConfigError(
                    f"{self.model}: its network asks for numbers of the image, so that the memory that it takes is not "
                    "known before; expected no limit of the memory"
                )
            return None
        extras = extras_bytes(header, self.options, structures=self._kept_structures(models))
        return replace(taken, writing=max(taken.writing, extras))

    @property
    def _has_extras(self) -> bool:
        asked = self.options
        return bool(asked.study or asked.overlays or asked.dicom_seg or asked.dicom_rtstruct)

    def _predict(self, storage: Storage, case: InputCase) -> Steps[None]:
        models = self._models()
        with ExitStack() as written:
            # Left in the other order: the label map has its name last.
            path = written.enter_context(storage.writing(f"{case.name}{self.files.ending}"))
            saved = None
            if self.options.save_probabilities:
                archive, properties = (
                    written.enter_context(storage.writing(f"{case.name}{ending}")) for ending in (".npz", ".pkl")
                )
                saved = archive, properties
            with readable_image(case, self.files) as image, _written_onto(image, path) as target:
                digests = image_digests(case)
                found = yield from models.ensemble.predict(
                    image.files, target, probabilities=saved, structures=self._kept_labels()
                )
                notes = [*image.notes, *doubts(found, models.trained)]
                if image.direction is not None:
                    notes += doubts_of_direction(image.direction)
            volumes = {
                name: round(sum(found.num_voxels.get(label, 0) for label in labels) * found.voxel_mm3 / 1000, 6)
                for name, labels in self._kept_structures(models).items()
            }
            record = {
                "case": case.name,
                "files": [file.name for file in case.files],
                "image": digests,
                "volumes_ml": {} if math.isnan(found.voxel_mm3) else volumes,
            }
            check_claim(storage, self.identity)
            # They may be of another label map, which was removed.
            remove_extras(storage, case.name)
            record = taken_from_beside(path) | record
            write_json(storage, f"{case.name}.json", record | ({"notes": notes} if notes else {}))

    def _models(self) -> LoadedModels:
        digests = self.identity["model_sha256"]
        return load_models(self.sources, self.options, tuple(digests) if isinstance(digests, list) else (str(digests),))

    def _check_memory(self, expected_bytes: int) -> None:
        limit = self.options.max_memory_gib
        if limit is not None and expected_bytes > limit * 2**30:
            raise DataError(
                f"would take {expected_bytes / 2**30:.2f} GiB of memory; expected at most {limit:g} GiB, as asked for"
            )

    def _kept_structures(self, models: LoadedModels) -> dict[str, tuple[int, ...]]:
        kept = self.options.structures or tuple(models.structures)
        return {name: labels for name, labels in models.structures.items() if name in kept}

    def _kept_labels(self) -> set[int] | None:
        if not self.options.structures:
            return None
        return {label for labels in self._kept_structures(self._models()).values() for label in labels}


def plan_folder(
    sources: tuple[ModelSource, ...], images: Path, output: str, *, options: PredictOptions
) -> FolderPrediction:
    """Read the models and find the cases; nothing is written.

    Raises
    ------
    ConfigError
        For a model or images that are not there, models that cannot be averaged, a structure that they do not have,
        and images in whose place something would be written.
    DataError
        For a model that cannot be read without running it.
    """
    with opened_together(sources) as models:
        plan, files = models[0].model.plan, common_files(models)
        cases = find_cases(
            images,
            endings=files.endings,
            num_channels=len(plan.channel_names),
            has_colours=all(map(_has_colours, models)),
            output=Path(output),
        )
        cases = tuple(replace(case, modalities=modalities_of(plan)) for case in cases)
        _check_structures(models[0], options)
        check_extras(options, cases)
        identity = _identity(models, options)
        notes = tuple(note for found in models for note in found.model.notes)
        name = " + ".join(found.name for found in models)
    work = FolderPrediction(
        sources=sources,
        options=options,
        output=output,
        cases=cases,
        files=files,
        model=name,
        identity=identity,
        notes=notes,
    )
    work.check_inputs(images)
    return work


def _has_colours(found: OpenModel) -> bool:
    """Whether the reader of a model takes the colours of a file for its channels."""
    return "NaturalImage2DIO" in found.model.plan.reader_names


def _identity(models: Sequence[OpenModel], options: PredictOptions) -> dict[str, object]:
    """Return what label maps depend on; values are lists where there are several models."""
    described: list[dict[str, object]] = []
    for found in models:
        settings = options.settings(found.settings)
        described.append(
            {
                "model": found.name,
                "model_sha256": found.model.sha256,
                "folds": list(found.model.folds),
                "tile_step_size": settings.tile_step_size,
                "mirrors": settings.mirrors and bool(found.model.mirror_axes),
            }
        )
    first = described[0]
    together = first if len(described) == 1 else {key: [one[key] for one in described] for key in first}
    asked: dict[str, object] = {"structures": list(options.structures), "probabilities": options.save_probabilities}
    return together | {key: value for key, value in asked.items() if value}


def _check_structures(found: OpenModel, options: PredictOptions) -> None:
    from orchestrator.training.nnunet.model_folder import labels_of_structures

    there = labels_of_structures(found.model.plan)
    if missing := [name for name in options.structures if name not in there]:
        raise ConfigError(f"{found.name}: no structure {', '.join(missing)}; expected some of {', '.join(there)}")


def write_table(output: str, rows: Sequence[CasePrediction]) -> None:
    """Write a row a case: whether it is predicted, the volume of each structure, why not or what is to be known."""
    names = list(dict.fromkeys(name for row in rows for name in row.volumes_ml))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shares = list(dict.fromkeys(name for row in rows for name in row.derived_percent))
    columns = [*(f"{name} (ml)" for name in names), *(f"{name} (%)" for name in shares)]
    writer.writerow(["case", "status", *columns, "message"])
    for row in sorted(rows, key=lambda row: row.case):
        status = "failed" if row.status == "failed" else "predicted"
        values = [*map(row.volumes_ml.get, names), *map(row.derived_percent.get, shares)]
        writer.writerow([row.case, status, *("" if value is None else value for value in values), row.message])
    open_storage(output).write_bytes(TABLE, text.getvalue().encode())


def _own_bytes() -> int:
    from orchestrator.training.nnunet.prediction_memory import own_bytes

    return own_bytes()


@contextmanager
def _written_onto(image: ReadableImage, path: Path) -> Iterator[Path]:
    """Context with a file for nnU-Net's writer; at the end the label map lies on the grid of the input."""
    if image.grid is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="labels-") as folder:
        written = Path(folder) / "labels.nii"
        yield written
        _lay_onto(image.grid, written, path)


def _lay_onto(grid: Geometry, written: Path, path: Path) -> None:
    found = sitk.ReadImage(str(written))
    voxels = order_onto(grid, geometry_of(found)).array(sitk.GetArrayViewFromImage(found))
    sitk.WriteImage(placed(sitk.GetImageFromArray(voxels), grid), str(path), useCompression=True)


def _words(error: Exception) -> str:
    """Return one line on why a case failed."""
    if is_out_of_memory(error):
        return f"memory was short ({' '.join(str(error).split())[:200]})"
    text = " ".join(str(error).split())
    return text if isinstance(error, OrchestratorError) else f"{type(error).__name__}: {text[:500]}"
