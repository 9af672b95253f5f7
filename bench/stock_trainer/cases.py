"""Data sets at full size in nnU-Net's preprocessed layout, and its trainers on them, stock and ours."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from bench.feed.cases import make_case, write_stock
from orchestrator.training.dropin.converting import Conversion, convert_all
from orchestrator.training.dropin.trainer import nnUNetTrainerOrchestrator
from orchestrator.training.nnunet.environment import prints_to_log

PATCH, BATCH_SIZE = (128, 128, 128), 2
CASES = ("case_0", "case_1", "case_2")
CONFIGURATION = "3d_fullres"
_STRIDES = [[1, 1, 1], *[[2, 2, 2]] * 5]
_RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class StockCases:
    """One data set on disk."""

    root: Path
    num_channels: int
    num_labels: int

    @property
    def title(self) -> str:
        """What it is, in words."""
        return f"{'CT' if self.num_channels == 1 else f'{self.num_channels} channels'}, {self.num_labels} labels"

    @property
    def base(self) -> Path:
        """Folder of the data set."""
        return self.root / "preprocessed" / "Dataset001_bench"

    @property
    def folder(self) -> Path:
        """Of nnU-Net's files; patch files lie in it."""
        return self.base / f"nnUNetPlans_{CONFIGURATION}"

    def set_environment(self, *, num_workers: int) -> None:
        """Let nnU-Net find the data set, and load with so many processes or threads."""
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(self.root / name)
        os.environ["nnUNet_n_proc_DA"] = str(num_workers)  # noqa: SIM112 - nnU-Net's name

    def write(self, *, num_slices: int, size: int) -> None:
        """Generate the cases and write them as nnU-Net's preprocessing does."""
        self.folder.mkdir(parents=True)
        for seed, name in enumerate(CASES):
            case = make_case(num_slices=num_slices, size=size, num_labels=self.num_labels, window="wide", seed=seed)
            further = [case.data * np.float32(0.5) ** channel for channel in range(1, self.num_channels)]
            whole = replace(case, data=np.concatenate([case.data, *further]))
            write_stock(whole, self.folder / name, patch=PATCH)
        (self.base / "splits_final.json").write_text(json.dumps([{"train": CASES, "val": CASES}]))
        (self.base / "dataset_fingerprint.json").write_text("{}")

    def convert(self, *, lossless: bool) -> None:
        """Write patch files beside nnU-Net's."""
        conversion = Conversion(
            configuration=CONFIGURATION,
            folder=self.folder,
            precision="lossless" if lossless else "quantised",
            patch_shape=PATCH,
            target="patches",
        )
        failed = convert_all([conversion], num_threads=2, on_case=lambda *_: None)[CONFIGURATION].failed
        assert not failed, failed

    def trainer(self, kind: type) -> Any:
        """Return a trainer that can make batches; no network is built."""
        labels = {"background": 0, **{f"label {label}": label for label in range(1, self.num_labels + 1)}}
        described = {"channel_names": {str(i): "CT" for i in range(self.num_channels)}, "labels": labels}
        described |= {"numTraining": len(CASES), "file_ending": ".nii.gz"}
        trainer = kind({**self._plans(), "continue_training": False}, CONFIGURATION, 0, described, torch.device("cpu"))
        if kind is nnUNetTrainerOrchestrator:
            trainer._choose_files()  # noqa: SLF001 - what it does first when it is initialised
        trainer._set_batch_size_and_oversample()  # noqa: SLF001 - as above
        trainer.dataset_class = infer_dataset_class(trainer.preprocessed_dataset_folder)
        return trainer

    def _plans(self) -> dict[str, Any]:
        kernels = {"op": "torch.nn.modules.conv.Conv3d"}
        return {
            "dataset_name": "Dataset001_bench",
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": [1.0, 0.8, 0.8],
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {},
            "configurations": {
                CONFIGURATION: {
                    "data_identifier": self.folder.name,
                    "preprocessor_name": "DefaultPreprocessor",
                    "batch_size": BATCH_SIZE,
                    "patch_size": list(PATCH),
                    "spacing": [1.0, 0.8, 0.8],
                    "normalization_schemes": ["CTNormalization"] * self.num_channels,
                    "use_mask_for_norm": [False] * self.num_channels,
                    "resampling_fn_data_kwargs": _RESAMPLING,
                    "architecture": {
                        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                        "arch_kwargs": {"strides": _STRIDES, "conv_op": kernels["op"]},
                        "_kw_requires_import": ["conv_op"],
                    },
                    "batch_dice": False,
                }
            },
        }


def stock_loaders(cases: StockCases, *, num_workers: int) -> tuple[Any, Any]:
    """Return the loaders of nnU-Net's trainer."""
    cases.set_environment(num_workers=num_workers)
    with prints_to_log():
        loaders: tuple[Any, Any] = cases.trainer(nnUNetTrainer).get_dataloaders()
    return loaders


def our_loaders_of(cases: StockCases, *, num_workers: int) -> tuple[Any, Any]:
    """Return the loaders of our trainer: from patch files, if there are any."""
    cases.set_environment(num_workers=num_workers)
    with prints_to_log():
        loaders: tuple[Any, Any] = cases.trainer(nnUNetTrainerOrchestrator).get_dataloaders()
    return loaders
