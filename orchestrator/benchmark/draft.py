"""The text of a study file for data sets in nnU-Net's raw layout: short enough to be read whole and changed by hand."""

import re
from collections.abc import Mapping, Sequence

from orchestrator.benchmark.folds import NNUNET_FOLDS, TEST_PART
from orchestrator.benchmark.raw_dataset import RawDataset
from orchestrator.configuration import yaml_line
from orchestrator.errors import ConfigError

MODELS: dict[str, dict[str, str]] = {
    "3d": {},
    "2d": {"configuration": "2d", "suffix": "-2d"},
    "lowres": {"configuration": "3d_lowres", "suffix": "-lowres"},
    "resenc-m": {"planner": "nnUNetPlannerResEncM", "suffix": "-resenc-m"},
    "resenc-l": {"planner": "nnUNetPlannerResEncL", "suffix": "-resenc-l"},
    "resenc-xl": {"planner": "nnUNetPlannerResEncXL", "suffix": "-resenc-xl"},
}
"""Short names of nnU-Net's models."""
_MOST_NAMED = 6
"""Structures with a tolerance of their own in the file; more have one for all."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def models_named(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return models by name: short names, or the names of nnU-Net's trainer classes; raises ConfigError."""
    found = {}
    for word in words:
        is_class = word.startswith("nnUNetTrainer") and word.isidentifier()
        if word not in MODELS and (not is_class or word == "nnUNetTrainer"):
            raise ConfigError(
                f"--model {word}: unknown; expected one of {', '.join(MODELS)}, or the name of a trainer of nnU-Net's "
                "such as nnUNetTrainerDiceLoss. Everything else is written into the study file by hand"
            )
        own = {"trainer": word, "suffix": f"-{word.removeprefix('nnUNetTrainer')}"}
        found[word] = own if is_class else MODELS[word]
    return found


def draft_study(datasets: Sequence[RawDataset], *, models: Mapping[str, Mapping[str, str]]) -> str:
    """Return a study file in which each data set is trained on nnU-Net's own folds, with each model.

    Raises ConfigError for a data set with a single case, which cannot be divided.
    """
    names = _names(datasets)
    lines = [f"title: {yaml_line(' and '.join(found.folder for found in datasets))}", "datasets:"]
    lines += [f"  {yaml_line(name)}: {yaml_line(_entry(found))}" for name, found in names.items()]
    lines += ["models:", *(f"  {yaml_line(name)}: {yaml_line(dict(model))}" for name, model in models.items())]
    lines += [
        "trainings:",
        *(f"  {yaml_line(name)}: {yaml_line(_training(name, found))}" for name, found in names.items()),
    ]
    return "\n".join(lines) + "\n"


def _names(datasets: Sequence[RawDataset]) -> dict[str, RawDataset]:
    """Return data sets by the name that each has in the study: that of its folder without the number."""
    found: dict[str, RawDataset] = {}
    for dataset in datasets:
        number, _, own = dataset.folder.partition("_")
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", own).strip("-_").lower() or number.lower()
        found[name if name not in found else f"{name}-{number.removeprefix('Dataset')}"] = dataset
    return found


def _entry(found: RawDataset) -> dict[str, object]:
    if len(found.cases) < 2:
        raise ConfigError(f"{found.folder}: {len(found.cases)} cases with a label map; expected two or more for folds")
    folds: object = "nnunet"
    if len(found.cases) < NNUNET_FOLDS.number:
        folds = {"number": len(found.cases)}
    tolerances: object = 1.0
    if len(found.labels) <= _MOST_NAMED:
        tolerances = dict.fromkeys(found.labels, 1.0)
    # The number is enough, also for a folder whose name has a space.
    folder = found.folder if _NAME.fullmatch(found.folder) else found.folder.partition("_")[0]
    return {"nnunet": folder, "folds": folds, "tolerance_mm": tolerances}


def _training(name: str, found: RawDataset) -> dict[str, object]:
    tested = {"test": {"test": f"{name}/{TEST_PART}"}} if found.test_cases else {}
    return {"train": [f"{name}/other-folds"], "val": [f"{name}/fold"], **tested}
