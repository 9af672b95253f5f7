"""The parts of `bench.gpu_check`, each run in a process of its own."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.instruments.machine import resident_gib
from bench.instruments.stock_models import labels_of, small_plans, write_model

ARMS = ("nnU-Net", "ours")
_SPACING = (1.0, 0.8, 0.8)
_NETWORK_SPACING = (1.5, 0.9, 0.9)
_STAGES = 6
_MOST_FEATURES = 320


def write_network(folder: Path, *, patch: int, features: int, num_classes: int) -> None:
    """Write a model of nnU-Net's usual shape with random weights below a folder."""
    stages = min(_STAGES, max(2, patch.bit_length() - 3))
    widths = [min(_MOST_FEATURES, features * 2**stage) for stage in range(stages)]
    plans = small_plans(patch=(patch,) * 3, spacing=_NETWORK_SPACING, features=widths)
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments["n_conv_per_stage"], arguments["n_conv_per_stage_decoder"] = [2] * stages, [2] * (stages - 1)
    write_model(folder / "model", plans, labels=labels_of(num_classes))


def predict_with(arm: str, folder: Path, *, shape: Sequence[int], device: str) -> dict[str, Any]:
    """Predict a CT of smooth bodies with one arm; its labels are kept in a file."""
    from orchestrator.training.nnunet.model_folder import load_model_folder
    from orchestrator.training.nnunet.prediction import ready_predictor

    (path,) = (folder / "model").glob("*/*")
    model = load_model_folder(path)
    predictor = ready_predictor(model.plan, model.weights, mirror_axes=(), tile_step_size=0.5, device=device)
    # Kernels are compiled or loaded, and convolutions chosen, at the first call.
    _labels(arm, predictor, _scan([size // 4 for size in shape]))
    image = _scan(shape)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start_s = time.monotonic()
    labels = _labels(arm, predictor, image)
    elapsed_s = time.monotonic() - start_s
    np.save(folder / f"{arm}.npy", labels)
    return {
        "seconds": round(elapsed_s, 2),
        "gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3) if device == "cuda" else None,
        "host_gib": round(resident_gib(most=True), 3),
    }


def _labels(arm: str, predictor: Any, image: np.ndarray) -> np.ndarray:
    from orchestrator.training.nnunet.prepared_image import prepare_image

    properties: dict[str, Any] = {"spacing": _SPACING}
    if arm == "ours":
        return predictor.labels(prepare_image(image, properties, predictor.plan))
    return _stock(predictor, image, properties)


def _stock(predictor: Any, image: np.ndarray, properties: dict[str, Any]) -> np.ndarray:
    """Predict as nnU-Net's command does, without its readers."""
    from orchestrator.training.nnunet.prepared_image import PreparedImage
    from orchestrator.training.nnunet.stock_export import stock_labels

    plan, inner = predictor.plan, predictor._predictor  # noqa: SLF001
    preprocessor = plan.configuration_manager.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case_npy(
        image, None, properties, plan.plans_manager, plan.configuration_manager, plan.dataset_json
    )
    return stock_labels(inner, PreparedImage(data=data, properties=properties, sample=image[:, :1], sample_step=1))


def _scan(shape: Sequence[int]) -> np.ndarray:
    """Return an image of smooth bodies of about 60 mm, shape (1, Z, Y, X)."""
    from scipy import ndimage

    coarse = [2 + int(size * step / 60) for size, step in zip(shape, _SPACING, strict=True)]
    field = np.random.default_rng(0).standard_normal(coarse).astype(np.float32)
    factors = [size / num for size, num in zip(shape, coarse, strict=True)]
    voxels = ndimage.zoom(field, factors, order=1, mode="nearest", grid_mode=True)
    return np.round(voxels * 300 - 200).astype(np.float32)[None]


def train_with_checkpoints(
    folder: Path, where: Path, *, preset: str, num_workers: int, iterations: int, device: str
) -> dict[str, Any]:
    """Train with a checkpoint after each epoch, from the last one if there is any."""
    from bench.feed.gpu import NUM_EPOCHS
    from orchestrator.benchmark.presets import find_preset
    from orchestrator.storage.filesystem import open_storage
    from orchestrator.training import trainer
    from orchestrator.training.checkpoint import CheckpointStore
    from orchestrator.training.nnunet.planning import Plan
    from orchestrator.training.reports import EpochReport, Milestone, TrainingListener

    seen: list[EpochReport] = []
    begun: list[Milestone] = []
    settings = trainer.TrainingSettings(
        plan=Plan.from_bytes((folder / "plan.json").read_bytes()),
        preset=replace(
            find_preset(preset),
            num_epochs=NUM_EPOCHS + 2,
            num_iterations_per_epoch=iterations,
            num_val_iterations_per_epoch=1,
            checkpoint_every_s=0.0,
        ),
        training_id="killed",
        train_cases=tuple(sorted(path.stem for path in (folder / "ours").glob("*.arrow"))),
        val_cases=(),
        patches=folder / "ours",
        seed=1,
        device=device,
        num_loader_workers=num_workers,
    )
    listener = TrainingListener(on_epoch=seen.append, on_milestone=begun.append)
    store = CheckpointStore(open_storage(str(where)), training_id="killed")
    trainer.train(settings, checkpoint=store, log=lambda _: None, listener=listener)
    return {
        "went_on_at_epoch": begun[0].epoch,
        "went_on_at_iteration": begun[0].iteration,
        "load_seconds": round(begun[0].elapsed_s, 3),
        "epochs": len(seen),
        "seconds_of_an_epoch": [round(one.elapsed_s, 2) for one in seen],
    }
