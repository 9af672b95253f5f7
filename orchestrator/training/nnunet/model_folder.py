"""Trained models in nnU-Net's own layout: plans, description of the data set, a checkpoint for each fold."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from orchestrator.errors import ConfigError, DataError, IntegrityError
from orchestrator.storage.json_values import JsonObject
from orchestrator.training.nnunet.classes import DEFAULT_TRAINER, is_known_trainer, nnunet_package
from orchestrator.training.nnunet.foreign_weights import load_weights
from orchestrator.training.nnunet.networks import ForeignNetworkError, in_present_words
from orchestrator.training.nnunet.planning import Plan

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

CHECKPOINT = "checkpoint_final.pth"
_MOST_JSON_BYTES = 64 * 2**20
_NEEDED = ("network_weights", "init_args", "trainer_name")


class CascadeError(ConfigError):
    """A model that refines the predictions of another one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NetworkModel:
    """What a trained nnU-Net predicts with."""

    plan: Plan
    """Plans, description of the data set, configuration."""
    folds: tuple[str, ...]
    """Names of the networks whose predictions are averaged."""
    weights: tuple[dict[str, torch.Tensor], ...]
    """Of each of them."""
    mirror_axes: tuple[int, ...]
    """Axes of a window along which predictions may be mirrored."""
    trainer: str
    """Name of nnU-Net's class that has trained it, and builds its network."""
    sha256: str
    """Digest of the files that it was read from."""
    train_cases: tuple[str, ...] = ()
    """Identifiers of the cases that it was trained on, where they are known."""
    notes: tuple[str, ...] = ()
    """What was taken for granted."""


def find_model_folders(location: Path) -> list[Path]:
    """Return the folders of trained models, this one or those up to three folders below.

    nnU-Net leaves plans in the folders of its evaluations, too (`crossval_results_folds_*`, `ensembles`): beside those
    with folds, folders without any are none.
    """
    patterns = [f"{'*/' * depth}plans.json" for depth in range(4)]
    found = sorted(path.parent for pattern in patterns for path in location.glob(pattern))
    return [folder for folder in found if any(folder.glob("fold_*"))] or found


def find_model_folder(location: Path, *, name: str | None = None) -> Path:
    """Return the folder of a trained model: this one, or the only one below it, or that of a name or place below it.

    Raises ConfigError that lists them if there are several, or says what is missing.
    """
    found = find_model_folders(location)
    if not found:
        raise ConfigError(
            f"{location}: no plans.json; expected a trained model of nnU-Net, a folder such as "
            f"nnUNetTrainer__nnUNetPlans__3d_fullres with plans.json, dataset.json and fold_0/{CHECKPOINT}"
        )
    places = {path.relative_to(location).as_posix(): path for path in found}
    chosen = [path for place, path in places.items() if name is None or f"/{place}".endswith(f"/{name}")]
    if len(chosen) != 1:
        several = f"{len(chosen) or 'no'} trained models{'' if name is None else f' {name}'}"
        raise ConfigError(
            f"{location}: {several}; expected one of {', '.join(places)}. Add its name to that of the folder or zip, "
            "with a / between them"
        )
    return chosen[0]


def load_model_folder(folder: Path, *, folds: Sequence[str] = (), checkpoint: str = CHECKPOINT) -> NetworkModel:
    """Read a trained model.

    Parameters
    ----------
    folder
        With `plans.json`, `dataset.json` and `fold_<fold>/<checkpoint>`.
    folds
        Which of them; all that there are unless given, and `all` only if it is the only one.
    checkpoint
        Name of the files of weights.

    Raises
    ------
    ConfigError
        If there is no such fold; CascadeError if the model needs another one first.
    DataError
        If a file cannot be read, or would have to be executed for that.
    """
    chosen = _folds(folder, folds, checkpoint=checkpoint)
    digest = hashlib.sha256()
    plans, dataset_json = (_read_json(folder / name, digest) for name in ("plans.json", "dataset.json"))
    states = [_state(folder / f"fold_{fold}" / checkpoint) for fold in chosen]
    for fold in chosen:
        with (folder / f"fold_{fold}" / checkpoint).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    (configuration, *others) = dict.fromkeys(str(state["init_args"]["configuration"]) for state in states)
    if others:
        raise DataError(f"{folder}: folds of {configuration} and {', '.join(others)}; expected one configuration")
    first = states[0]
    try:
        plan = _checked(Plan(plans=plans, dataset_json=dataset_json, configuration=configuration))
        mirror_axes = tuple(map(int, first.get("inference_allowed_mirroring_axes") or ()))
    except (IntegrityError, LookupError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise DataError(f"{folder}: {error}") from error
    trainer = str(first["trainer_name"])
    is_known = is_known_trainer(trainer)
    return NetworkModel(
        plan=plan,
        folds=tuple(chosen),
        weights=tuple(state["network_weights"] for state in states),
        mirror_axes=mirror_axes,
        trainer=trainer if is_known else DEFAULT_TRAINER,
        sha256=digest.hexdigest(),
        notes=(*_unfinished(folder, folds, checkpoint=checkpoint), *(() if is_known else (_note_on(trainer, folder),))),
    )


def _checked(plan: Plan) -> Plan:
    """Return the plans of a model of others in the words of nnU-Net's present version, if it can be predicted with."""
    try:
        plan = Plan.from_bytes(plan.to_bytes())
    except ForeignNetworkError as error:
        raise IntegrityError(
            f"{error}. nnU-Net's own nnUNetv2_predict imports it, where it is installed: only do that if you trust who "
            "made it"
        ) from error
    plan = replace(plan, plans=in_present_words(plan.plans, plan.configuration))
    check_configuration(plan)
    return plan


def labels_of_structures(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Return the labels of each structure of a model; those of a region are several."""
    named = plan.dataset_json["labels"].items()
    labels = {
        name: tuple(map(int, value)) if isinstance(value, list | tuple) else (int(value),) for name, value in named
    }
    return {name: values for name, values in labels.items() if name != "ignore" and set(values) != {0}}


def check_configuration(plan: Plan) -> None:
    """Raise CascadeError for a model that cannot predict by itself, DataError for plans that name what there is not."""
    configuration = plan.configuration_manager
    if configuration.previous_stage_name is not None:
        raise CascadeError(
            f"{plan.configuration} refines the predictions of {configuration.previous_stage_name}, a cascade, which is "
            "not offered; expected a model of 2d, 3d_lowres or 3d_fullres"
        )
    parts = {
        "preprocessor_name": configuration.preprocessor_class,
        "image_reader_writer": plan.plans_manager.image_reader_writer_class,
        "label_manager": plan.label_manager,
        **{f"resampling_fn_{kind}": _resampling(configuration, kind) for kind in ("data", "seg", "probabilities")},
        "normalization_schemes": _normalisations(configuration),
    }
    for name, found in parts.items():
        if found is None:
            value = plan.plans.get(name, configuration.configuration.get(name))
            raise DataError(f"plans.json: {name} is {value}; expected what nnU-Net has. Install what it is part of")


def _resampling(configuration: "ConfigurationManager", kind: str) -> object:
    """Return a function of nnU-Net's; None if it has none of that name that takes the arguments of the plans."""
    named = configuration.configuration
    found = _part_of_preprocessing("resampling", named[f"resampling_fn_{kind}"])
    try:
        # Data, new shape, current and new spacing.
        inspect.signature(found).bind(*range(4), **named[f"resampling_fn_{kind}_kwargs"])  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found


def _normalisations(configuration: "ConfigurationManager") -> object:
    """Return nnU-Net's classes for the channels; None if it lacks one of them."""
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization

    found = [_part_of_preprocessing("normalization", scheme) for scheme in configuration.normalization_schemes]
    return found if all(isinstance(one, type) and issubclass(one, ImageNormalization) for one in found) else None


def _part_of_preprocessing(package: str, name: str) -> object:
    """Return what nnU-Net finds by a name in a package of its preprocessing; None if there is nothing."""
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    module = f"nnunetv2.preprocessing.{package}"
    return recursive_find_python_class(str(nnunet_package() / "preprocessing" / package), name, module)


def _note_on(trainer: str, folder: Path) -> str:
    return (
        f"{folder}: trained by {trainer}, which is not installed: its network is taken for the one that the plans "
        "describe, as its weights fit there"
    )


def _folds(folder: Path, folds: Sequence[str], *, checkpoint: str) -> list[str]:
    there = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}"))
    if not folds:
        numbered = [fold for fold in there if fold != "all"]
        folds = numbered or there
    if missing := [fold for fold in folds if fold not in there]:
        raise ConfigError(
            f"{folder}: no fold {', '.join(missing)} with {checkpoint}; there is {', '.join(there) or 'none'}"
        )
    if not folds:
        others = "".join(
            f". There is {name} of fold {', '.join(found)}: --checkpoint names it"
            for name, found in _other_checkpoints(folder, checkpoint=checkpoint).items()
        )
        raise ConfigError(f"{folder}: no fold_*/{checkpoint}; expected at least one{others}")
    return list(folds)


def _unfinished(folder: Path, folds: Sequence[str], *, checkpoint: str) -> list[str]:
    """Return a note for checkpoints of folds that were not asked for, and would have been taken."""
    return (
        []
        if folds
        else [
            f"{folder}: left out: fold {', '.join(found)}, which has {name} and no {checkpoint}"
            for name, found in _other_checkpoints(folder, checkpoint=checkpoint).items()
        ]
    )


def _other_checkpoints(folder: Path, *, checkpoint: str) -> dict[str, list[str]]:
    """Return the folds that have other checkpoints alone, by their names."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("fold_*/checkpoint_*.pth")):
        if not path.with_name(checkpoint).exists():
            found.setdefault(path.name, []).append(path.parent.name.removeprefix("fold_"))
    return found


def _read_json(path: Path, digest: "hashlib._Hash") -> JsonObject:
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; expected at most {_MOST_JSON_BYTES}")
        content = path.read_bytes()
        digest.update(hashlib.sha256(content).digest())
        read = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected JSON of nnU-Net") from error
    if not isinstance(read, dict):
        raise DataError(f"{path}: holds a {type(read).__name__}; expected an object")
    return read


def _state(path: Path) -> JsonObject:
    state = load_weights(path)
    if missing := [key for key in _NEEDED if key not in state]:
        raise DataError(f"{path}: without {', '.join(missing)}; expected a checkpoint of nnU-Net 2")
    weights, arguments = state["network_weights"], state["init_args"]
    is_whole = isinstance(weights, dict) and all(isinstance(value, torch.Tensor) for value in weights.values())
    if not is_whole or not isinstance(arguments, dict) or "configuration" not in arguments:
        raise DataError(f"{path}: not laid out as nnU-Net does; expected tensors by name and the configuration")
    return state
