"""Models of others taken in: unpacked, looked at, and only then put where they are used from."""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import ConfigError, DataError, OrchestratorError
from orchestrator.inference.models import ModelSource
from orchestrator.inference.unpacking import named, unpack
from orchestrator.storage.interface import TEMPORARY_PREFIX


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedModel:
    """A model that can be predicted with."""

    folder: Path
    configuration: str
    folds: tuple[str, ...]
    left_out: tuple[str, ...]
    """Files of the zip that are none of a model."""
    notes: tuple[str, ...]
    """What was taken for granted."""


def import_models(archive: str | Path, output: str | Path, *, checkpoint: str | None = None) -> list[ImportedModel]:
    """Take the models of a zip in, all or none: each is read, and its network built, before it is put in its place.

    Cascades beside other models are left out, which a note says.

    Parameters
    ----------
    archive
        As nnU-Net's `nnUNetv2_export_model_to_zip` or `export` makes it.
    output
        Folder of models; each goes to `<data set>/<trainer>__<plans>__<configuration>` below.
    checkpoint
        Name of the weights that each must have, such as `checkpoint_best.pth`; the final ones unless given.

    Raises
    ------
    ConfigError
        If there is another model of that name already, or there are only cascades.
    DataError
        For a zip or a model that is not what it should be; nothing was put anywhere then.
    """
    from orchestrator.training.nnunet.model_folder import CascadeError, find_model_folders

    archive, output = Path(archive), Path(output)
    wanted = ModelSource(location=str(archive), checkpoint=checkpoint)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY_PREFIX}import-", dir=output) as temporary:
        left_out = unpack(archive, Path(temporary))
        found: list[tuple[ImportedModel, Path, Path]] = []
        cascades = []
        for folder in find_model_folders(Path(temporary)):
            # Of a zip of all results the folder of these is none of a model.
            target = output.joinpath(*folder.relative_to(temporary).parts[-2:] or (archive.stem,))
            if target.exists():
                raise ConfigError(f"{target}: there already; expected no model of that name. Remove it first")
            if target in [taken for *_, taken in found]:
                raise ConfigError(f"{archive}: two models {'/'.join(target.parts[-2:])}; expected one of a name")
            try:
                found.append((_checked(wanted, folder, target=target, left_out=left_out), folder, target))
            except CascadeError as error:
                cascades.append(error)
        if not found:
            raise cascades[0]
        for _, folder, target in found:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, target)
            Path(temporary).mkdir(exist_ok=True)  # where the zip has its files at the top
    first, *others = [model for model, _, _ in found]
    return [replace(first, notes=(*first.notes, *(f"left out: {error}" for error in cascades))), *others]


def _checked(wanted: ModelSource, folder: Path, *, target: Path, left_out: list[str]) -> ImportedModel:
    from orchestrator.training.nnunet.model_folder import CHECKPOINT, load_model_folder
    from orchestrator.training.nnunet.prediction import ready_predictor

    archive = Path(wanted.location)
    try:
        model = load_model_folder(folder, checkpoint=wanted.checkpoint or CHECKPOINT)
        ready_predictor(
            model.plan, model.weights, mirror_axes=(), tile_step_size=0.5, device="cpu", trainer_name=model.trainer
        )
    except ConfigError as error:
        raise type(error)(named(archive, folder, error)) from error
    except OrchestratorError as error:
        raise DataError(named(archive, folder, error)) from error
    return ImportedModel(
        folder=target,
        configuration=model.plan.configuration,
        folds=model.folds,
        left_out=tuple(left_out),
        notes=tuple(note.replace(str(folder), str(target)) for note in model.notes),
    )
