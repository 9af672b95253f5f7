"""What a training tells while it runs and at its end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.results.curves import CurveRow

MilestoneKind = Literal["attempt_started", "checkpoint_saved"]
"""An attempt has begun at some place, or has made sure that the next one can begin there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """What is known after an epoch."""

    epoch: int
    """From 0."""
    num_epochs: int
    train_loss: float
    val_loss: float
    pseudo_dice: float
    """Mean Dice over the patches of the monitoring cases, as nnU-Net computes it; NaN becomes 0."""
    elapsed_s: float
    """Of the epoch, without the time in which nothing ran between two attempts."""
    loader_wait_s: float
    """Of the epoch, spent waiting for patches."""
    is_typical: bool
    """Whether `elapsed_s` tells of epochs to come: in the first one of an attempt the network is compiled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Milestone:
    """A place from which a training can go on, or has gone on."""

    kind: MilestoneKind
    epoch: int
    """From 0; the number of epochs that are over."""
    iteration: int
    """Training iterations of the epoch that are done."""
    elapsed_s: float
    """Time that it took to save or to load the checkpoint; 0 where there was none."""
    reason: str = ""
    """Why the training was asked to stop, if that is why the checkpoint was saved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingListener:
    """Who is told, and who may stop a training."""

    on_epoch: Callable[[EpochReport], None]
    """Called after every epoch."""
    on_milestone: Callable[[Milestone], None] = lambda _: None
    """Called when the training begins or goes on, and after every checkpoint on the way."""
    stop_reason: Callable[[], str] = lambda: ""
    """Asked before every iteration; not empty where the training must stop."""
    is_enough: Callable[[Sequence[float]], bool] = lambda _dice: False
    """Asked between epochs, with the patch Dice of all that are over; true where the training ends there."""
    on_curve: Callable[[Sequence[CurveRow]], None] = lambda _: None
    """Called after a look at whole validation cases, with their scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOutcome:
    """What is known after a training."""

    num_epochs: int
    """That were trained: of a trial that ended early, fewer than it was to have."""
    train_loss: float
    val_loss: float
    pseudo_dice: float
    elapsed_s: float
    """Of all epochs that led to the final checkpoint, over all attempts."""
    checkpoint_sha256: str
    ended_early: bool = False
    """Whether it was a trial of a search that others beat."""
    chosen_epoch: int | None = None
    """Epochs after which the weights were as they predict, if these were chosen by validation cases; None for all."""
    chosen_score: float | None = None
    """That these cases had then, by what they were chosen by."""
    environments: tuple[Mapping[str, str], ...] = ()
    """What the attempts that led to the final checkpoint ran with, each different one once, in their order."""
