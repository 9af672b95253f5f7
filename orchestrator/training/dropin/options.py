"""What may be said to a training by nnU-Net's command, which has no options for it: variables of the environment."""

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

Number = TypeVar("Number", int, float)

SEED, CHECKPOINT_EVERY_S = "ORCHESTRATOR_SEED", "ORCHESTRATOR_CHECKPOINT_EVERY_S"
TOLERANCE_MM = "ORCHESTRATOR_TOLERANCE_MM"
CURVE_EVERY, CURVE_SHARE = "ORCHESTRATOR_CURVE_EVERY", "ORCHESTRATOR_CURVE_SHARE"
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DropinOptions:
    """What was said."""

    seed: int | None = None
    """Of weights, sampling and augmentation; None is one of the name of the training."""
    checkpoint_every_s: float = 600.0
    """Most seconds between two checkpoints."""
    tolerance_mm: float | None = None
    """Of the NSD; None is one voxel."""
    curve_every: int | None = None
    """Epochs between two predictions of whole validation cases; None makes none."""
    curve_share: float = 0.05
    """Most of the time of the training that these may take, as a share of it."""

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "DropinOptions":
        """Read the environment; raises ConfigError for a value that is none."""
        defaults = cls()

        def said(name: str, kind: Callable[[str], Number], lower: float, upper: float = math.inf) -> Number | None:
            return _number(name, environment[name], kind, (lower, upper)) if environment.get(name, "").strip() else None

        every_s, share = said(CHECKPOINT_EVERY_S, float, 0), said(CURVE_SHARE, float, 0, 1)
        return cls(
            seed=said(SEED, int, 0, LARGEST_SEED),
            checkpoint_every_s=defaults.checkpoint_every_s if every_s is None else every_s,
            tolerance_mm=said(TOLERANCE_MM, float, 0),
            curve_every=said(CURVE_EVERY, int, 1),
            curve_share=defaults.curve_share if share is None else share,
        )


def _number(name: str, text: str, kind: Callable[[str], Number], limits: tuple[float, float]) -> Number:
    lower, upper = limits
    expected = f"a {'whole ' if kind is int else ''}number of at least {lower:g}"
    expected += f" and at most {upper:.0f}" if math.isfinite(upper) else ""
    try:
        number = kind(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}; expected {expected}") from None
    if not (math.isfinite(number) and lower <= number <= upper):
        raise ConfigError(f"{name} is {text!r}; expected {expected}")
    return number


def usual_seed(trainer: "nnUNetTrainer") -> int:
    """Return the seed of a training for which none is set: it follows from what is trained, wherever that lies."""
    plans = trainer.plans_manager
    name = f"{plans.dataset_name}/{plans.plans_name}/{trainer.configuration_name}/{trainer.fold}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
