"""Population based training (Jaderberg et al. 2017), in generations: what does badly goes on from what does well.

All trainings of a population come to the end of a generation before any goes on, so that what is decided then follows
from their patch Dice and a seed alone. Quantiles and the way in which settings are perturbed are Ray Tune's.
"""

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from orchestrator.search.early_stopping import arrived
from orchestrator.search.space import Settings, Space
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage

_RESAMPLED, _FACTORS = 0.25, (1.2, 0.8)
"""Ray Tune's defaults: how often a setting is drawn anew, and what a number is multiplied by otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """When the members of a population are compared, and how many of them then go on from others."""

    size: int
    every_epochs: int
    """Epochs of a generation."""
    reduction: int
    """The worst one in so many goes on from one of the best."""
    num_epochs: int
    """Of a whole training."""

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Epochs after which members are compared."""
        return tuple(range(self.every_epochs, self.num_epochs, self.every_epochs))


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """Where the trainings of a population go on, and until when."""

    number: int
    """From 0."""
    first_epoch: int
    until_epoch: int | None
    """None for the end of the training."""
    sources: Mapping[str, str]
    """By id of each training, that of the one from whose checkpoint of the generation before it goes on; empty for the
    first generation."""

    def place(self, training_id: str) -> str:
        """Return where a training keeps its checkpoints, as an id: the last generation leaves what all trainings do."""
        return training_id if self.until_epoch is None else run_paths.generation_of(training_id, number=self.number)

    def source(self, training_id: str) -> str | None:
        """Return the same of the training from which one goes on; None if it begins."""
        source = self.sources.get(training_id)
        return run_paths.generation_of(source, number=self.number - 1) if source else None

    def share(self, num_epochs: int) -> float:
        """Return how much of a training it is."""
        return ((self.until_epoch or num_epochs) - self.first_epoch) / num_epochs

    def value_of(self, dice: Sequence[float]) -> float:
        """Return what members are compared by: the mean patch Dice of this generation, with its settings."""
        own = dice[self.first_epoch :]
        return math.fsum(own) / len(own) if own else 0.0

    def ends(self, storage: Storage, trial: str, *, epoch: int, value: float) -> bool:
        """Whether a training ends here; how good it was is written down."""
        return epoch == self.until_epoch and arrived(storage, trial, epoch=epoch, value=value, rule=lambda _: True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """What was decided of a member at the end of a generation."""

    trial: int
    value: float | None
    """Its patch Dice; None if it failed."""
    source: int | None
    """The trial from whose checkpoint it goes on, mostly its own; None if it ends."""
    settings: Settings
    """With which it goes on."""


def next_generation(
    space: Space, members: Mapping[int, tuple[Settings, float | None]], *, reduction: int, most: int, seed: str
) -> list[Member]:
    """Return how each member goes on, by number.

    Parameters
    ----------
    space
        What is varied.
    members
        Settings and patch Dice of each, by the number of its trial; at least one has a Dice.
    reduction
        The worst one in so many, and those that failed, go on from one of the best one in so many.
    most
        That go on at all: the best.
    seed
        Of the draws.
    """
    values = {number: value for number, (_, value) in members.items() if value is not None}
    ranked = sorted(values, key=lambda number: (-values[number], number))
    failed = [number for number in members if number not in values]
    going_on = [*ranked, *failed][:most]
    ranked = ranked[:most]
    # As `PopulationBasedTraining._quantiles` of Ray Tune.
    num = math.ceil(len(ranked) / reduction)
    num = len(ranked) // 2 if num > len(ranked) / 2 else num
    worst = {*ranked[len(ranked) - num :], *failed}
    best = ranked[:num] or ranked
    found = []
    for number in members:
        settings, value = members[number]
        source = number if number in going_on else None
        if source is not None and number in worst:
            own_seed = f"{seed} {number}"
            source = random.Random(own_seed).choice(best)
            settings = explored(space, members[source][0], seed=own_seed)
        found.append(Member(trial=number, value=value, source=source, settings=settings))
    return found


def explored(space: Space, settings: Settings, *, seed: str) -> Settings:
    """Return settings perturbed by Ray Tune's own rule: each is drawn anew, or goes up or down a fifth or one place."""
    from ray.tune.schedulers.pbt import _explore

    draws = np.random.RandomState(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big"))
    mutations = {
        name: list(range(len(space.values_of(name))))
        if space.settings[name].kind == "choice"
        else partial(domain.sample, random_state=draws)
        for name, domain in space.domains().items()
    }
    # The rule draws from Python's own generator.
    before = random.getstate()
    random.seed(seed)
    try:
        changed, _ = _explore(space.drawn_as(settings), mutations, _RESAMPLED, _FACTORS, None)
    finally:
        random.setstate(before)
    return space.settings_of(changed)
