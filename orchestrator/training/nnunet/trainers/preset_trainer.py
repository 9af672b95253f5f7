"""One training: nnU-Net's trainer with a preset's length, our checkpoints and our patch files.

Network, loss, mixed precision and the loop of an epoch are nnU-Net's. What differs beside what `exact_trainer.py` says:
the split is given, checkpoints are atomic and saved by time, whole validation cases are looked at where a preset says
so, and what predicts are the weights after the last epoch, unless a preset lets them be chosen by these looks.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from orchestrator.benchmark.definition import Structure
from orchestrator.benchmark.presets import Preset
from orchestrator.errors import TrainingError
from orchestrator.training.checkpoint import CheckpointStore, check_origin, fitting
from orchestrator.training.feed.case_folders import PatchFolder
from orchestrator.training.feed.patch_dataset import ArrowDataset
from orchestrator.training.nnunet.trainers.exact_trainer import ExactTrainer, FedCases
from orchestrator.training.nnunet.trainers.learning_curve import CurvePoint, CurveSettings
from orchestrator.training.nnunet.trainers.scheduled_settings import take_over_settings
from orchestrator.training.nnunet.trainers.structures import Structures
from orchestrator.training.nnunet.trainers.trainer_overrides import overridden
from orchestrator.training.nnunet.trainers.volumes import WholeCases
from orchestrator.training.plain_state import State
from orchestrator.training.random_state import random_state, seed_everything
from orchestrator.training.reports import EpochReport, Milestone, MilestoneKind, TrainingListener, TrainOutcome

ADAMW_WEIGHT_DECAY = 1e-2
_LENGTH = {"num_epochs": 1000, "num_iterations_per_epoch": 250, "num_val_iterations_per_epoch": 50}
"""Of a training, by nnU-Net's own trainer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """The cases of one training, and where its model comes from."""

    patches: Path
    """Folder of `<identifier>.arrow`."""
    train: tuple[str, ...]
    """Identifiers of the training cases."""
    monitoring: tuple[str, ...]
    """Identifiers of the cases whose patch Dice is shown."""
    origin: State
    """What a checkpoint must have in common with a training that goes on from it."""
    validation: tuple[str, ...] = ()
    """Identifiers of cases that may be looked at as a whole: those of monitoring, if none is trained on."""
    structures: tuple[Structure, ...] = ()
    """What is scored of them."""


class PresetTrainer(ExactTrainer):
    """nnU-Net's trainer for one preset; `named_trainers.py` puts it before any other trainer class."""

    def configure(self, *, training_id: str, preset: Preset, data: TrainingData, log: Callable[[str], None]) -> None:
        """Take over the preset and the cases; to be called before anything is built."""
        self._training_id = training_id
        self._preset = preset
        self._data = data
        self._log = log
        self._plans = deepcopy(self.plans_manager.plans)  # as they were given: trainers may change them
        self._take_over(preset)
        self.preprocessed_dataset_folder = str(data.patches)
        self.checkpoint_every_s = preset.checkpoint_every_s
        self.outcome: TrainOutcome | None = None
        self._whole_cases: WholeCases | None = None
        self._best: State | None = None
        """Weights of the best epoch so far, if the preset chooses them."""
        self._begin()

    def _take_over(self, preset: Preset) -> None:
        """Set what the preset sets, and say what of the trainer's own it takes the place of."""
        for name, nnunets in _LENGTH.items():
            own, wanted = getattr(self, name), getattr(preset, name)
            if own not in {nnunets, wanted}:
                self._log(f"{name} of {self.named.__name__} is {own}; preset {preset.name} makes it {wanted}")
            setattr(self, name, wanted)
        if preset.initial_learning_rate is not None:
            self.initial_lr = preset.initial_learning_rate
        if preset.oversample_foreground is not None:
            self.oversample_foreground_percent = preset.oversample_foreground
        if preset.optimizer == "adamw" and overridden(self.named, ["configure_optimizers"]):
            self._log(f"preset {preset.name} trains with AdamW, and not with the optimiser of {self.named.__name__}")

    def attach(self, *, checkpoint: CheckpointStore, listener: TrainingListener, clock: Callable[[], float]) -> None:
        """Say where checkpoints go, who is told and may stop it; to be called before `run_training`."""
        self._checkpoint = checkpoint
        self._listener = listener
        self._clock = clock

    def print_to_log_file(
        self,
        *args: object,
        also_print_to_console: bool = True,  # noqa: ARG002 - nnU-Net's signature
        add_timestamp: bool = True,
    ) -> None:
        """Write a line of nnU-Net's to our log."""
        text = " ".join(str(arg) for arg in args).strip()
        if text:
            self._log(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ ', time.gmtime()) if add_timestamp else ''}{text}")

    def configure_optimizers(self, *stage: object, **named_stage: object) -> tuple[torch.optim.Optimizer, Any]:
        """Return the trainer's optimiser, or AdamW where a preset is too short for SGD with momentum 0.99.

        Trainers of several stages ask for that of each.
        """
        if self._preset.optimizer == "nnunet":
            optimizer, scheduler = super().configure_optimizers(*stage, **named_stage)
            return optimizer, scheduler
        if self.optimizer is not None:
            return self.optimizer, self.lr_scheduler
        adamw = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=ADAMW_WEIGHT_DECAY)
        return adamw, PolyLRScheduler(adamw, self.initial_lr, self.num_epochs)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:  # noqa: N802 - nnU-Net's name
        """Return the trainer's choice, with those of its mirror axes alone that the preset has."""
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if self._preset.mirror_axes is not None:
            # A preset names axes of (z, y, x); the 2d network sees (y, x).
            shift = 3 - len(self.configuration_manager.patch_size)
            wanted = {axis - shift for axis in self._preset.mirror_axes if axis >= shift}
            mirror_axes = tuple(axis for axis in mirror_axes or () if axis in wanted)
            self.inference_allowed_mirroring_axes = mirror_axes
        return rotation, dummy_2d, initial_patch_size, mirror_axes

    def get_tr_and_val_datasets(self) -> tuple[ArrowDataset, ArrowDataset]:
        """Return the given cases; nnU-Net would look for a split file and make one up."""
        folder = self.preprocessed_dataset_folder
        return ArrowDataset(folder, list(self._data.train)), ArrowDataset(folder, list(self._data.monitoring))

    def _fed(self) -> FedCases:
        data = self._data
        return FedCases(
            folder=PatchFolder(data.patches), train=data.train, monitoring=data.monitoring, seed=data.origin["seed"]
        )

    def _reason_for_nnunets_pipeline(self) -> str:
        return "the preset" if self._preset.augmentation == "nnunet" else super()._reason_for_nnunets_pipeline()

    def _settle_epoch(self) -> None:
        take_over_settings(self, self._preset.at_epoch(self.current_epoch))

    def on_train_start(self) -> None:
        """Build everything, then go back to the latest checkpoint and its random state."""
        self.initialize()
        self._count_batches(self.get_dataloaders())
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        self._whole_cases = self._new_curve()
        started_s = self._clock()
        state = self._worker.broadcast_from_first(self._checkpoint.load_latest() if self._worker.is_first else None)
        if state is None:
            state = self._worker.broadcast_from_first(self._checkpoint.load_source() if self._worker.is_first else None)
            state = None if state is None else self._as_own(state)
        if state is None:
            self._log(f"{self._training_id}: from epoch 0 of {self.num_epochs}")
        else:
            with fitting(f"{self._training_id}: its checkpoint"):
                check_origin(state["origin"], expected=self._data.origin, training_id=self._training_id)
                self._restore(state)
                if self._whole_cases is not None and "curve" in state:
                    self._whole_cases.curve.state = state["curve"]
                self._best = state.get("best")
            self._log(
                f"{self._training_id}: resumed at epoch {self.current_epoch} of {self.num_epochs}, after "
                f"{len(self._losses)} of its {self.num_iterations_per_epoch} iterations"
            )
        self._tell("attempt_started", elapsed_s=self._clock() - started_s if state else 0.0)
        self._saved_s = self._clock()

    def _as_own(self, state: State) -> State:
        """Return the state of another training as one of this training: with all of it but what is drawn from there on.

        Else two that go on from one would see the same batches.
        """
        own = {key: self._data.origin[key] for key in ("seed", "plan_sha256")}
        if state["origin"]["seed"] == own["seed"]:
            return state
        seed_everything(self._worker.seed((own["seed"] + state["current_epoch"]) % 2**32))
        drawn = {"random_state": random_state(cuda=self.device.type == "cuda")}
        others = [one | drawn for one in state.get("other_workers", ())]
        return state | drawn | {"origin": state["origin"] | own} | ({"other_workers": others} if others else {})

    def _new_curve(self) -> WholeCases | None:
        """Return what looks at whole validation cases, if the preset wants that and there are some, for one worker."""
        if self._preset.curve_every is None or not self._data.validation or not self._worker.is_first:
            return None
        structures = Structures.of(self, known=self._data.structures)
        names = {frozenset(one.labels): one.name for one in self._data.structures}
        return WholeCases(
            self,
            structures,
            identifiers=self._data.validation,
            names=[names.get(frozenset(labels), "+".join(map(str, labels))) for labels in structures.labels],
            settings=CurveSettings(every=self._preset.curve_every, share=self._preset.curve_share),
            clock=self._clock,
        )

    def _look(self, *, epoch_s: float) -> None:
        """Score whole validation cases where that is due; the patches of an epoch say what a window takes at most."""
        if self._whole_cases is None:
            return
        num_patches = (self.num_iterations_per_epoch + self.num_val_iterations_per_epoch) * self.batch_size
        look = self._whole_cases.look(
            self.current_epoch, elapsed_s=self._elapsed_s, patch_s=epoch_s / num_patches, log=self._log
        )
        if look is not None:
            self._listener.on_curve(look.rows)
            self._keep_if_best(look)

    def _keep_if_best(self, look: CurvePoint) -> None:
        """Keep a copy of the weights if the preset chooses them and none before did better on the validation cases."""
        metric = self._preset.chosen_by
        if not metric:
            return
        score = look.mean_nsd if metric == "nsd" else look.mean_dsc
        if np.isnan(score) or (self._best is not None and score <= self._best["score"]):
            return
        weights = {name: value.detach().cpu().clone() for name, value in self.plain_network().state_dict().items()}
        self._best = {"epoch": self.current_epoch, "score": score, "network_weights": weights}
        self._log(f"{metric.upper()} {score:.4f} is the best so far: these weights are kept")

    def _is_enough(self) -> bool:
        """Whether the training ends with the epochs that are over: a trial of a search that others beat, say."""
        if not self.current_epoch:
            return False
        dice = np.nan_to_num(self.logger.get_checkpoint()["mean_fg_dice"][: self.current_epoch])
        is_enough = self._worker.is_first and self._listener.is_enough(dice.tolist())
        return self._worker.any_rank(is_enough)

    def on_epoch_end(self) -> None:
        """Report the epoch and save a checkpoint where one is due."""
        self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
        self._epoch_elapsed_s = self._clock() - self._epoch_started_s
        report = self._report()
        if not np.isfinite(report.train_loss):
            raise TrainingError(f"{self._training_id}: the loss of epoch {report.epoch} is {report.train_loss}")
        self._log(
            f"epoch {report.epoch + 1}/{report.num_epochs}: train loss {report.train_loss:.4f}, val loss "
            f"{report.val_loss:.4f}, patch Dice {report.pseudo_dice:.4f}, {report.elapsed_s:.1f} s "
            f"({report.loader_wait_s:.1f} s waiting for patches)"
        )
        self._end_epoch()
        self._look(epoch_s=report.elapsed_s)
        if self.current_epoch < self.num_epochs:
            self._save_where_due()
        self._listener.on_epoch(report)

    def on_train_end(self) -> None:
        """Save the final checkpoint."""
        report = self._report(last=True)
        outcome: State = {
            "num_epochs": self.current_epoch,
            "train_loss": report.train_loss,
            "val_loss": report.val_loss,
            "pseudo_dice": report.pseudo_dice,
            "elapsed_s": self._elapsed_s,
            "ended_early": self.current_epoch < self.num_epochs,
            "environments": self._environments,
        }
        state = self._weights() | {"outcome": outcome}
        if self._checkpoint.keeps_full_state:
            state |= self._all_of_place()
        elif self._best is not None:
            chosen = {"chosen_epoch": self._best["epoch"], "chosen_score": self._best["score"]}
            state |= {"network_weights": self._best["network_weights"], "outcome": outcome | chosen}
            self._log(f"what predicts are the weights of epoch {self._best['epoch']}")
        elif self._preset.chosen_by and self._whole_cases is not None:
            self._log("no look at validation cases was made: what predicts are the weights of the last epoch")
        digest = self._worker.broadcast_from_first(self._checkpoint.save_final(state) if self._worker.is_first else "")
        self.outcome = TrainOutcome(**state["outcome"], checkpoint_sha256=digest)

    def _report(self, *, last: bool = False) -> EpochReport:
        values = {
            name: float(self.logger.get_value(name, step=-1)) for name in ("train_losses", "val_losses", "mean_fg_dice")
        }
        return EpochReport(
            epoch=self.current_epoch - last,
            num_epochs=self.num_epochs,
            train_loss=values["train_losses"],
            val_loss=values["val_losses"],
            pseudo_dice=float(np.nan_to_num(values["mean_fg_dice"])),
            elapsed_s=self._epoch_elapsed_s,
            loader_wait_s=self.dataloader_train.waited_s,
            is_typical=self._is_warm,
        )

    def _stop_reason(self) -> str:
        return self._listener.stop_reason()

    def _save(self, *, reason: str = "") -> None:
        started_s = self._clock()
        state = self._weights() | self._all_of_place()
        if self._worker.is_first:
            self._checkpoint.save_latest(state)
        # None may end before it is saved: the others would be ended with it.
        self._worker.any_rank(False)
        self._saved_s = self._clock()
        self._tell("checkpoint_saved", elapsed_s=self._saved_s - started_s, reason=reason)

    def _all_of_place(self) -> State:
        """Return what, beside the weights, decides how the training goes on, looks at whole cases included."""
        curve: State = {} if self._whole_cases is None else {"curve": self._whole_cases.curve.state}
        best: State = {} if self._best is None else {"best": self._best}
        return self._progress() | curve | best

    def _tell(self, kind: MilestoneKind, *, elapsed_s: float, reason: str = "") -> None:
        iteration = len(self._losses)
        self._listener.on_milestone(
            Milestone(kind=kind, epoch=self.current_epoch, iteration=iteration, elapsed_s=elapsed_s, reason=reason)
        )

    def _weights(self) -> State:
        """Return what prediction needs."""
        return {
            "network_weights": self.plain_network().state_dict(),
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            "trainer_name": self.named.__name__,
            "configuration": self.configuration_name,
            "plans": self._plans,
            "dataset_json": self.dataset_json,
            "origin": self._data.origin,
        }
