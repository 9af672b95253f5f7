"""nnU-Net's trainer with our batches and a place, also amid an epoch, from which it goes on bit for bit.

Network, loss, mixed precision and what is done in an epoch are nnU-Net's, or those of the trainer class before which
this one is put. What differs: batches come from our own loader with nnU-Net's oversampling and augmentation, and a
training knows what decides how it goes on: random states, batches taken, the losses of the epoch so far.

A place holds these of every worker of the training. As many workers go on from it bit for bit on a CPU (more than two
up to the order in which gradients are summed). Another number of workers goes on as well: with the same weights and
optimiser, at the same iteration, with our loaders from the same batches of the same samples. What is not the same then
is the rounding, what a loss is averaged over first, and what is drawn elsewhere: by a dropout, or by nnU-Net's own
loaders.
"""

import logging
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from orchestrator.errors import PreemptedError
from orchestrator.storage.json_values import JsonObject
from orchestrator.training.environment import environment_of
from orchestrator.training.feed.batches import CountedBatches
from orchestrator.training.feed.case_folders import CaseFolder
from orchestrator.training.feed.loader import BatchLoader
from orchestrator.training.gpu import obstacle_to_compiling
from orchestrator.training.nnunet.trainers.divided_trainer import DividedTrainer
from orchestrator.training.nnunet.trainers.trainer_loaders import our_loaders, reason_for_nnunets_pipeline
from orchestrator.training.nnunet.trainers.trainer_overrides import load_as_nnunet, overridden
from orchestrator.training.plain_state import State
from orchestrator.training.random_state import random_state, restore_random_state

logger = logging.getLogger(__name__)

COMPILED_FROM_ITERATIONS = 5000
"""Length of a training from which it pays to compile its network, which takes a minute or two."""

_Loaders = tuple[Any, Any]
"""For training and for monitoring: ours, or nnU-Net's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FedCases:
    """What our loaders make batches of."""

    folder: CaseFolder
    """Where the cases are."""
    train: tuple[str, ...]
    """Identifiers of the training cases."""
    monitoring: tuple[str, ...]
    """Identifiers of the cases whose patch Dice is shown."""
    seed: int
    """Of what is drawn."""


class ExactTrainer(DividedTrainer):
    """Mixin that makes a training resumable bit for bit: first of the parents, before nnU-Net's trainer or another one.

    Subclasses say which cases it is fed with, how a checkpoint is saved and why it should stop.
    """

    named: type = nnUNetTrainer
    """The class that trains but for what is done otherwise here."""
    checkpoint_every_s = 600.0
    """Time after which the place is saved again."""
    goes_on = "the next attempt goes on from there"
    """What is said of a training that was asked to stop."""
    _training_id = ""
    # nnU-Net reads the parameters of __init__ back from its own frame, so it cannot have others than nnU-Net's.
    _log: Callable[[str], None] = staticmethod(logger.info)
    _clock: Callable[[], float] = staticmethod(time.monotonic)

    def _begin(self) -> None:
        """Set what a training knows before its first iteration; to be called before anything is built."""
        self._elapsed_s = self._epoch_elapsed_s = 0.0
        self._is_warm = False
        own = environment_of(self.device, num_workers=self._worker.number)
        self._environments: tuple[dict[str, str], ...] = (own,)
        self._losses: list[np.float32] = []
        self._loaders: tuple[Any, ...] = ()

    @abstractmethod
    def _fed(self) -> FedCases:
        """Return what batches are made of."""

    @abstractmethod
    def _save(self, *, reason: str = "") -> None:
        """Save the place, and note when in `_saved_s`; `reason` is why the training was asked to stop, if it was."""

    @abstractmethod
    def _stop_reason(self) -> str:
        """Why the training must stop; empty as long as it need not."""

    def _is_enough(self) -> bool:
        """Whether the training ends with the epochs that are over."""
        return False

    def _settle_epoch(self) -> None:
        """Take over what holds from this epoch on; called before it begins or goes on."""

    def _reason_for_nnunets_pipeline(self) -> str:
        """Why batches are not made by our loaders; empty if they are."""
        return reason_for_nnunets_pipeline(self, named=self.named)

    def initialize(self) -> None:
        """Build what nnU-Net builds; on a CPU, convolutions are a third faster with the channels last."""
        super().initialize()
        if self.device.type == "cpu" and len(self.configuration_manager.patch_size) == 3:
            self.network.to(memory_format=torch.channels_last_3d)
        self._divide()

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

    def get_dataloaders(self) -> _Loaders:
        """Return our loaders, or nnU-Net's own where they are asked for or the trainer changes what ours do."""
        reason = self._reason_for_nnunets_pipeline()
        if reason:
            self._log(f"batches are made by nnU-Net's own pipeline: {reason}")
            loaders: _Loaders = super().get_dataloaders()
            return loaders
        fed = self._fed()
        return our_loaders(self, folder=fed.folder, train=fed.train, monitoring=fed.monitoring, seed=fed.seed)

    def _count_batches(self, loaders: _Loaders) -> None:
        """Take batches from these loaders from now on."""
        self._loaders = loaders
        self.dataloader_train, self.dataloader_val = map(CountedBatches, loaders)

    def make_other_batches(self) -> None:
        """Build the loaders anew, as the trainer has changed; they go on with the batch that would have come next."""
        before = (self.dataloader_train, self.dataloader_val)
        self.stop_loaders()
        self._count_batches(self.get_dataloaders())
        for old, new in zip(before, (self.dataloader_train, self.dataloader_val), strict=True):
            new.position, new.waited_s = old.position, old.waited_s

    def run_training(self) -> None:
        """Train from where the latest place is, also amid an epoch, to the end."""
        self.on_train_start()
        while self.current_epoch < self.num_epochs and not self._is_enough():
            # What an epoch has taken before it was interrupted counts; the time until it went on does not.
            self._epoch_started_s = self._clock() - self._epoch_elapsed_s
            self._settle_epoch()
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
        losses = _means(self._worker.all_gather(self._losses))
        finite = [loss for loss in losses if np.isfinite(loss)]
        num_overflows = len(losses) - len(finite)
        if self.grad_scaler is None or not finite or not num_overflows:
            return losses
        self._log(f"{num_overflows} of {len(losses)} iterations overflowed in mixed precision: no weight changed")
        return finite

    def on_validation_epoch_end(self, val_outputs: list[State]) -> None:
        """Aggregate as nnU-Net does; a structure that is in no patch has no Dice, which is nothing to warn about."""
        with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            super().on_validation_epoch_end(val_outputs)

    def _end_epoch(self) -> None:
        """Count an epoch as done."""
        self._elapsed_s += self._epoch_elapsed_s
        self.current_epoch += 1
        self._epoch_elapsed_s = self.dataloader_train.waited_s = 0.0
        self._is_warm = True
        self._losses = []

    def _stop_where_asked(self) -> None:
        """Save the place and raise PreemptedError if the training was asked to stop."""
        reason = self._worker.first_reason(self._stop_reason())
        if reason:
            self._save(reason=reason)
            raise PreemptedError(
                f"{self._training_id}: stopped at epoch {self.current_epoch}, after {len(self._losses)} of its "
                f"{self.num_iterations_per_epoch} iterations, since {reason}; {self.goes_on}"
            )

    def _save_where_due(self) -> None:
        """Save the place if the latest is older than it may be."""
        if self._worker.any_rank(self._clock() - self._saved_s >= self.checkpoint_every_s):
            self._save()

    def stop_loaders(self) -> None:
        """End the threads or processes that augment, if there are any; also after an error."""
        for loader in self._loaders:
            if isinstance(loader, BatchLoader):
                loader.close()
            elif hasattr(loader, "_finish"):
                loader._finish()  # noqa: SLF001 - batchgenerators has no public way to end its processes

    def _progress(self) -> State:
        """Return what, beside the weights, decides how the training goes on."""
        return self._of_nnunet(num_epochs=self.current_epoch) | self._place()

    def _of_nnunet(self, *, num_epochs: int) -> State:
        """Return what nnU-Net itself restores, under its own names, after so many whole epochs."""
        # Amid an epoch, nnU-Net has begun to log it: it will log it again.
        logging_of_whole_epochs = {name: values[:num_epochs] for name, values in self.logger.get_checkpoint().items()}
        return {
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": logging_of_whole_epochs,
            "current_epoch": num_epochs,
        }

    def _place(self) -> State:
        """Return the rest."""
        own: State = {
            "losses_of_epoch": list(self._losses),
            "epoch_waited_s": self.dataloader_train.waited_s,
            "random_state": random_state(cuda=self.device.type == "cuda"),
        }
        others = self._worker.all_gather(own)[1:]
        return {
            **own,
            "num_batches_taken": {"train": self.dataloader_train.position, "val": self.dataloader_val.position},
            "elapsed_s": self._elapsed_s,
            "environments": self._environments,
            "epoch_elapsed_s": self._clock() - self._epoch_started_s if self._losses else 0.0,
            **({"other_workers": others} if others else {}),
        } | self._scheduler_state()

    def _scheduler_state(self) -> State:
        """Return what a schedule of the trainer's own remembers; nnU-Net's, and those of stages, follow the epoch."""
        follows = type(self.lr_scheduler) is PolyLRScheduler or overridden(self.named, ["load_checkpoint"])
        return {} if follows else {"lr_scheduler_state": self.lr_scheduler.state_dict()}

    def _restore(self, state: State) -> None:
        """Go back to where a state with weights was taken; the loaders must be there."""
        self._restore_weights(state)
        self._restore_place(state)

    def _restore_weights(self, state: JsonObject) -> None:
        """Take over what nnU-Net itself restores."""
        if overridden(self.named, ["load_checkpoint"]):
            load_as_nnunet(self, state, named=self.named)
        self.plain_network().load_state_dict(state["network_weights"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        if self.grad_scaler is not None and state["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(state["grad_scaler_state"])
        self.logger.load_checkpoint(state["logging"])
        self.current_epoch = state["current_epoch"]

    def _restore_place(self, state: State) -> None:
        """Go on where `_place` was taken."""
        if "lr_scheduler_state" in state:
            self.lr_scheduler.load_state_dict(state["lr_scheduler_state"])
        self._restore_worker([state, *state.get("other_workers", ())])
        self.dataloader_train.position = state["num_batches_taken"]["train"]
        self.dataloader_val.position = state["num_batches_taken"]["val"]
        self._elapsed_s = state["elapsed_s"]
        # A checkpoint of before this was kept does not say with what it was made.
        before = state.get("environments", ({},))
        self._environments = (*before, *(own for own in self._environments if own not in before))
        self._epoch_elapsed_s = state["epoch_elapsed_s"]

    def _restore_worker(self, places: list[State]) -> None:
        """Go on where a worker was; with another number of workers, where all of them were on average."""
        number, rank = self._worker.number, self._worker.rank
        is_same = len(places) == number
        losses = places[rank]["losses_of_epoch"] if is_same else _means([one["losses_of_epoch"] for one in places])
        self._losses = [np.float32(loss) for loss in losses]
        if not is_same:
            self._log(f"it goes on with {number} instead of {len(places)} workers: not bit for bit as it would have")
        if rank < len(places):
            self.dataloader_train.waited_s = places[rank]["epoch_waited_s"]
            restore_random_state(places[rank]["random_state"], cuda=self.device.type == "cuda")


def _means(losses: Sequence[Sequence[np.float32]]) -> list[np.float32]:
    """Return the mean loss of each iteration over the workers."""
    with np.errstate(invalid="ignore"):
        return list(np.mean(losses, axis=0))
