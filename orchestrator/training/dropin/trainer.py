"""The trainer that nnUNetv2_train finds: nnU-Net's folders and files, our feed, places and scores.

Split, plans, network, loss, log, names of files and the validation at the end are nnU-Net's. Checkpoints are nnU-Net's
too, and name the trainer whose network they hold, so that nnU-Net predicts with them where nothing of ours is
installed; beside what nnU-Net reads they hold the place from which a training goes on bit for bit.
"""

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from orchestrator.errors import ConfigError, PreemptedError
from orchestrator.results.curves import write_curve
from orchestrator.storage.json_values import JsonObject
from orchestrator.storage.local import LocalStorage
from orchestrator.training.checkpoint import fitting
from orchestrator.training.dropin.checkpoint_file import PLACE, read_checkpoint, set_aside, write_checkpoint
from orchestrator.training.dropin.options import DropinOptions, usual_seed
from orchestrator.training.dropin.prepared import Prepared
from orchestrator.training.dropin.refusals import ending_in_a_line, refuse_what_needs_nnunets_own
from orchestrator.training.dropin.trainer_file import TRAINER
from orchestrator.training.feed.nnunet_folder import reading_preprocessed
from orchestrator.training.freed_memory import keep_freed_memory
from orchestrator.training.nnunet.classes import find_trainer, is_known_trainer
from orchestrator.training.nnunet.trainers.exact_trainer import ExactTrainer, FedCases
from orchestrator.training.nnunet.trainers.learning_curve import CurveSettings
from orchestrator.training.nnunet.trainers.named_trainers import before_trainer
from orchestrator.training.nnunet.trainers.structures import PatchSurfaces, Structures
from orchestrator.training.nnunet.trainers.volumes import WholeCases
from orchestrator.training.random_state import seed_everything
from orchestrator.training.stop_request import StopRequest

LATEST, BEST, BEST_NSD = "checkpoint_latest.pth", "checkpoint_best.pth", "checkpoint_best_nsd.pth"
CHECKPOINTS = ("checkpoint_final.pth", LATEST, BEST, BEST_NSD)
CURVE = "validation_curve.csv"
WRITTEN_FOR = "2.8.1"
"""Version of nnU-Net."""
PLOT_EVERY_S = 60.0
"""Time between two plots, each of which takes most of a second."""
_TOGETHER = {
    *("initialize", "_do_i_compile", "get_dataloaders", "on_validation_epoch_end", "validation_step"),
    *("on_train_start", "on_validation_epoch_start", "load_checkpoint", "perform_actual_validation"),
}
_GPU = torch.device("cuda")


@ending_in_a_line()
def dropin_trainer(name: str) -> type[nnUNetTrainer]:
    """Return the class of a name that begins with that of our trainer.

    What follows is that of a trainer of nnU-Net's: before `nnUNetTrainer_250epochs`, ours is
    `nnUNetTrainerOrchestrator_250epochs`. A class of the whole name, which somebody has made of ours, comes first.
    Ends the process for one that nnU-Net does not have, or that has its own way of what ours does otherwise.
    """
    # nnU-Net looks no further once we have answered.
    if name != TRAINER and is_known_trainer(name):
        return find_trainer(name)
    stock = nnUNetTrainer.__name__ + name.removeprefix(TRAINER)
    return before_trainer(nnUNetTrainerOrchestrator, stock, called=name, together=_TOGETHER)


class nnUNetTrainerOrchestrator(ExactTrainer):  # noqa: N801 - nnU-Net's names
    """nnU-Net's trainer on its own folders: what `-tr` names."""

    goes_on = "nnUNetv2_train with --c goes on from there"
    # Of nnU-Net's trainer, which has no types.
    preprocessed_dataset_folder: str
    configuration_manager: ConfigurationManager
    loss: torch.nn.Module
    _best_ema: float | None

    @ending_in_a_line()
    def __init__(
        self,
        plans: JsonObject,
        configuration: str,
        fold: int,
        dataset_json: JsonObject,
        device: torch.device = _GPU,
    ) -> None:
        """Refuse what cannot be done: the process ends."""
        refuse_what_needs_nnunets_own(plans, configuration)
        self._options = DropinOptions.of()
        super().__init__(plans, configuration, fold, dataset_json, device)
        # The trainer of a cascade's next stage reads what nnU-Net's own trainer predicts for it, never what ours would.
        # nnU-Net's validation would write that as well, and fail where only patch files are left of the next stage.
        own = {**self.configuration_manager.configuration}
        next_stage = own.pop("next_stage", None)
        self.configuration_manager = ConfigurationManager(own)
        self.checkpoint_every_s = self._options.checkpoint_every_s
        self._training_id = f"{self.plans_manager.dataset_name} {configuration} fold {fold}"
        self._log = self.print_to_log_file
        self._stop = StopRequest()
        self._seed = usual_seed(self) if self._options.seed is None else self._options.seed
        self._has_folder = False
        self._place_to_go: JsonObject | None = None
        self._cases: FedCases | None = None
        self._whole_cases: WholeCases | None = None
        self._saved_s = self._plotted_s = -np.inf
        self._begin()
        if (found := version("nnunetv2")) != WRITTEN_FOR:
            self.print_to_log_file(
                f"{TRAINER} is written for nnU-Net {WRITTEN_FOR}, and this is {found}: it may not do"
            )
        if next_stage is not None:
            self.print_to_log_file(
                f"{configuration} comes before {next_stage}: nothing is written for that stage; for a cascade train "
                f"both with -tr {nnUNetTrainer.__name__}"
            )

    @ending_in_a_line()
    def initialize(self) -> None:
        """Build what nnU-Net builds, from the seed."""
        seed_everything(self._seed)
        self._choose_files()
        super().initialize()
        self.print_to_log_file(f"{self._prepared.text}; seed {self._seed}")

    def _choose_files(self) -> None:
        self._prepared = Prepared.of(Path(self.preprocessed_dataset_folder))
        # Where nnU-Net's validation and search for cases look as well.
        self.preprocessed_dataset_folder = str(self._prepared.folder)

    def _fed(self) -> FedCases:
        if self._cases is None:
            train, monitoring = self.do_split()
            self._check_split(train, monitoring)
            self._cases = FedCases(
                folder=self._prepared.cases(),
                train=tuple(sorted(train)),
                monitoring=tuple(sorted(monitoring)),
                seed=self._seed,
            )
        return self._cases

    def _check_split(self, train: Sequence[str], validation: Sequence[str]) -> None:
        """Raise ConfigError for a split of which a loader can draw nothing."""
        where = f"{Path(self.preprocessed_dataset_folder_base, 'splits_final.json')}, fold {self.fold}"
        known = set(self._prepared.identifiers())
        for what, names in (("training", train), ("validation", validation)):
            if not names:
                raise ConfigError(f"{where}: no {what} cases; expected at least one, or fold all")
            if lacking := sorted(set(names) - known):
                raise ConfigError(
                    f"{where}: {what} case {lacking[0]} is not in {self._prepared.folder}; expected cases that are "
                    "preprocessed"
                )

    def on_train_start(self) -> None:
        """Build everything, as nnU-Net does, then go to the place of the checkpoint that was loaded, if one was."""
        if self.device.type == "cpu":
            keep_freed_memory()
        with reading_preprocessed(self.preprocessed_dataset_folder):
            super().on_train_start()
        self._count_batches((self.dataloader_train, self.dataloader_val))
        structures = Structures.of(self, tolerance_mm=self._options.tolerance_mm)
        self.print_to_log_file(f"NSD at {structures.tolerances_mm[0]:g} mm")
        self._surfaces = PatchSurfaces(structures)
        self._patch_nsd: list[float] = []
        self._whole_cases = self._new_curve(structures)
        if self._has_folder:
            self._go_on()
        self._saved_s = self._clock()

    def _go_on(self) -> None:
        """Take the place of the checkpoint over."""
        place = self._place_to_go
        if place is None:
            self.print_to_log_file("The checkpoint is of another trainer: it goes on, but not bit for bit")
            return
        for what, value in self._origin().items():
            if place["origin"].get(what, value) != value:
                self.print_to_log_file(f"Other {what} than before: it goes on, but not as it would have")
        self._restore_place(place)
        if self._whole_cases is not None and place["curve"]:
            self._whole_cases.curve.state = place["curve"]
        self.print_to_log_file(
            f"{self._training_id}: goes on at epoch {self.current_epoch}, after {len(self._losses)} of its "
            f"{self.num_iterations_per_epoch} iterations"
        )

    def _origin(self) -> JsonObject:
        """Return what must be as it was for a training to go on as it would have."""
        fed = self._fed()
        return {
            "patches": self._prepared.kind,
            "number of iterations": self.num_iterations_per_epoch,
            "batch size": self.batch_size,
            "patch size": list(map(int, self.configuration_manager.patch_size)),
            "training cases": list(fed.train),
            "validation cases": list(fed.monitoring),
        }

    @ending_in_a_line()
    def run_training(self) -> None:
        """Train to the end, or until SIGTERM or SIGUSR1 asks to stop: then the place is saved first.

        Whoever asks in the last epoch, when all iterations are done, has the command end behind its checkpoint.
        """
        try:
            with self._stop:
                super().run_training()
                # Before nnU-Net's command goes on to its validation, which nobody could stop so.
                if reason := self._stop_reason():
                    raise PreemptedError(
                        f"{self._training_id}: trained to its end, and not validated, since {reason}; nnUNetv2_train "
                        "with --val does that"
                    )
        finally:
            self.stop_loaders()
            if hasattr(self, "_surfaces"):
                self._surfaces.close()

    def _stop_reason(self) -> str:
        return self._stop.reason()

    def validation_step(self, batch: JsonObject) -> JsonObject:
        """Do what nnU-Net does, and compare the surfaces of what its loss was given."""
        loss = self.loss

        def watched(output: object, target: object) -> object:
            self._surfaces.add(_finest(output), _finest(target))
            return loss(output, target)

        self.loss = watched
        try:
            step: JsonObject = super().validation_step(batch)
        finally:
            self.loss = loss
        return step

    def on_validation_epoch_start(self) -> None:
        """Do what nnU-Net does, and look at the clock."""
        super().on_validation_epoch_start()
        self._validation_started_s = self._clock()

    def on_validation_epoch_end(self, val_outputs: list[JsonObject]) -> None:
        """Aggregate as nnU-Net does."""
        num_patches = max(1, len(val_outputs) * self.batch_size)
        self._patch_s = (self._clock() - self._validation_started_s) / num_patches
        super().on_validation_epoch_end(val_outputs)
        self._patch_nsd = self._surfaces.take_scores()
        for further in self.logger.loggers:
            for number, value in enumerate(self._patch_nsd, 1):
                further.log(f"nsd_per_class_or_region/class_{number}", value, self.current_epoch)

    def on_epoch_end(self) -> None:
        """Log the epoch in nnU-Net's words, and save what is due."""
        self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
        self._epoch_elapsed_s = self._clock() - self._epoch_started_s
        self._log_epoch()
        is_best = self._best_ema is None or self.logger.get_value("ema_fg_dice", step=-1) > self._best_ema
        if is_best:
            self._best_ema = self.logger.get_value("ema_fg_dice", step=-1)
            self.print_to_log_file(f"Yayy! New best EMA pseudo Dice: {np.round(self._best_ema, decimals=4)}")
        self._end_epoch()
        self._look()
        if is_best:
            self._write(BEST)
        if self.current_epoch < self.num_epochs:
            if self.current_epoch % self.save_every == 0:
                self._save()
            else:
                self._save_where_due()
        if self._clock() - self._plotted_s >= PLOT_EVERY_S or self.current_epoch == self.num_epochs:
            self.logger.plot_progress_png(self.output_folder)
            self._plotted_s = self._clock()

    def _log_epoch(self) -> None:
        values = {name: self.logger.get_value(name, step=-1) for name in ("train_losses", "val_losses")}
        dice = self.logger.get_value("dice_per_class_or_region", step=-1)
        self.print_to_log_file("train_loss", np.round(values["train_losses"], decimals=4))
        self.print_to_log_file("val_loss", np.round(values["val_losses"], decimals=4))
        self.print_to_log_file("Pseudo dice", [float(np.round(one, decimals=4)) for one in dice])
        self.print_to_log_file("Pseudo NSD", [float(np.round(one, decimals=4)) for one in self._patch_nsd])
        self.print_to_log_file(
            f"Epoch time: {self._epoch_elapsed_s:.2f} s ({self.dataloader_train.waited_s:.2f} s waiting for patches)"
        )

    def _new_curve(self, structures: Structures) -> WholeCases | None:
        every, fed = self._options.curve_every, self._fed()
        if every is None:
            return None
        if not set(fed.monitoring).isdisjoint(fed.train):
            self.print_to_log_file("Whole cases: none is looked at, since those of validation are trained on as well")
            return None
        return WholeCases(
            self,
            structures,
            identifiers=fed.monitoring,
            names=["+".join(map(str, labels)) for labels in structures.labels],
            settings=CurveSettings(every=every, share=self._options.curve_share),
            clock=self._clock,
        )

    def _look(self) -> None:
        """Score whole validation cases where that is due and there is time for it."""
        if self._whole_cases is None:
            return
        look = self._whole_cases.look(
            self.current_epoch, elapsed_s=self._elapsed_s, patch_s=self._patch_s, log=self.print_to_log_file
        )
        if look is None:
            return
        self._take_folder()
        write_curve(LocalStorage(self.output_folder), CURVE, look.rows)
        if self._whole_cases.curve.is_best(look):
            self.print_to_log_file(f"New best NSD: {BEST_NSD}")
            self._write(BEST_NSD)

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint as nnU-Net does at the end of an epoch, before it counts it."""
        self._write(Path(filename).name, num_epochs=self.current_epoch + 1)

    def _save(self, *, reason: str = "") -> None:  # noqa: ARG002 - which PreemptedError says
        self._write(LATEST)
        self._saved_s = self._clock()

    def _write(self, name: str, *, num_epochs: int | None = None) -> None:
        if self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
            return
        self._take_folder()
        state = {
            "network_weights": self.plain_network().state_dict(),
            **self._of_nnunet(num_epochs=self.current_epoch if num_epochs is None else num_epochs),
            "_best_ema": self._best_ema,
            "init_args": self.my_init_kwargs,
            "trainer_name": self._builder_of_network,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            PLACE: self._place() | {"origin": self._origin(), "seed": self._seed, "curve": self._curve_state()},
        }
        write_checkpoint(Path(self.output_folder) / name, state)

    def _take_folder(self) -> None:
        """Set aside what a training that was here before has left, before the first file of this one.

        Whoever has forgotten --c has lost nothing until then, and after it --c finds no other training than this one.
        """
        names = (CURVE,) if self.disable_checkpointing else (*CHECKPOINTS, CURVE)
        if not self._has_folder and (others := set_aside(Path(self.output_folder), names)):
            self.print_to_log_file(f"Of a training that was here before, no longer gone on from: {', '.join(others)}")
        self._has_folder = True

    @property
    def _builder_of_network(self) -> str:
        """Name of the class that nnU-Net looks for when it predicts: the one that builds the network, mostly its own.

        Looking for others it imports all that come before, some of which not every environment can import.
        """
        builds = "build_network_architecture"
        if getattr(type(self), builds, None) is not getattr(self.named, builds, None):
            return type(self).__name__
        return next(kind.__name__ for kind in self.named.__mro__ if builds in vars(kind))

    def _curve_state(self) -> JsonObject:
        # What is not looked at now may be looked at again later.
        before: JsonObject = self._place_to_go["curve"] if self._place_to_go else {}
        return before if self._whole_cases is None else self._whole_cases.curve.state

    @ending_in_a_line()
    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate as nnU-Net does."""
        super().perform_actual_validation(save_probabilities)

    @ending_in_a_line()
    def load_checkpoint(self, filename_or_checkpoint: JsonObject | str) -> None:
        """Load weights, optimiser and log as nnU-Net does; `on_train_start` goes to the place."""
        given = filename_or_checkpoint
        state = read_checkpoint(Path(given)) if isinstance(given, str) else given
        # What it draws follows from the seed that it began with.
        self._place_to_go, self._has_folder = state.get(PLACE), True
        self._seed = self._place_to_go["seed"] if self._place_to_go else self._seed
        if not self.was_initialized:
            self.initialize()
        with fitting(f"{self._training_id}: its checkpoint"):
            self._restore_weights(state)
            self._best_ema = state["_best_ema"]
            self.inference_allowed_mirroring_axes = state["inference_allowed_mirroring_axes"]


def _finest(values: object) -> torch.Tensor:
    """Return what has the full resolution."""
    finest: torch.Tensor = values[0] if isinstance(values, list | tuple) else values
    return finest
