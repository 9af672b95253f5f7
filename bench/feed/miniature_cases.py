"""A phantom subtask in miniature, on disk: the lungs of small generated patients, and nnU-Net's plan for them."""

from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from orchestrator.benchmark.definition import LabelSet, Structure
from orchestrator.benchmark.presets import find_preset
from orchestrator.phantoms.anatomy import make_phantom
from orchestrator.phantoms.layouts import to_image
from orchestrator.phantoms.scanner import LOOKS
from orchestrator.training.nnunet.planning import Plan, fingerprint_case, make_plan

MINIATURE = find_preset("smoke")
NUM_TRAIN = 6
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
        fingerprints = []
        for seed in range(NUM_TRAIN):
            name = f"train_{seed}"
            phantom = make_phantom(seed=seed, look=LOOKS["structseg"], spacing_mm=MINIATURE.phantom_spacing_mm)
            image, labels = folder / f"{name}_0000.nii.gz", folder / f"{name}.nii.gz"
            for path, array in ((image, phantom.image), (labels, phantom.lungs)):
                sitk.WriteImage(to_image(array, phantom=phantom, scan_name=name), str(path))
            fingerprints.append(fingerprint_case([image], labels))
        plan = make_plan(
            fingerprints, label_set=_LUNGS, configuration="3d_fullres", preset=MINIATURE, donor=None, name="lungs"
        )
        (folder / "plan.json").write_bytes(plan.to_bytes())
        return cls(folder=folder, plan=plan)
