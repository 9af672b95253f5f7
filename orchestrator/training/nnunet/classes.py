"""Planners and trainers by name, as nnU-Net finds them: in its package, and trainers in folders of the user's own.

nnU-Net imports one module after the other until one has the name, and so fails where any of them does, as its Primus
trainers do beside a torchvision that does not match. Here the files are read as text, and only the one that defines the
class is imported; whether there is such a class is known without any import.
"""

import ast
import importlib
import importlib.util
import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.benchmark.definition import Model
from orchestrator.benchmark.presets import NNUNET_MEMORY_GIB
from orchestrator.configuration import expect_known
from orchestrator.errors import ConfigError
from orchestrator.storage.json_values import JsonMapping

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

DEFAULT_PLANNER, DEFAULT_TRAINER = "ExperimentPlanner", "nnUNetTrainer"
OWN_TRAINERS = "nnUNet_extTrainer"
"""Variable of the environment by which nnU-Net is told of folders with trainers of the user's own."""
_PLANNERS, _TRAINERS = "experiment_planning", "training/nnUNetTrainer"
NOT_THEIRS = frozenset(
    {
        *("do_split", "get_tr_and_val_datasets", "on_train_start", "run_training"),
        *("on_epoch_end", "on_train_end", "save_checkpoint"),
    }
)
"""Methods that a study never calls: what a trainer does in its own ones of these would be left out."""
_MEMORY_TARGET = "gpu_memory_target_in_gb"
"""Argument of nnU-Net's planners."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Definition:
    """Where a class is defined, and what its file says of it."""

    module: str
    folder: Path | None
    """To be searched by imports; None for nnU-Net's own package."""
    tree: ast.ClassDef | None
    """None for a name that something else than a class definition has."""


def check_models(models: Iterable[Model]) -> None:
    """Raise ConfigError with near names if nnU-Net would not find a planner or trainer, or no study trains with it.

    Nothing is imported.
    """
    for model, planner, trainer in dict.fromkeys((one.name, one.planner, one.trainer) for one in models):
        for name, default, kind, found in (
            (planner, DEFAULT_PLANNER, "planner", _planners),
            (trainer, DEFAULT_TRAINER, "trainer", _trainers),
        ):
            if name != default:
                _expect_known(name, found(), kind=kind, where=f"model {model}")
        refuse_methods(trainer, _own_methods(trainer) & NOT_THEIRS)


def refuse_methods(trainer: str, methods: Iterable[str]) -> None:
    """Raise ConfigError if a trainer has methods of its own that would never be called."""
    if own := sorted(methods):
        raise ConfigError(
            f"trainer {trainer}: has its own {', '.join(own)}, which would never be called: checkpoints, the split and "
            "the loop over epochs are this project's. Expected a trainer that changes loss, network, optimiser, "
            "augmentation or a step"
        )


def _own_methods(trainer: str) -> set[str]:
    """Return the methods that a trainer and those that it derives from define, nnU-Net's first one aside."""
    found: set[str] = set()
    seen, left, definitions = {DEFAULT_TRAINER}, [trainer], _trainers()
    while left:
        name = left.pop()
        definition = definitions.get(name)
        if name in seen or definition is None or definition.tree is None:
            continue
        seen.add(name)
        found |= {node.name for node in definition.tree.body if isinstance(node, ast.FunctionDef)}
        left += [base.id for base in definition.tree.bases if isinstance(base, ast.Name)]
    return found


def planned_memory_gib(models: Iterable[Model]) -> float:
    """Return the most memory that a planner of these models fills unless it is told otherwise."""
    return max(map(_planned_memory_gib, {model.planner for model in models}), default=NNUNET_MEMORY_GIB)


def _planned_memory_gib(planner: str) -> float:
    if planner == DEFAULT_PLANNER:
        return NNUNET_MEMORY_GIB
    definitions = _planners()
    name: str | None = planner
    while name is not None and name in definitions and (tree := definitions[name].tree) is not None:
        default = _default_of(tree, _MEMORY_TARGET)
        if default is not None:
            return default
        name = next((base.id for base in tree.bases if isinstance(base, ast.Name)), None)
    return NNUNET_MEMORY_GIB


def is_known_trainer(name: str) -> bool:
    """Whether nnU-Net finds a trainer of that name; nothing is imported."""
    return name == DEFAULT_TRAINER or name in _trainers()


def find_planner(name: str) -> type:
    """Return a planner class; raises ConfigError with near names if nnU-Net has none of that name."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    if name == DEFAULT_PLANNER:
        planner: type = ExperimentPlanner
        return planner
    return _find(name, _planners(), kind="planner", parent=ExperimentPlanner)


def find_trainer(name: str) -> "type[nnUNetTrainer]":
    """Return a trainer class; raises ConfigError with near names if nnU-Net finds none of that name."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    return nnUNetTrainer if name == DEFAULT_TRAINER else _find(name, _trainers(), kind="trainer", parent=nnUNetTrainer)


def network_for_prediction(
    trainer_name: str, plans_manager: "PlansManager", *, configuration: str, dataset_json: JsonMapping
) -> Any:
    """Return the network that a trainer builds, with random weights and a single output, as nnU-Net's predictor does.

    Raises ConfigError if nnU-Net does not find the trainer.
    """
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    manager = plans_manager.get_configuration(configuration)
    build = find_trainer(trainer_name).build_network_architecture
    if "plans_manager" in inspect.signature(build).parameters:
        given: tuple[object, ...] = (plans_manager, manager)
    else:
        given = (
            manager.network_arch_class_name,
            manager.network_arch_init_kwargs,
            manager.network_arch_init_kwargs_req_import,
        )
    num_channels = determine_num_input_channels(plans_manager, manager, dataset_json)
    num_heads = plans_manager.get_label_manager(dataset_json).num_segmentation_heads
    return build(*given, num_channels, num_heads, enable_deep_supervision=False)


def _find(name: str, definitions: Mapping[str, _Definition], *, kind: str, parent: type) -> type:
    _expect_known(name, definitions, kind=kind, where="nnU-Net")
    definition = definitions[name]
    try:
        module = _imported(definition)
    except Exception as error:  # a module may raise anything
        raise ConfigError(
            f"{kind} {name}: {definition.module} cannot be imported ({type(error).__name__}: {error}); expected a "
            "module whose packages are installed"
        ) from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, parent)):
        raise ConfigError(f"{kind} {name}: {definition.module} has no such class; expected one of {parent.__name__}")
    return found


def _imported(definition: _Definition) -> Any:
    if definition.folder is None:
        return importlib.import_module(definition.module)
    from nnunetv2.utilities.find_class_by_name import temporarily_cleanup_imports_from_path, temporarily_extend_syspath

    folder = str(definition.folder)
    with temporarily_extend_syspath(folder), temporarily_cleanup_imports_from_path(folder):
        return importlib.import_module(definition.module)


def _expect_known(name: str, definitions: Mapping[str, _Definition], *, kind: str, where: str) -> None:
    known = [each for each, definition in definitions.items() if definition.tree is not None]
    if name not in definitions:
        hint = f" (a folder with your own is named by {OWN_TRAINERS})" if kind == "trainer" else ""
        expect_known([name], known, where=f"{where}{hint}", what=kind)


@cache
def _planners() -> Mapping[str, _Definition]:
    return dict(
        _definitions(nnunet_package() / _PLANNERS, prefix=f"nnunetv2.{_PLANNERS.replace('/', '.')}", folder=None)
    )


def _trainers() -> Mapping[str, _Definition]:
    """Trainers of nnU-Net's package, then those of the user's own folders, which never hide one of the package."""
    found = dict(_bundled_trainers())
    for name in os.environ.get(OWN_TRAINERS, "").split(os.pathsep):
        folder = Path(name.strip())
        if name.strip() and folder.is_dir():
            found = {**dict(_definitions(folder, prefix="", folder=folder.absolute())), **found}
    return found


@cache
def _bundled_trainers() -> Mapping[str, _Definition]:
    return dict(
        _definitions(nnunet_package() / _TRAINERS, prefix=f"nnunetv2.{_TRAINERS.replace('/', '.')}", folder=None)
    )


def nnunet_package() -> Path:
    """Return the folder of nnU-Net's package, without an import of it."""
    spec = importlib.util.find_spec("nnunetv2")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("nnU-Net is not installed; expected the package nnunetv2 of this project's dependencies")
    return Path(spec.submodule_search_locations[0])


def _definitions(root: Path, *, prefix: str, folder: Path | None) -> Iterator[tuple[str, _Definition]]:
    """Yield what the modules below a folder define by their names; what nnU-Net would find first comes last."""
    for path in reversed(_modules(root)):
        parts = [*filter(None, [prefix]), *path.relative_to(root).with_suffix("").parts]
        for name, tree in _names_in(path):
            yield name, _Definition(module=".".join(parts), folder=folder, tree=tree)


def _modules(folder: Path) -> list[Path]:
    """Return the modules of a folder in the order of nnU-Net's search: its own, then those of its packages."""
    entries = sorted(path for path in folder.iterdir() if path.stem.isidentifier())
    modules = [path for path in entries if path.suffix == ".py" and path.stem != "__init__"]
    packages = [path for path in entries if (path / "__init__.py").is_file()]
    return [*modules, *(module for package in packages for module in _modules(package))]


def _names_in(path: Path) -> Iterator[tuple[str, ast.ClassDef | None]]:
    """Yield the names that a module gives to classes, or to what may be one; none for what is no Python."""
    try:
        statements = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    while statements:
        match statements.pop(0):
            case ast.ClassDef() as found:
                yield found.name, found
            case ast.Assign(targets=targets):
                yield from ((target.id, None) for target in targets if isinstance(target, ast.Name))
            case ast.If(body=body, orelse=others) | ast.Try(body=body, orelse=others):
                statements += [*body, *others]


def _default_of(tree: ast.ClassDef, argument: str) -> float | None:
    """Return the default of an argument of a class's constructor, if it is a number."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            names = [one.arg for one in node.args.args]
            defaults = dict(zip(reversed(names), reversed(node.args.defaults), strict=False))
            value = defaults.get(argument)
            if isinstance(value, ast.Constant) and isinstance(value.value, int | float):
                return float(value.value)
    return None
