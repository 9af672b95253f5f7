"""A phantom subtask in miniature, on disk: the lungs of small generated patients, and nnU-Net's plan for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from kernels import dice
from orchestrator.benchmark.definition import LabelSet, Structure
from orchestrator.benchmark.presets import find_preset
from orchestrator.phantoms.anatomy import make_phantom
from orchestrator.phantoms.layouts import to_image
from orchestrator.phantoms.scanner import LOOKS
from orchestrator.training.nnunet.planning import Plan, fingerprint_case, make_plan
from orchestrator.training.nnunet.prediction import load_predictor

MINIATURE = find_preset("smoke")
LABELS = (1, 2)
NUM_TRAIN, NUM_TEST = 6, 4
_LUNGS = LabelSet(
    name="lung",
    structures=(
        Structure(name="left_lung", label=1, tolerance_mm=1.0),
        Structure(name="right_lung", label=2, tolerance_mm=1.0),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Miniature:
    """Cases of one folder."""

    folder: Path
    plan: Plan

    @property
    def train(self) -> list[str]:
        """Names of the training cases."""
        return [f"train_{index}" for index in range(NUM_TRAIN)]

    @property
    def test(self) -> list[str]:
        """Names of the test cases."""
        return [f"test_{index}" for index in range(NUM_TEST)]

    def paths(self, name: str) -> tuple[Path, Path]:
        """Return image and label map of a case."""
        return self.folder / f"{name}_0000.nii.gz", self.folder / f"{name}.nii.gz"

    @classmethod
    def open(cls, folder: Path) -> "Miniature":
        """Read the plan of a folder that `write` left."""
        return cls(folder=folder, plan=Plan.from_bytes((folder / "plan.json").read_bytes()))

    @classmethod
    def write(cls, folder: Path) -> "Miniature":
        """Generate the cases and plan them."""
        names = [f"train_{index}" for index in range(NUM_TRAIN)] + [f"test_{index}" for index in range(NUM_TEST)]
        fingerprints = []
        for seed, name in enumerate(names):
            phantom = make_phantom(seed=seed, look=LOOKS["structseg"], spacing_mm=MINIATURE.phantom_spacing_mm)
            image, labels = folder / f"{name}_0000.nii.gz", folder / f"{name}.nii.gz"
            for path, array in ((image, phantom.image), (labels, phantom.lungs)):
                sitk.WriteImage(to_image(array, phantom=phantom, scan_name=name), str(path))
            if name.startswith("train"):
                fingerprints.append(fingerprint_case([image], labels))
        plan = make_plan(
            fingerprints, label_set=_LUNGS, configuration="3d_fullres", preset=MINIATURE, donor=None, name="lungs"
        )
        (folder / "plan.json").write_bytes(plan.to_bytes())
        return cls(folder=folder, plan=plan)

    def mean_dice(self, weights: Mapping[str, Any], *, work: Path) -> float:
        """Return the Dice of a model, averaged over test cases and lungs."""
        state = {
            "origin": {"plan_sha256": self.plan.sha256},
            "network_weights": weights,
            "inference_allowed_mirroring_axes": MINIATURE.mirror_axes,
            "trainer_name": "nnUNetTrainer",
        }
        predictor = load_predictor(state, plan=self.plan, preset=MINIATURE, device="cpu")
        scores = []
        for name in self.test:
            image, labels = self.paths(name)
            predictor.predict([image], work / f"{name}.nii.gz")
            reference, prediction = (
                sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (labels, work / f"{name}.nii.gz")
            )
            scores += [dice(reference == label, prediction == label) for label in LABELS]
        return float(np.mean(scores))
