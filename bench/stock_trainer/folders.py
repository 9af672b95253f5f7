"""Small data sets as nnU-Net has preprocessed them, and its trainers on them, for tests and the comparison of Dice."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from orchestrator.benchmark.definition import LabelSet, Structure
from orchestrator.benchmark.presets import find_preset
from orchestrator.training.nnunet.planning import Plan, fingerprint_case, make_plan

CASES = ("case_0", "case_1", "case_2", "case_3", "case_4")
SPLIT = {"train": list(CASES[:3]), "val": list(CASES[3:])}
RIM, CORE = (Structure(name=name, label=label, tolerance_mm=3.0) for name, label in (("rim", 1), ("core", 2)))
REGIONS = (
    Structure(name="whole", label=1, tolerance_mm=3.0, region=(1, 2)),
    Structure(name="core", label=2, tolerance_mm=3.0, region=(2,)),
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of data set."""

    channels: tuple[str, ...] = ("CT",)
    """Names of the images of a case, as nnU-Net has them."""
    configuration: str = "3d_fullres"
    """The one that is preprocessed."""
    structures: tuple[Structure, ...] = (RIM, CORE)
    """What is learned."""
    ignored: int | None = None
    """Label of voxels that nobody has annotated."""


KINDS = {
    "CT": Kind(),
    "two channels": Kind(channels=("T1", "T2")),
    "CT, 2d": Kind(configuration="2d"),
    "two channels, 2d": Kind(channels=("T1", "T2"), configuration="2d"),
    "regions": Kind(structures=REGIONS),
    "ignore label": Kind(ignored=3),
    "regions, ignore label": Kind(channels=("T1", "T2"), structures=REGIONS, ignored=3),
}


@dataclass(frozen=True, kw_only=True)
class StockFolder:
    """Where nnU-Net looks for a data set, and its plan."""

    root: Path
    """Above the folders that nnU-Net's variables name."""
    plan: Plan

    @property
    def base(self) -> Path:
        """Folder of the data set."""
        return self.root / "preprocessed" / self.plan.plans["dataset_name"]

    @property
    def cases(self) -> Path:
        """Folder of the preprocessed cases."""
        return self.base / self.plan.configuration_manager.data_identifier


def write_stock_folder(root: Path, kind: Kind) -> StockFolder:
    """Generate, plan and preprocess; a bright core in a less bright ball, other in each channel."""
    raw = root / "images"
    raw.mkdir(parents=True)
    files = [_write_case(raw, name, index, kind) for index, name in enumerate(CASES)]
    label_set = LabelSet(name="balls", structures=kind.structures, ignored_label=kind.ignored)
    plan = make_plan(
        [fingerprint_case(images, labels) for images, labels in files],
        label_set=label_set,
        configuration=kind.configuration,
        preset=replace(
            find_preset("smoke"),
            base_num_features=4,
            max_num_features=8,
            max_patch_voxels=16**3,
            num_convs_per_stage=None,
        ),
        donor=None,
        name="balls",
        channels=kind.channels,
    )
    folder = StockFolder(root=root, plan=plan)
    folder.cases.mkdir(parents=True)
    for name, (images, labels) in zip(CASES, files, strict=True):
        DefaultPreprocessor(verbose=False).run_case_save(
            str(folder.cases / name),
            [str(path) for path in images],
            str(labels),
            plan.plans_manager,
            plan.configuration_manager,
            plan.dataset_json,
        )
    (folder.base / "splits_final.json").write_text(json.dumps([SPLIT]))
    (folder.base / "dataset_fingerprint.json").write_text("{}")
    (folder.base / "dataset.json").write_text(json.dumps(plan.dataset_json))
    (folder.base / f"{plan.plans['plans_name']}.json").write_text(json.dumps(plan.plans))
    references = folder.base / "gt_segmentations"
    references.mkdir()
    for name, (_, labels) in zip(CASES, files, strict=True):
        os.link(labels, references / f"{name}.nii.gz")
    return folder


def _write_case(folder: Path, name: str, index: int, kind: Kind) -> tuple[list[Path], Path]:
    random = np.random.default_rng(index)
    shape = (24, 32 + index, 36)
    z, y, x = np.ogrid[tuple(slice(0, size) for size in shape)]
    distance = ((z - 12) / 7) ** 2 + ((y - 14 - index) / 9) ** 2 + ((x - 15 - index) / 9) ** 2
    labels = (distance < 1).astype(np.uint8) + (distance < 0.4)
    images = []
    for channel in range(len(kind.channels)):
        array = np.choose(labels, [-600, 100 * channel, 600]) + random.integers(-50, 50, shape)
        array[:, :3] = 0  # what nnU-Net may crop
        images.append(folder / f"{name}_{channel:04}.nii.gz")
        _write(images[-1], array.astype(np.int16))
    if kind.ignored:
        labels[:8] = kind.ignored
    path = folder / f"{name}.nii.gz"
    _write(path, labels)
    return images, path


def _write(path: Path, array: np.ndarray) -> None:
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing((6.0, 6.5, 7.0))
    sitk.WriteImage(volume, str(path))


def made_trainer(
    kind: type, folder: StockFolder, *, continues: bool = False, fold: int | str = 0, **changes: Any
) -> Any:
    """Return a trainer as nnUNetv2_train makes it, in miniature."""
    plans = Plan.from_bytes(folder.plan.to_bytes()).plans | {"continue_training": continues}
    trainer = kind(plans, folder.plan.configuration, fold, folder.plan.dataset_json, torch.device("cpu"))
    sizes = {"num_epochs": 2, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 2}
    for name, value in {**sizes, **changes}.items():
        setattr(trainer, name, value)
    return trainer
