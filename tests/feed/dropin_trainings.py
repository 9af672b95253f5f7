"""Trainings by the trainer that nnUNetv2_train finds, in miniature: as its command does them, stopped or by a clock."""

import itertools
from pathlib import Path

from tiny_training import let_nnunet_find

from bench.stock_trainer.folders import made_trainer
from orchestrator.training.dropin.checkpoint_file import read_checkpoint
from orchestrator.training.dropin.trainer import nnUNetTrainerOrchestrator

FINAL = "checkpoint_final.pth"


class Ticking(nnUNetTrainerOrchestrator):
    """By its clock, every look at the clock takes a second."""

    def __init__(self, plans, configuration, fold, dataset_json, device):
        ticks = itertools.count()
        self._clock = lambda: float(next(ticks))
        super().__init__(plans, configuration, fold, dataset_json, device)


class Asked(nnUNetTrainerOrchestrator):
    """Asked to stop after some iterations."""

    after = 10**9

    def _stop_reason(self):
        self.after -= 1
        return "" if self.after >= 0 else "its process received SIGTERM"


def trained(folder, results, monkeypatch, *, kind=nnUNetTrainerOrchestrator, continues="", **changes):
    """Train as nnUNetv2_train does, from the checkpoint of that name if there is one."""
    let_nnunet_find(folder, results, monkeypatch)
    trainer = made_trainer(kind, folder, continues=bool(continues), **changes)
    if continues:
        trainer.load_checkpoint(str(Path(trainer.output_folder) / continues))
    trainer.run_training()
    return trainer


def weights_of(trainer, name=FINAL):
    return read_checkpoint(Path(trainer.output_folder) / name)["network_weights"]


def log_of(trainer):
    return Path(trainer.log_file).read_text()
