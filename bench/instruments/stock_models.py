"""Small models in nnU-Net's own layout, written by torch as nnU-Net does, and images for them; tests use them too."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

DEFAULT_RESAMPLING = {
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}


def small_plans(
    *,
    patch: Sequence[int] = (8, 16, 16),
    spacing: Sequence[float] = (2.0, 1.5, 1.5),
    channels: Sequence[str] = ("CT",),
    transpose: Sequence[int] = (0, 1, 2),
    configuration: str = "3d_fullres",
    masks: bool = False,
    reader: str = "SimpleITKIO",
    features: Sequence[int] = (4, 6),
    **changes: Any,
) -> dict[str, Any]:
    """Return plans as nnU-Net's planner lays them out, with a network of a few features."""
    axes = len(patch)
    backward = [transpose.index(axis) for axis in range(3)]
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": len(features),
            "features_per_stage": list(features),
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [[3] * axes] * len(features),
            "strides": [[1] * axes, *[[2] * axes] * (len(features) - 1)],
            "n_conv_per_stage": [1] * len(features),
            "n_conv_per_stage_decoder": [1] * (len(features) - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    described = {
        "data_identifier": f"nnUNetPlans_{configuration}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": list(patch),
        "spacing": list(spacing),
        "normalization_schemes": ["CTNormalization" if name == "CT" else "ZScoreNormalization" for name in channels],
        "use_mask_for_norm": [masks] * len(channels),
        **DEFAULT_RESAMPLING,
        "architecture": architecture,
        "batch_dice": True,
        **changes,
    }
    statistics = {"mean": -200.0, "std": 300.0, "median": -200.0, "min": -1000.0, "max": 900.0}
    statistics |= {"percentile_00_5": -900.0, "percentile_99_5": 700.0}
    return {
        "dataset_name": "Dataset501_Small",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [20, 30, 30],
        "image_reader_writer": reader,
        "transpose_forward": list(transpose),
        "transpose_backward": backward,
        "configurations": {configuration: described},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(number): statistics for number in range(len(channels))},
    }


def labels_of(num_classes: int) -> dict[str, int]:
    """Return so many classes, background included, as dataset.json names them."""
    return {"background": 0, **{f"structure {label}": label for label in range(1, num_classes)}}


REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
"""With `regions_class_order` (1, 2, 3), as BraTS has them."""


def write_model(
    folder: Path,
    plans: dict[str, Any],
    *,
    labels: Mapping[str, Any],
    folds: Sequence[str] = ("0",),
    order: Sequence[int] | None = None,
    ending: str = ".nii.gz",
    mirror_axes: Sequence[int] | None = (0, 1, 2),
    gain: float = 4.0,
    **changes: Any,
) -> Path:
    """Write a trained model whose networks have random weights; returns its folder."""
    (configuration,) = plans["configurations"]
    described = {
        "channel_names": {str(n): name for n, name in enumerate(plans["foreground_intensity_properties_per_channel"])},
        "labels": labels,
        "numTraining": 3,
        "file_ending": ending,
        **({} if order is None else {"regions_class_order": list(order)}),
    }
    model = folder / "Dataset501_Small" / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    for number, fold in enumerate(folds):
        torch.manual_seed(number)
        (model / f"fold_{fold}").mkdir(parents=True)
        network = nnUNetTrainer.build_network_architecture(
            PlansManager(json.loads(json.dumps(plans))),
            PlansManager(plans).get_configuration(configuration),
            len(described["channel_names"]),
            PlansManager(plans).get_label_manager(described).num_segmentation_heads,
            enable_deep_supervision=False,
        )
        weights = network.state_dict()
        # Else the logits of an untrained network are nearly the same everywhere.
        weights = {name: gain * tensor if "seg_layers" in name else tensor for name, tensor in weights.items()}
        torch.save(
            {
                "network_weights": weights,
                "optimizer_state": {"state": {0: torch.zeros(3)}, "param_groups": [{"lr": 0.01}]},
                "grad_scaler_state": None,
                "logging": {"mean_fg_dice": [np.float64(0.5)], "lrs": [0.01], "dice": [[np.float32(0.25)]]},
                "_best_ema": np.float64(0.5),
                "current_epoch": 1,
                "init_args": {
                    "plans": plans,
                    "configuration": configuration,
                    "fold": fold,
                    "dataset_json": described,
                    "device": torch.device("cpu"),
                },
                "trainer_name": "nnUNetTrainer",
                "inference_allowed_mirroring_axes": mirror_axes,
                **changes,
            },
            model / f"fold_{fold}" / "checkpoint_final.pth",
        )
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(json.dumps(described))
    return model


def write_image(
    path: Path,
    *,
    shape: Sequence[int],
    spacing_xyz: Sequence[float] = (1.0, 1.1, 2.5),
    seed: int = 0,
    border: int = 0,
    num_channels: int = 1,
) -> list[Path]:
    """Write blobs in noise, perhaps with zeros around them, one file a channel; returns the files."""
    random = np.random.default_rng(seed)
    files = []
    for channel in range(num_channels):
        field = random.standard_normal(shape)
        for axis, size in enumerate(shape):
            kernel = np.hanning(min(9, size) + 2)[1:-1] if size > 1 else np.ones(1)
            field = np.apply_along_axis(np.convolve, axis, field, kernel / np.linalg.norm(kernel), mode="same")
        voxels = (field * 400 - 200).astype(np.int16)
        voxels[voxels == 0] = 1
        if border:
            voxels[:, :border] = voxels[:, :, -border:] = 0
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(spacing_xyz)
        image.SetOrigin((-10.0, 20.0, 5.0))
        image.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
        files.append(path.with_name(f"{path.name}_{channel:04d}.nii.gz"))
        sitk.WriteImage(image, str(files[-1]))
    return files
