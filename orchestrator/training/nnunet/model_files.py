"""The files of a trained model in nnU-Net's own layout, as bytes that are the same every time."""

import io
import json

import torch

from orchestrator.storage.json_values import JsonMapping
from orchestrator.training.nnunet.model_folder import CHECKPOINT, NetworkModel


def model_files(model: NetworkModel, *, dataset: str, mirrors: bool) -> dict[str, bytes]:
    """Return name to content, below the folder of the model.

    Parameters
    ----------
    model
        Of one fold or several of the same plans, which become fold 0, 1, ...
    dataset
        `DatasetNNN_Name` that the plans shall name.
    mirrors
        Whether nnU-Net may mirror when it predicts, as it does by default along the axes of the training.
    """
    described = model.plan.dataset_json
    plans = {**model.plan.plans, "dataset_name": dataset, "plans_name": PLANS}
    files = {"plans.json": _json(plans), "dataset.json": _json(described)}
    for fold, weights in enumerate(model.weights):
        arguments = {
            "plans": plans,
            "configuration": model.plan.configuration,
            "fold": fold,
            "dataset_json": described,
        }
        state = {
            "network_weights": {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()},
            "init_args": arguments,
            "trainer_name": model.trainer,
            # nnU-Net cannot mirror along no axis at all.
            "inference_allowed_mirroring_axes": model.mirror_axes if mirrors and model.mirror_axes else None,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        files[f"fold_{fold}/{CHECKPOINT}"] = buffer.getvalue()
    return files


PLANS = "nnUNetPlans"
"""Name of plans that nnU-Net's commands expect unless they are told otherwise."""


def _json(content: JsonMapping) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
