"""One training: nnU-Net's trainer with a preset's length, our checkpoints and our patch files.

Network, loss, mixed precision and the loop of an epoch are nnU-Net's. What differs: the split is given, batches come
from our own loader with nnU-Net's oversampling and augmentation, checkpoints are atomic, hold the random state and are
saved by time, also amid an epoch, nothing is validated on whole cases and no best checkpoint is kept, since the final
one is evaluated.
"""

import logging
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from orchestrator.benchmark.presets import Preset
from orchestrator.errors import PreemptedError, TrainingError
from orchestrator.training.checkpoint import CheckpointStore, check_origin, fitting
from orchestrator.training.environment import environment_of
from orchestrator.training.feed.batches import CountedBatches
from orchestrator.training.feed.loader import BatchLoader
from orchestrator.training.feed.patch_dataset import ArrowDataset
from orchestrator.training.gpu import obstacle_to_compiling
from orchestrator.training.nnunet.trainers.trainer_loaders import our_loaders, reason_for_nnunets_pipeline
from orchestrator.training.nnunet.trainers.trainer_overrides import load_as_nnunet, overridden
from orchestrator.training.random_state import random_state, restore_random_state
from orchestrator.training.reports import EpochReport, Milestone, MilestoneKind, TrainingListener, TrainOutcome

logger = logging.getLogger(__name__)

ADAMW_WEIGHT_DECAY = 1e-2
_LENGTH = {"num_epochs": 1000, "num_iterations_per_epoch": 250, "num_val_iterations_per_epoch": 50}
"""Of a training, by nnU-Net's own trainer."""
COMPILED_FROM_ITERATIONS = 5000
"""Length of a training from which it pays to compile its network, which takes a minute or two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """The cases of one training, and where its model comes from."""

    patches: Path
    """Folder of `<identifier>.arrow`."""
    train: tuple[str, ...]
    """Identifiers of the training cases."""
    monitoring: tuple[str, ...]
    """Identifiers of the cases whose patch Dice is shown."""
    origin: dict[str, Any]
    """What a checkpoint must have in common with a training that goes on from it."""


class PresetTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's trainer for one preset; `named_trainers.py` puts it before any other trainer class."""

    named: type = nnUNetTrainer
    """The class that trains but for what a preset changes."""
    # nnU-Net reads the parameters of __init__ back from its own frame, so it cannot have others than nnU-Net's.
    _log: Callable[[str], None] = staticmethod(logger.info)

    def configure(self, *, training_id: str, preset: Preset, data: TrainingData, log: Callable[[str], None]) -> None:
        """Take over the preset and the cases; to be called before anything is built."""
        self._training_id = training_id
        self._preset = preset
        self._data = data
        self._log = log
        self._plans = deepcopy(self.plans_manager.plans)  # as they were given: trainers may change them
        self._take_over(preset)
        self.preprocessed_dataset_folder = str(data.patches)
        self.outcome: TrainOutcome | None = None
        self._elapsed_s = 0.0
        self._epoch_elapsed_s = 0.0
        self._is_warm = False
        self._environments: tuple[dict[str, str], ...] = (environment_of(self.device),)
        self._losses: list[np.float32] = []
        self._loaders: tuple[Any, ...] = ()

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
        *args: Any,
        also_print_to_console: bool = True,  # noqa: ARG002 - nnU-Net's signature
        add_timestamp: bool = True,
    ) -> None:
        """Write a line of nnU-Net's to our log."""
        text = " ".join(str(arg) for arg in args).strip()
        if text:
            self._log(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ ', time.gmtime()) if add_timestamp else ''}{text}")

    def initialize(self) -> None:
        """Build what nnU-Net builds; on a CPU, convolutions are a third faster with the channels last."""
        super().initialize()
        if self.device.type == "cpu" and len(self.configuration_manager.patch_size) == 3:
            self.network.to(memory_format=torch.channels_last_3d)

    def _do_i_compile(self) -> bool:
        """Whether the network is compiled: where nnU-Net would, if that pays and this machine has what it takes."""
        pays = self.num_epochs * self.num_iterations_per_epoch >= COMPILED_FROM_ITERATIONS
        if not (super()._do_i_compile() and pays):
            return False
        from torch._inductor import config as compiler

        # Else each training would start a process a core of the machine to compile its network. The variable of the
        # environment for this is read when torch is imported, which has long happened.
        compiler.compile_threads = 1
        obstacle = obstacle_to_compiling()
        if obstacle:
            self._log(f"the network is not compiled, and therefore slower: {obstacle}")
        return not obstacle

    def configure_optimizers(self, *stage: Any, **named_stage: Any) -> tuple[torch.optim.Optimizer, Any]:
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

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return our loaders, or nnU-Net's own where the preset asks for them or the trainer changes what they do."""
        is_asked_for = self._preset.augmentation == "nnunet"
        reason = "the preset" if is_asked_for else reason_for_nnunets_pipeline(self, named=self.named)
        if reason:
            self._log(f"batches are made by nnU-Net's own pipeline: {reason}")
            loaders: tuple[Any, Any] = super().get_dataloaders()
            return loaders
        data = self._data
        return our_loaders(
            self, patches=data.patches, train=data.train, monitoring=data.monitoring, seed=data.origin["seed"]
        )

    def on_train_start(self) -> None:
        """Build everything, then go back to the latest checkpoint and its random state."""
        self.initialize()
        self._loaders = self.get_dataloaders()
        self.dataloader_train, self.dataloader_val = map(CountedBatches, self._loaders)
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        started_s = self._clock()
        state = self._checkpoint.load_latest()
        if state is None:
            self._log(f"{self._training_id}: from epoch 0 of {self.num_epochs}")
        else:
            with fitting(f"{self._training_id}: its checkpoint"):
                self._restore(state)
            self._log(
                f"{self._training_id}: resumed at epoch {self.current_epoch} of {self.num_epochs}, after "
                f"{len(self._losses)} of its {self.num_iterations_per_epoch} iterations"
            )
        self._tell("attempt_started", elapsed_s=self._clock() - started_s if state else 0.0)
        self._saved_s = self._clock()

    def run_training(self) -> None:
        """Train from where the latest checkpoint is, also amid an epoch, to the end."""
        self.on_train_start()
        while self.current_epoch < self.num_epochs:
            # What an epoch has taken before it was interrupted counts; the time until it went on does not.
            self._epoch_started_s = self._clock() - self._epoch_elapsed_s
            self.on_epoch_start()
            self._train_epoch()
            with torch.no_grad():
                self.on_validation_epoch_start()
                batches = range(self.num_val_iterations_per_epoch)
                self.on_validation_epoch_end([self.validation_step(next(self.dataloader_val)) for _ in batches])
            self.on_epoch_end()
        self.on_train_end()

    def _train_epoch(self) -> None:
        """Do the training iterations of an epoch that are not done yet."""
        self.on_train_epoch_start()
        while len(self._losses) < self.num_iterations_per_epoch:
            self._stop_where_asked()
            self._losses.append(np.float32(self.train_step(next(self.dataloader_train))["loss"]))
            self._save_where_due()
        self.on_train_epoch_end([{"loss": np.asarray(loss)} for loss in self._losses_that_count()])

    def _losses_that_count(self) -> list[np.float32]:
        """Return the losses of an epoch; of one that overflows in mixed precision no weight has changed."""
        finite = [loss for loss in self._losses if np.isfinite(loss)]
        num_overflows = len(self._losses) - len(finite)
        if self.grad_scaler is None or not finite or not num_overflows:
            return self._losses
        self._log(f"{num_overflows} of {len(self._losses)} iterations overflowed in mixed precision: no weight changed")
        return finite

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Aggregate as nnU-Net does; a structure that is in no patch has no Dice, which is nothing to warn about."""
        with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            super().on_validation_epoch_end(val_outputs)

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
        self._elapsed_s += report.elapsed_s
        self.current_epoch += 1
        self._epoch_elapsed_s = self.dataloader_train.waited_s = 0.0
        self._is_warm = True
        self._losses = []
        if self.current_epoch < self.num_epochs:
            self._save_where_due()
        self._listener.on_epoch(report)

    def on_train_end(self) -> None:
        """Save the final checkpoint."""
        report = self._report(last=True)
        outcome: dict[str, Any] = {
            "num_epochs": self.num_epochs,
            "train_loss": report.train_loss,
            "val_loss": report.val_loss,
            "pseudo_dice": report.pseudo_dice,
            "elapsed_s": self._elapsed_s,
            "environments": self._environments,
        }
        digest = self._checkpoint.save_final(self._weights() | {"outcome": outcome})
        self.outcome = TrainOutcome(**outcome, checkpoint_sha256=digest)

    def stop_loaders(self) -> None:
        """End the threads or processes that augment, if there are any; also after an error."""
        for loader in self._loaders:
            if isinstance(loader, BatchLoader):
                loader.close()
            elif hasattr(loader, "_finish"):
                loader._finish()  # noqa: SLF001 - batchgenerators has no public way to end its processes

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

    def _stop_where_asked(self) -> None:
        """Save a checkpoint and raise PreemptedError if the training was asked to stop."""
        reason = self._listener.stop_reason()
        if reason:
            self._save(reason=reason)
            raise PreemptedError(
                f"{self._training_id}: stopped at epoch {self.current_epoch}, after {len(self._losses)} of its "
                f"{self.num_iterations_per_epoch} iterations, since {reason}; the next attempt goes on from there"
            )

    def _save_where_due(self) -> None:
        """Save a checkpoint if the latest is older than the preset allows."""
        if self._clock() - self._saved_s >= self._preset.checkpoint_every_s:
            self._save()

    def _save(self, *, reason: str = "") -> None:
        started_s = self._clock()
        self._checkpoint.save_latest(self._state())
        self._saved_s = self._clock()
        self._tell("checkpoint_saved", elapsed_s=self._saved_s - started_s, reason=reason)

    def _tell(self, kind: MilestoneKind, *, elapsed_s: float, reason: str = "") -> None:
        iteration = len(self._losses)
        self._listener.on_milestone(
            Milestone(kind=kind, epoch=self.current_epoch, iteration=iteration, elapsed_s=elapsed_s, reason=reason)
        )

    def _network(self) -> torch.nn.Module:
        network: torch.nn.Module = getattr(self.network, "_orig_mod", self.network)
        return network

    def _weights(self) -> dict[str, Any]:
        """Return what prediction needs."""
        return {
            "network_weights": self._network().state_dict(),
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            "trainer_name": self.named.__name__,
            "configuration": self.configuration_name,
            "plans": self._plans,
            "dataset_json": self.dataset_json,
            "origin": self._data.origin,
        }

    def _state(self) -> dict[str, Any]:
        """Return everything that decides how the training goes on."""
        # Amid an epoch, nnU-Net has begun to log it: it will log it again.
        logging_of_whole_epochs = {
            name: values[: self.current_epoch] for name, values in self.logger.get_checkpoint().items()
        }
        return (
            self._weights()
            | {
                "optimizer_state": self.optimizer.state_dict(),
                "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
                "logging": logging_of_whole_epochs,
                "current_epoch": self.current_epoch,
                "losses_of_epoch": list(self._losses),
                "num_batches_taken": {"train": self.dataloader_train.position, "val": self.dataloader_val.position},
                "elapsed_s": self._elapsed_s,
                "environments": self._environments,
                "epoch_elapsed_s": self._clock() - self._epoch_started_s if self._losses else 0.0,
                "epoch_waited_s": self.dataloader_train.waited_s,
                "random_state": random_state(cuda=self.device.type == "cuda"),
            }
            | self._scheduler_state()
        )

    def _scheduler_state(self) -> dict[str, Any]:
        """Return what a schedule of the trainer's own remembers; nnU-Net's, and those of stages, follow the epoch."""
        follows = type(self.lr_scheduler) is PolyLRScheduler or overridden(self.named, ["load_checkpoint"])
        return {} if follows else {"lr_scheduler_state": self.lr_scheduler.state_dict()}

    def _restore(self, state: dict[str, Any]) -> None:
        check_origin(state["origin"], expected=self._data.origin, training_id=self._training_id)
        if overridden(self.named, ["load_checkpoint"]):
            load_as_nnunet(self, state)
        self._network().load_state_dict(state["network_weights"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        if self.grad_scaler is not None and state["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(state["grad_scaler_state"])
        if "lr_scheduler_state" in state:
            self.lr_scheduler.load_state_dict(state["lr_scheduler_state"])
        self.logger.load_checkpoint(state["logging"])
        self.current_epoch = state["current_epoch"]
        self._losses = list(state["losses_of_epoch"])
        self.dataloader_train.position = state["num_batches_taken"]["train"]
        self.dataloader_val.position = state["num_batches_taken"]["val"]
        self._elapsed_s = state["elapsed_s"]
        # A checkpoint of before this was kept does not say with what it was made.
        before = state.get("environments", ({},))
        self._environments = (*before, *(own for own in self._environments if own not in before))
        self._epoch_elapsed_s = state["epoch_elapsed_s"]
        self.dataloader_train.waited_s = state["epoch_waited_s"]
        restore_random_state(state["random_state"], cuda=self.device.type == "cuda")
