"""One training, from its cases to its final checkpoint."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from orchestrator.benchmark.definition import Structure
from orchestrator.benchmark.presets import Preset
from orchestrator.errors import TrainingError
from orchestrator.training.checkpoint import CheckpointStore, check_origin, fitting
from orchestrator.training.feed.patch_dataset import register_arrow_dataset
from orchestrator.training.freed_memory import keep_freed_memory
from orchestrator.training.nnunet.classes import DEFAULT_PLANNER, DEFAULT_TRAINER
from orchestrator.training.nnunet.environment import nnunet_environment, prints_to_log
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.trainers.named_trainers import preset_trainer
from orchestrator.training.nnunet.trainers.preset_trainer import PresetTrainer, TrainingData
from orchestrator.training.random_state import seed_everything
from orchestrator.training.reports import TrainingListener, TrainOutcome
from orchestrator.training.workers import ALONE, Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """What is fitted, to what, and on what."""

    training_id: str
    """For messages."""
    plan: Plan
    """nnU-Net plans."""
    preset: Preset
    """How much is trained."""
    train_cases: tuple[str, ...]
    """Identifiers of the training cases."""
    val_cases: tuple[str, ...]
    """Identifiers of the validation cases. If there are none, the Dice that is shown while it trains is computed on
    training cases; it decides nothing."""
    patches: Path
    """Folder of `<identifier>.arrow`."""
    seed: int
    """Of weights, sampling and augmentation."""
    device: str
    """`cpu` or `cuda`."""
    num_loader_workers: int
    """Threads that make batches, or processes if nnU-Net's own pipeline is chosen; with 0 of these, or any number of
    threads, a CPU training is the same, bit for bit, every time."""
    trainer_name: str = DEFAULT_TRAINER
    """Class of nnU-Net's, or one that it finds, that trains."""
    structures: tuple[Structure, ...] = ()
    """What is scored of whole validation cases while it trains, if the preset wants that."""

    def __post_init__(self) -> None:
        if not self.train_cases:
            raise TrainingError(f"{self.training_id}: no training cases; expected at least one")

    @property
    def origin(self) -> dict[str, object]:
        """What a checkpoint must have in common with a training that goes on from it."""
        return {
            "plan_sha256": self.plan.sha256,
            "seed": self.seed,
            "num_epochs": self.preset.num_epochs,
            "num_iterations_per_epoch": self.preset.num_iterations_per_epoch,
            "augmentation": self.preset.augmentation,
            "train_cases": list(self.train_cases),
            **_origin_of_model(self.trainer_name, plan=self.plan),
        }

    @property
    def data(self) -> TrainingData:
        """What it is fitted to."""
        return TrainingData(
            patches=self.patches,
            train=self.train_cases,
            monitoring=self.val_cases or self.train_cases,
            origin=self.origin,
            validation=self.val_cases,
            structures=self.structures,
        )


def train(
    settings: TrainingSettings,
    *,
    checkpoint: CheckpointStore,
    log: Callable[[str], None],
    listener: TrainingListener,
    clock: Callable[[], float] = time.monotonic,
    worker: Worker = ALONE,
) -> TrainOutcome:
    """Fit one model, from its latest whole checkpoint if there is one; a finished one is only reported.

    Parameters
    ----------
    settings
        What is fitted.
    checkpoint
        Where checkpoints are kept.
    log, listener
        Called with each line of the log; is told of epochs and milestones, and may stop the training.
    clock
        Gives monotonic seconds, so that a clock that is set anew changes neither checkpoints nor durations.
    worker
        Which of several processes this is that fit the model together by this function; the first one saves it.

    Raises
    ------
    PreemptedError
        If it was asked to stop; a checkpoint of that moment is saved.
    ConfigError
        If there is no such trainer, or it has its own way of what is done otherwise here.
    TrainingError
        If the loss is no longer a number, or the checkpoint is of another plan, seed, length or other cases.
    IntegrityError
        If a patch file or every checkpoint is damaged.
    """
    if worker.first_then_all("finished", checkpoint.has_final):
        return _finished(settings, checkpoint, log=log)
    _settle_process(settings, worker=worker)
    if not settings.val_cases:
        log("No validation cases: the patch Dice below is of training cases and decides nothing.")
    with nnunet_environment(num_loader_workers=settings.num_loader_workers), prints_to_log():
        trainer = _new_trainer(settings, worker=worker)
        with worker.together(device=settings.device):
            trainer.configure(training_id=settings.training_id, preset=settings.preset, data=settings.data, log=log)
            trainer.attach(checkpoint=checkpoint, listener=listener, clock=clock)
            try:
                trainer.run_training()
            finally:
                trainer.stop_loaders()
    return _outcome_of(trainer, settings=settings)


def _new_trainer(settings: TrainingSettings, *, worker: Worker) -> PresetTrainer:
    plan = Plan.from_bytes(settings.plan.to_bytes())
    plans = plan.plans | {"continue_training": False}
    made: PresetTrainer = preset_trainer(settings.trainer_name)(
        plans, plan.configuration, 0, plan.dataset_json, torch.device(settings.device)
    )
    made.join(worker)
    return made


def _outcome_of(trainer: PresetTrainer, *, settings: TrainingSettings) -> TrainOutcome:
    if (outcome := trainer.outcome) is None:
        raise TrainingError(f"{settings.training_id}: nnU-Net's loop ended without a final checkpoint")
    return outcome


def _finished(settings: TrainingSettings, checkpoint: CheckpointStore, *, log: Callable[[str], None]) -> TrainOutcome:
    """Return what the final checkpoint tells; raises TrainingError if it is of something else."""
    log(f"{settings.training_id}: its final checkpoint is there already")
    final = checkpoint.load_final()
    with fitting(f"{settings.training_id}: its checkpoint"):
        check_origin(final.state["origin"], expected=settings.origin, training_id=settings.training_id)
        return TrainOutcome(**final.state["outcome"], checkpoint_sha256=final.sha256)


def _settle_process(settings: TrainingSettings, *, worker: Worker) -> None:
    """Set what holds for this process as a whole."""
    if settings.device == "cpu":
        keep_freed_memory()
    else:
        # As nnU-Net's command does, though not its trainer: all patches have one shape, so that the fastest way to
        # convolve them is worth being looked for.
        torch.backends.cudnn.benchmark = True
    # Weights are those of the first worker, whatever the others begin with.
    seed_everything(worker.seed(settings.seed))
    register_arrow_dataset()


def _origin_of_model(trainer_name: str, *, plan: Plan) -> dict[str, str]:
    """Return the names of trainer and planner where they are not nnU-Net's default, as all were once."""
    named = {
        "trainer": (trainer_name, DEFAULT_TRAINER),
        "planner": (plan.plans.get("experiment_planner_used", DEFAULT_PLANNER), DEFAULT_PLANNER),
    }
    return {key: name for key, (name, default) in named.items() if name != default}
