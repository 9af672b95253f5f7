"""One miniature training by plain nnU-Net, in a process of its own: its store, loader, transforms, trainer and files.

    python -m bench.feed.plain_nnunet CASES SEED

CASES is a folder that `bench.feed.trainings` wrote. Only what a miniature needs to learn at all is set from outside:
the length, the optimiser and the mirror axes of the preset `smoke`, and the split.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.feed.miniature_cases import MINIATURE, Miniature
from orchestrator.training.random_state import seed_everything


def main() -> None:
    """Preprocess and train."""
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="plain-") as work:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(Path(work) / name)
            Path(os.environ[name]).mkdir()
        seed_everything(seed)
        _train(Miniature.open(folder))


def _train(cases: Miniature) -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class MiniatureTrainer(nnUNetTrainer):  # type: ignore[misc]
        """nnU-Net's trainer with an optimiser that learns something in a few hundred iterations."""

        def configure_optimizers(self) -> Any:
            adamw = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=1e-2)
            return adamw, PolyLRScheduler(adamw, self.initial_lr, self.num_epochs)

        def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:  # noqa: N802 - nnU-Net's name
            rotation, dummy_2d, initial_patch_size, _ = (
                super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
            )
            self.inference_allowed_mirroring_axes = MINIATURE.mirror_axes
            return rotation, dummy_2d, initial_patch_size, MINIATURE.mirror_axes

    plan = cases.plan
    manager, configuration = plan.plans_manager, plan.configuration_manager
    base = Path(os.environ["nnUNet_preprocessed"]) / manager.dataset_name  # noqa: SIM112 - nnU-Net's name
    target = base / configuration.data_identifier
    target.mkdir(parents=True)
    for name in cases.train:
        image, labels = cases.paths(name)
        DefaultPreprocessor(verbose=False).run_case_save(
            str(target / name), [str(image)], str(labels), manager, configuration, plan.dataset_json
        )
    (base / "splits_final.json").write_text(json.dumps([{"train": cases.train, "val": cases.train}]))
    # Its trainer only copies the fingerprint to the results.
    (base / "dataset_fingerprint.json").write_text("{}")
    (base / "dataset.json").write_text(json.dumps(plan.dataset_json))
    (base / "nnUNetPlans.json").write_text(json.dumps(plan.plans))
    trainer = MiniatureTrainer(
        {**plan.plans, "continue_training": False}, plan.configuration, 0, plan.dataset_json, torch.device("cpu")
    )
    trainer.num_epochs, trainer.initial_lr = MINIATURE.num_epochs, MINIATURE.initial_learning_rate
    trainer.num_iterations_per_epoch = MINIATURE.num_iterations_per_epoch
    trainer.num_val_iterations_per_epoch = MINIATURE.num_val_iterations_per_epoch
    trainer.run_training()


if __name__ == "__main__":
    main()
