"""Where a trained model is: a folder in nnU-Net's layout, a zip of one, or a training of a run."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, DataError, IntegrityError
from orchestrator.inference.unpacking import named, unpacked
from orchestrator.stages.plan import read_plan
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json
from orchestrator.storage.json_values import JsonObject

if TYPE_CHECKING:
    from orchestrator.training.nnunet.model_folder import NetworkModel

SETTINGS = "model.json"
"""Beside the plans of a model of this project: how it predicts. nnU-Net does not read it."""
_CHECKPOINT = re.compile(r"checkpoint_\w+\.pth")
_WITHIN_MODELS = (".pth", ".ckpt", ".json")
_ORIENTATIONS = {None: None, "LPS": "LPS"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """A model as it was asked for."""

    location: str
    """Folder, zip, one of several models of a zip (`all.zip/MODEL`), or the output location of a run."""
    training: str | None = None
    """Which training of a run."""
    folds: tuple[str, ...] = ()
    """Which folds of a folder or zip; all unless given."""
    checkpoint: str | None = None
    """Name of the files of weights of a folder or zip; nnU-Net's final ones unless given."""

    def __post_init__(self) -> None:
        if self.checkpoint is not None and not _CHECKPOINT.fullmatch(self.checkpoint):
            raise ConfigError(
                f"checkpoint {self.checkpoint!r}; expected the name of a file such as checkpoint_best.pth"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSettings:
    """How a model predicts where nothing else is asked for: as it did in its run, or as nnU-Net does."""

    tile_step_size: float = 0.5
    """Step of the sliding window as a share of its size."""
    mirrors: bool = True
    """Whether predictions are averaged over mirrored images."""
    orientation: str | None = None
    """Order of axes to which images are brought first, `LPS`; None if axes are taken as a file has them."""
    is_of_project: bool = False
    """Whether it was trained by this project, which takes lengths in the unit that a header says."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenModel:
    """A model that was read."""

    name: str
    model: "NetworkModel"
    settings: WindowSettings


@contextmanager
def opened(source: ModelSource) -> Iterator[OpenModel]:
    """Context with a model; its files stay where they are until the end.

    Raises ConfigError for a location that is none, DataError for files that cannot be read without running them.
    """
    if is_run(source.location):
        yield _of_run(source)
        return
    from orchestrator.training.nnunet.model_folder import CHECKPOINT, find_model_folder, load_model_folder

    path, name = _outermost_file(Path(source.location))
    if source.training is not None:
        raise ConfigError(f"{path}: no run; expected one with the training {source.training}, or no training")
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder; expected a model: a folder of nnU-Net's, a zip, a run")
    if path.is_file() and path.suffix in _WITHIN_MODELS:
        raise ConfigError(
            f"{path}: a file of a model; expected the folder that has plans.json and fold_*, a zip of it, or the "
            "output location of a run. A fold, a checkpoint or a training of it is named beside it"
        )
    with ExitStack() as stack:
        top = stack.enter_context(unpacked(path)) if path.is_file() else path
        folder = top
        try:
            folder = find_model_folder(top, name=name)
            model = load_model_folder(folder, folds=source.folds, checkpoint=source.checkpoint or CHECKPOINT)
            settings = _settings(folder)
        except (ConfigError, DataError) as error:
            if path.is_dir():
                raise
            raise type(error)(named(path, folder, error)) from error
        is_whole = path.is_file() and name is None
        yield OpenModel(name=path.stem if is_whole else folder.name, model=model, settings=settings)


def _outermost_file(path: Path) -> tuple[Path, str | None]:
    """Return a zip, and the place of a model within it that a path such as `all.zip/MODEL` names; a path as it is."""
    archive = next((one for one in path.parents if one.is_file()), None)
    return (path, None) if archive is None else (archive, path.relative_to(archive).as_posix())


def is_run(location: str) -> bool:
    """Whether a location is that of a run."""
    return open_storage(location).exists(run_paths.RUN)


def _of_run(source: ModelSource) -> OpenModel:
    from orchestrator.training.checkpoint import CheckpointStore, fitting
    from orchestrator.training.nnunet.model_folder import NetworkModel, check_configuration

    storage = open_storage(source.location)
    there = finished_trainings(storage)
    ensembles = [name for name in names_in_run(storage) if members_of(storage, name)]
    offered = ", ".join([*there, *ensembles])
    if not offered:
        raise ConfigError(f"{storage.location}: no training is finished yet; expected a run with one that is")
    if source.training is None and len(there) != 1:
        more = f" and {len(ensembles)} ensemble{'s' * (len(ensembles) > 1)}" if ensembles else ""
        raise ConfigError(f"{storage.location}: {len(there)} finished trainings{more}; expected one of {offered}")
    training = source.training or there[0]
    if training not in there:
        raise ConfigError(f"{storage.location}: no finished training {training}; expected one of {offered}")
    if source.folds:
        raise ConfigError(f"{training}: a training is one fold; expected no folds")
    if source.checkpoint is not None:
        raise ConfigError(f"{training}: a training has a final checkpoint alone; expected no name of one")
    of_run, final = read_plan(storage, training), CheckpointStore(storage, training_id=training).load_final()
    # Images come as the files of its data set, which the run itself has read as NIfTI.
    plan = of_run.handed_out()
    check_configuration(plan)
    with fitting(f"{training}: its final checkpoint"):
        model = NetworkModel(
            plan=plan,
            folds=(training,),
            weights=(final.state["network_weights"],),
            mirror_axes=tuple(map(int, final.state["inference_allowed_mirroring_axes"] or ())),
            trainer=str(final.state["trainer_name"]),
            sha256=final.sha256,
            train_cases=tuple(map(str, final.state["origin"]["train_cases"])),
        )
    settings = replace(settings_of_run(storage), orientation=of_run.orientation)
    return OpenModel(name=training, model=model, settings=settings)


def finished_trainings(storage: Storage) -> list[str]:
    """Return the trainings of a run whose models are ready; raises ConfigError for what is no run."""
    if not storage.exists(run_paths.RUN):
        raise ConfigError(f"{storage.location}: no {run_paths.RUN}; expected the output location of a run")
    return [name for name in names_in_run(storage) if storage.exists(run_paths.training_record(name))]


def names_in_run(storage: Storage) -> list[str]:
    """Return what a run was asked for, trainings and ensembles, then members of these that nobody has asked for."""
    names = list(map(str, read_json(storage, run_paths.RUN, {"trainings": list})["trainings"]))
    return list(dict.fromkeys([*names, *(member for name in names for member in members_of(storage, name))]))


def members_of(storage: Storage, ensemble: str) -> list[str]:
    """Return the trainings that an ensemble of a run averages; none if it is no ensemble."""
    key = run_paths.ensemble_record(ensemble)
    if not storage.exists(key):
        return []
    members = read_json(storage, key, {"members": list})["members"]
    if not all(isinstance(member, str) and run_paths.is_name(member) for member in members):
        raise IntegrityError(f"{storage.location}/{key}: members {members!r:.80}; expected names of trainings")
    return list(members)


def settings_of_run(storage: Storage) -> WindowSettings:
    """Return how the models of a run predict."""
    preset = read_json(storage, run_paths.RUN, {"preset": dict})["preset"]
    try:
        step, mirrors = float(preset["tile_step_size"]), preset["mirror_at_prediction"] is True
    except (LookupError, TypeError, ValueError) as error:
        raise IntegrityError(f"{storage.location}/{run_paths.RUN}: its preset does not say how it predicts") from error
    return WindowSettings(tile_step_size=step, mirrors=mirrors, is_of_project=True)


def _settings(folder: Path) -> WindowSettings:
    """Return how a model of this project predicts; nnU-Net's own defaults for any other."""
    path = folder / SETTINGS
    if not path.is_file():
        return WindowSettings()
    try:
        found: JsonObject = json.loads(path.read_bytes())["prediction"]
        settings = WindowSettings(
            tile_step_size=float(found["tile_step_size"]),
            mirrors=found["mirrors"] is True,
            orientation=_ORIENTATIONS[found.get("orientation")],
            is_of_project=True,
        )
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error!r}); expected what `export` has written") from error
    check_step(settings.tile_step_size, where=str(path))
    return settings


def check_step(tile_step_size: float, *, where: str) -> None:
    """Raise ConfigError unless a step is a share of a window."""
    if not (isinstance(tile_step_size, int | float) and 0 < tile_step_size <= 1):
        raise ConfigError(f"{where}: a step of {tile_step_size!r}; expected a share of the window, above 0, at most 1")
