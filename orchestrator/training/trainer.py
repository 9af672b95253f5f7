"""One training, from its cases to its final checkpoint."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from orchestrator.benchmark.presets import Preset
from orchestrator.errors import TrainingError
from orchestrator.training.checkpoint import CheckpointStore, check_origin, fitting
from orchestrator.training.feed.patch_dataset import register_arrow_dataset
from orchestrator.training.freed_memory import keep_freed_memory
from orchestrator.training.nnunet.classes import DEFAULT_PLANNER, DEFAULT_TRAINER
from orchestrator.training.nnunet.environment import nnunet_environment, prints_to_log
from orchestrator.training.nnunet.named_trainers import preset_trainer
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.preset_trainer import TrainingData
from orchestrator.training.random_state import seed_everything
from orchestrator.training.reports import EpochReport, Milestone, TrainingListener, TrainOutcome


def train(
    *,
    plan: Plan,
    preset: Preset,
    training_id: str,
    train_cases: Sequence[str],
    val_cases: Sequence[str],
    patches: Path,
    checkpoint: CheckpointStore,
    log: Callable[[str], None],
    seed: int,
    device: str,
    num_loader_processes: int,
    trainer_name: str = DEFAULT_TRAINER,
    on_epoch: Callable[[EpochReport], None],
    on_milestone: Callable[[Milestone], None] = lambda _: None,
    stop_reason: Callable[[], str] = lambda: "",
    clock: Callable[[], float] = time.monotonic,
) -> TrainOutcome:
    """Fit one model, from its latest whole checkpoint if there is one; a finished one is only reported.

    Parameters
    ----------
    plan
        nnU-Net plans.
    preset
        How much is trained.
    training_id
        For messages.
    train_cases
        Identifiers of the training cases.
    val_cases
        Identifiers of the validation cases. If there are none (task 1), the Dice that is shown while it trains is
        computed on training cases; it decides nothing.
    patches
        Folder of `<identifier>.arrow`.
    checkpoint
        Where checkpoints are kept.
    log
        Called with each line of the log.
    seed
        Of weights, sampling and augmentation.
    device
        `cpu` or `cuda`.
    num_loader_processes
        Threads that make batches, or processes if nnU-Net's own pipeline is chosen; with 0 of these, or any number of
        threads, a CPU training is the same, bit for bit, every time.
    trainer_name
        Class of nnU-Net's, or one that it finds, that trains.
    on_epoch
        Called after every epoch.
    on_milestone
        Called when the training begins or goes on, and after every checkpoint on the way.
    stop_reason
        Asked before every iteration; once it is not empty, a checkpoint is saved and the training ends.
    clock
        Gives monotonic seconds, so that a clock that is set anew changes neither checkpoints nor durations.

    Raises
    ------
    PreemptedError
        If the training was asked to stop; a checkpoint of that moment is saved.
    ConfigError
        If there is no such trainer, or it has its own way of what is done otherwise here.
    TrainingError
        If there are no training cases, the loss is no longer a number, or the checkpoint is of another plan, seed,
        length or other cases.
    IntegrityError
        If a patch file or every checkpoint is damaged.
    """
    if not train_cases:
        raise TrainingError(f"{training_id}: no training cases; expected at least one")
    origin = {
        "plan_sha256": plan.sha256,
        "seed": seed,
        "num_epochs": preset.num_epochs,
        "num_iterations_per_epoch": preset.num_iterations_per_epoch,
        "augmentation": preset.augmentation,
        "train_cases": list(train_cases),
        **_origin_of_model(trainer_name, plan=plan),
    }
    if checkpoint.has_final():
        final = checkpoint.load_final()
        with fitting(f"{training_id}: its checkpoint"):
            check_origin(final.state["origin"], expected=origin, training_id=training_id)
            outcome = TrainOutcome(**final.state["outcome"], checkpoint_sha256=final.sha256)
        log(f"{training_id}: its final checkpoint is there already")
        return outcome
    if not val_cases:
        log("No validation cases: the patch Dice shown below is of training cases and decides nothing.")
    if device == "cpu":
        keep_freed_memory()
    else:
        # As nnU-Net's command does, though not its trainer: all patches have one shape, so that the fastest way to
        # convolve them is worth being looked for.
        torch.backends.cudnn.benchmark = True
    trainer_class = preset_trainer(trainer_name)
    seed_everything(seed)
    register_arrow_dataset()
    data = TrainingData(
        patches=patches, train=tuple(train_cases), monitoring=tuple(val_cases or train_cases), origin=origin
    )
    with nnunet_environment(num_loader_processes=num_loader_processes), prints_to_log():
        plans = Plan.from_bytes(plan.to_bytes()).plans | {"continue_training": False}
        trainer = trainer_class(plans, plan.configuration, 0, plan.dataset_json, torch.device(device))
        trainer.configure(training_id=training_id, preset=preset, data=data, log=log)
        listener = TrainingListener(on_epoch=on_epoch, on_milestone=on_milestone, stop_reason=stop_reason)
        trainer.attach(checkpoint=checkpoint, listener=listener, clock=clock)
        try:
            trainer.run_training()
        finally:
            trainer.stop_loaders()
    if trainer.outcome is None:
        raise TrainingError(f"{training_id}: nnU-Net's loop ended without a final checkpoint")
    return trainer.outcome


def _origin_of_model(trainer_name: str, *, plan: Plan) -> dict[str, str]:
    """Return the names of trainer and planner where they are not nnU-Net's default, as all were once."""
    named = {
        "trainer": (trainer_name, DEFAULT_TRAINER),
        "planner": (plan.plans.get("experiment_planner_used", DEFAULT_PLANNER), DEFAULT_PLANNER),
    }
    return {key: name for key, (name, default) in named.items() if name != default}
