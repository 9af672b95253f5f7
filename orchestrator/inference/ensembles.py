"""Models that predict together: named one by one or in a file, checked to mean the same, and loaded."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from orchestrator.configuration import Entry, load_yaml, understood
from orchestrator.errors import ConfigError, DataError, IntegrityError
from orchestrator.inference.input_image import ModelFiles
from orchestrator.inference.models import ModelSource, OpenModel, is_run, members_of, opened
from orchestrator.inference.options import PredictOptions
from orchestrator.inference.plausibility import TrainedOn
from orchestrator.storage.filesystem import open_storage

if TYPE_CHECKING:
    from orchestrator.training.nnunet.ensembles.averaged_prediction import ModelEnsemble
    from orchestrator.training.nnunet.prediction import Predictor

_ENDINGS = (".yaml", ".yml")


class MemberEntry(Entry):
    """One of several models that predict together."""

    model: Annotated[str, Field(min_length=1)]
    """Folder, zip or run; a path begins where this file lies."""
    training: str | None = None
    """Which training of a run."""
    folds: list[str | int] = Field(default_factory=list)
    """Which folds of a folder or zip; all unless given."""
    checkpoint: str | None = None
    """Name of the weights of a folder or zip, such as `checkpoint_best.pth`; the final ones unless given."""


class EnsembleFile(Entry):
    """Models whose probabilities are averaged: a file that `export` writes, or one of one's own."""

    models: Annotated[list[MemberEntry], Field(min_length=1)]
    """In the order in which they are added up."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedModels:
    """What a process predicts with."""

    ensemble: "ModelEnsemble"
    structures: Mapping[str, tuple[int, ...]]
    """Labels by the name of a structure."""
    trained: TrainedOn
    """What the first of them was trained on."""


def model_sources(
    locations: Sequence[str],
    *,
    training: str | None = None,
    folds: Sequence[str] = (),
    checkpoint: str | None = None,
) -> tuple[ModelSource, ...]:
    """Return the models that are named: folders, zips, runs, and files that name several.

    `checkpoint` is the name of the weights of all of which no file says it. Raises ConfigError for a file that is none,
    and for a training or folds that could be of any of several models.
    """
    found: list[ModelSource] = []
    for location in locations:
        if _is_file_of_models(location):
            found += _of_file(Path(location))
        else:
            found.append(ModelSource(location=location, training=training, folds=tuple(folds)))
    if not found:
        raise ConfigError("no model; expected at least one")
    if len(found) > 1 and (training is not None or folds):
        raise ConfigError(
            f"{len(found)} models, and {'a training' if training else 'folds'} of one of them; expected a file of "
            "models that says it of each: models: [{model: ..., folds: [0, 1]}, ...]"
        )
    return tuple(replace(one, checkpoint=one.checkpoint or checkpoint) for source in found for one in _members(source))


def _is_file_of_models(location: str, *, beside: Path = Path()) -> bool:
    return location.lower().endswith(_ENDINGS) and not (beside / location).is_dir()


def _members(source: ModelSource) -> list[ModelSource]:
    """Return a model, or the members of an ensemble of a run."""
    if source.training is None or not is_run(source.location):
        return [source]
    members = members_of(open_storage(source.location), source.training)
    return [replace(source, training=member) for member in members] or [source]


def _of_file(path: Path) -> list[ModelSource]:
    content = understood(load_yaml(path), EnsembleFile, where=str(path))
    for entry in content.models:
        if _is_file_of_models(entry.model, beside=path.parent):
            raise ConfigError(
                f"{path}: names {entry.model}, another file of models; expected folders, zips and runs, as such "
                "files do not nest. Put its models in its place"
            )
    return [
        ModelSource(
            location=entry.model if "://" in entry.model else str(path.parent / entry.model),
            training=entry.training,
            folds=tuple(map(str, entry.folds)),
            checkpoint=entry.checkpoint,
        )
        for entry in content.models
    ]


@contextmanager
def opened_together(sources: Sequence[ModelSource]) -> Iterator[list[OpenModel]]:
    """Context with models that can be averaged; their files stay where they are until the end.

    Raises
    ------
    ConfigError
        For a location that is no model, and for models that learned other structures or look at other images.
    DataError
        For files that cannot be read without running them.
    """
    with ExitStack() as stack:
        models = [stack.enter_context(opened(source)) for source in sources]
        first = _meaning(models[0])
        for other in models[1:]:
            for what, value in _meaning(other).items():
                if value != first[what]:
                    raise ConfigError(
                        f"{other.name}: {what} {value}; expected {first[what]}, as of {models[0].name}, to be averaged "
                        "with it"
                    )
        yield models


def _meaning(found: OpenModel) -> dict[str, object]:
    """Return what must be equal in models that are averaged."""
    described = found.model.plan.dataset_json
    order, labels = described.get("regions_class_order"), described.get("labels", {})
    return {
        # The order of regions is that of the channels of the network.
        "labels": labels if order is None else list(labels.items()),
        "regions_class_order": None if order is None else list(order),
        "channels": list(found.model.plan.channel_names.values()),
        "order of axes": _axes_of(found),
    }


def _axes_of(found: OpenModel) -> str:
    """Return the order of axes in which a model sees images: some readers of nnU-Net turn them, too."""
    turns = any(name.endswith("WithReorient") for name in found.model.plan.reader_names)
    return "RAS" if turns else found.settings.orientation or "as in the file"


def common_files(models: Sequence[OpenModel]) -> ModelFiles:
    """Return which files all readers of models read, and how the first one writes; ConfigError if there are none."""
    each = [
        ModelFiles.of(
            found.model.plan.plans_manager.image_reader_writer_class,
            ending=str(found.model.plan.dataset_json.get("file_ending", ".nii.gz")),
            orientation=found.settings.orientation,
            is_of_project=found.settings.is_of_project,
        )
        for found in models
    ]
    first = each[0]
    common = tuple(ending for ending in first.own_endings if all(ending in files.own_endings for files in each))
    if len(each) > 1 and not common:
        described = (f"{found.name}: {', '.join(files.own_endings)}" for found, files in zip(models, each, strict=True))
        raise ConfigError(f"models that read no files alike ({'; '.join(described)}); expected some of one ending")
    return replace(first, own_endings=common)


@lru_cache(maxsize=1)
def load_models(
    sources: tuple[ModelSource, ...], options: PredictOptions, digests: tuple[str, ...] | None = None
) -> LoadedModels:
    """Return the models that this process predicts with.

    Raises DataError if they are not those of the SHA-256 that is given for each.
    """
    from orchestrator.training.nnunet.ensembles.averaged_prediction import ModelEnsemble
    from orchestrator.training.nnunet.model_folder import labels_of_structures
    from orchestrator.training.threads import limit_threads

    if options.num_threads is not None:
        limit_threads(options.num_threads)
    with opened_together(sources) as models:
        for found, source, expected in zip(models, sources, digests or [None] * len(sources), strict=True):
            if expected is not None and found.model.sha256 != expected:
                raise DataError(
                    f"{source.location}: SHA-256 {found.model.sha256}; expected {expected}, as when this prediction "
                    "began: the model was changed since. Begin again"
                )
        predictors = [
            _ready(found, options, location=source.location) for found, source in zip(models, sources, strict=True)
        ]
        plan = models[0].model.plan
        return LoadedModels(
            ensemble=ModelEnsemble(predictors), structures=labels_of_structures(plan), trained=TrainedOn.of(plan)
        )


def _ready(found: OpenModel, options: PredictOptions, *, location: str) -> "Predictor":
    """Return a model that is ready to predict; raises DataError if its weights are not those of its plans."""
    from orchestrator.training.nnunet.prediction import ready_predictor

    settings, model = options.settings(found.settings), found.model
    try:
        return ready_predictor(
            model.plan,
            model.weights,
            mirror_axes=model.mirror_axes if settings.mirrors else (),
            tile_step_size=settings.tile_step_size,
            device=options.device,
            trainer_name=model.trainer,
        )
    except IntegrityError as error:
        raise DataError(f"{location}: {error}") from error
