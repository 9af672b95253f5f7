"""nnU-Net's planners, run in a folder of their own within the limits of a preset."""

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.benchmark.presets import Preset
from orchestrator.errors import ConfigError
from orchestrator.storage.json_values import JsonObject
from orchestrator.training.nnunet.classes import find_planner
from orchestrator.training.nnunet.environment import prints_to_log

if TYPE_CHECKING:
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

_planner_lock = threading.Lock()


def run_planner(
    folder: Path, name: str, *, planner: str, fingerprint: JsonObject, dataset_json: JsonObject, preset: Preset
) -> JsonObject:
    """Lay out what a planner of nnU-Net's reads, run it, and return its plans as JSON has them.

    Raises ConfigError if nnU-Net has no planner of that name.
    """
    planner_class = find_planner(planner)
    dataset_name = f"Dataset001_{name}"
    raw, preprocessed = folder / "raw" / dataset_name, folder / "preprocessed" / dataset_name
    raw.mkdir(parents=True)
    preprocessed.mkdir(parents=True)
    # The reader is named, so the planner opens no image; it only wants the list of them not to be empty.
    described = {
        **dataset_json,
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
    }
    (raw / "dataset.json").write_text(json.dumps(described))
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    with _planner_lock, _planner_folders(planner_class, folder), prints_to_log():
        made = _new_planner(planner_class, dataset_name, preset=preset)
        made.plan_experiment()
    plans: JsonObject = json.loads((preprocessed / f"{made.plans_identifier}.json").read_text())
    return plans


@contextlib.contextmanager
def _planner_folders(planner: type, folder: Path) -> Iterator[None]:
    """Point the modules of a planner to a folder, and keep it from starting `hostname` and changing torch's threads."""
    import torch

    replaced = {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "get_allowed_n_proc_DA": torch.get_num_threads,
    }
    modules = {sys.modules[one.__module__] for one in planner.__mro__}
    kept = [(module, key, getattr(module, key)) for module in modules for key in replaced if hasattr(module, key)]
    try:
        for module, key, _ in kept:
            setattr(module, key, replaced[key])
        yield
    finally:
        for module, key, value in kept:
            setattr(module, key, value)


def _new_planner(planner_class: type, dataset_name: str, *, preset: Preset) -> "ExperimentPlanner":
    """Make a planner of nnU-Net's with the preset's limits."""
    planner: ExperimentPlanner = planner_class(dataset_name)
    if preset.gpu_memory_gib is not None:
        # Given to the constructor, planners that mean a kind of GPU warn of another memory.
        planner.UNet_vram_target_GB = preset.gpu_memory_gib
    if preset.base_num_features is not None:
        planner.UNet_base_num_features = preset.base_num_features
    if preset.max_num_features is not None:
        planner.UNet_max_features_2d = planner.UNet_max_features_3d = preset.max_num_features
    if preset.num_convs_per_stage is not None:
        for name in ("UNet_blocks_per_stage_encoder", "UNet_blocks_per_stage_decoder"):
            setattr(planner, name, tuple(preset.num_convs_per_stage for _ in getattr(planner, name)))
    if preset.max_patch_voxels is not None:
        planner.static_estimate_VRAM_usage = _limited(planner.static_estimate_VRAM_usage, preset=preset)
    return planner


def _limited(estimate: Callable[..., float], *, preset: Preset) -> Callable[..., float]:
    """Estimate of the memory that no GPU has for a patch above the preset's limit: the planner shrinks it further."""
    limit = preset.max_patch_voxels
    assert limit is not None

    def estimate_or_refuse(patch_size: Sequence[int], *arguments: object) -> float:
        if min(patch_size) < 1:
            raise ConfigError(f"preset {preset.name}: max_patch_voxels {limit} leaves no patch; expected a larger one")
        return 1e30 if np.prod(patch_size) > limit else float(estimate(patch_size, *arguments))

    return estimate_or_refuse
