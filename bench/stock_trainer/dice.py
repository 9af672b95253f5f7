"""Whether our trainer for nnUNetv2_train learns as much as nnU-Net's: miniatures with the same seeds by both."""

import os
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy.stats import ttest_rel

from bench.stock_trainer.folders import CASES, KINDS, StockFolder, made_trainer, write_stock_folder
from kernels import dice
from orchestrator.training.dropin.trainer import nnUNetTrainerOrchestrator
from orchestrator.training.nnunet.environment import prints_to_log

LENGTH = {"num_epochs": 8, "num_iterations_per_epoch": 20, "num_val_iterations_per_epoch": 1}
LEARNING_RATE = 5e-3


class Miniature(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's trainer with an optimiser that learns something in a few hundred iterations."""

    def configure_optimizers(self) -> Any:
        """Return AdamW."""
        adamw = torch.optim.AdamW(self.network.parameters(), LEARNING_RATE, weight_decay=1e-2)
        return adamw, PolyLRScheduler(adamw, LEARNING_RATE, self.num_epochs)


class OurMiniature(nnUNetTrainerOrchestrator, Miniature):
    """Ours before it."""

    named = Miniature


def compare_dice(root: Path, *, num_seeds: int) -> str:
    """Return the mean Dice of each seed on cases of the fold that were left out, and how the trainers differ."""
    lines = []
    for number, name in enumerate(("CT", "two channels")):
        folder = write_stock_folder(root / str(number), KINDS[name])
        found = {kind: [_dice(kind, folder, seed) for seed in range(num_seeds)] for kind in (Miniature, OurMiniature)}
        stock, ours = found[Miniature], found[OurMiniature]
        each = ", ".join(f"{a:.3f} / {b:.3f}" for a, b in zip(stock, ours, strict=True))
        lines.append(
            f"{name}: mean Dice {statistics.fmean(stock):.4f} by nnU-Net's trainer, {statistics.fmean(ours):.4f} by "
            f"ours; {num_seeds} seeds: {each}; {difference_text(stock, ours)}"
        )
    return "\n".join(lines)


def difference_text(stock: Sequence[float], ours: Sequence[float]) -> str:
    """Say by how much our Dice differs, over seeds: what the interval does not exclude may still be so."""
    if len(stock) < 2:
        return f"ours - nnU-Net's {ours[0] - stock[0]:+.4f}; one pair says nothing of chance"
    tested = ttest_rel(ours, stock)
    lower, upper = tested.confidence_interval(0.95)
    mean = statistics.fmean(ours) - statistics.fmean(stock)
    return (
        f"ours - nnU-Net's {mean:+.4f}, 95 % interval {lower:+.4f} to {upper:+.4f} (paired t), p = {tested.pvalue:.2f}"
    )


def _dice(kind: type, folder: StockFolder, seed: int) -> float:
    """Train, and return the mean Dice of whole validation cases."""
    for name, place in (
        ("raw", "raw"),
        ("preprocessed", "preprocessed"),
        ("results", f"results_{kind.__name__}_{seed}"),
    ):
        os.environ[f"nnUNet_{name}"] = str(folder.root / place)
    os.environ |= {"nnUNet_n_proc_DA": "0", "ORCHESTRATOR_SEED": str(seed)}
    # nnU-Net's trainer has no seed of its own.
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net draws from the global generator
    torch.manual_seed(seed)
    with prints_to_log():
        trainer = made_trainer(kind, folder, disable_checkpointing=True, **LENGTH)
        trainer.logger.plot_progress_png = lambda *_: None
        trainer.run_training()
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        predictor.manual_initialization(
            *(trainer.network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json),
            *(kind.__name__, None),
        )
        trainer.set_deep_supervision_enabled(False)
        scores = []
        for case in CASES[3:]:
            data, seg, *_ = nnUNetDatasetBlosc2(str(folder.cases), [case]).load_case(case)
            found = predictor.predict_sliding_window_return_logits(torch.from_numpy(data[:])).argmax(0).numpy()
            scores += [dice(seg[:][0] == label, found == label) for label in (1, 2)]
    return statistics.fmean(scores)
