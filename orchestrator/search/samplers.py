"""Which trials a sweep tries next, by Ray Tune's samplers.

A sampler keeps nothing: it is told what is known of earlier trials and says what to try then. A sweep that goes on
after it was interrupted, or that begins with what another one has found, needs nothing else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, product
from typing import Protocol

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.results.trials import trial_name
from orchestrator.search.space import Settings, Space

_NUM_SEEDS = 2**32
"""That numpy's older generators know."""
_TRIES = 4
"""Settings that a sampler is asked for, for each that is wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One choice of settings."""

    number: int
    """From 0."""
    settings: Settings
    fidelity: int = 0
    """Position of the highest one at which it is looked at."""
    schedule: tuple[tuple[int, Settings], ...] = ()
    """Of a member of a population: from which epochs on it had which settings, those of the trials included from whose
    checkpoints it went on; the last ones are its own."""
    source: int | None = None
    """Number of the trial from whose checkpoint of the generation before it goes on, if there was one."""
    ended_after: int | None = None
    """Epochs after which it ended, since hours were short for all."""

    @property
    def name(self) -> str:
        """Also that of its group of trainings: `trial007`."""
        return trial_name(self.number)

    @property
    def steps(self) -> tuple[dict[str, object], ...]:
        """Its schedule as a preset has it; empty if its settings never changed."""
        steps = tuple({"from_epoch": epoch, **dict(settings)} for epoch, settings in self.schedule)
        return steps if len(steps) > 1 else ()

    @property
    def changes(self) -> Settings:
        """What its model has otherwise: its settings, or a schedule of them."""
        return (("schedule", self.steps),) if self.steps else self.settings


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownTrial:
    """What is known of a trial."""

    settings: Settings
    score: float | None
    """Larger is better; None of one that failed."""
    is_earlier: bool = False
    """Whether it is of another sweep."""


class Sampler(Protocol):
    """Chooses settings."""

    learns: bool
    """Whether what it chooses depends on results."""

    def __call__(self, space: Space, known: Sequence[KnownTrial], *, num_trials: int, seed: int) -> list[Settings]:
        """Return the settings of the next trials, perhaps fewer than `num_trials` if there are no more.

        Parameters
        ----------
        space
            What is varied.
        known
            Every trial of the sweep so far, in order, and those of others.
        num_trials
            How many are wanted.
        seed
            Of the draws.
        """


class RandomSampler:
    """Draws each setting by itself."""

    learns = False

    def __call__(self, space: Space, known: Sequence[KnownTrial], *, num_trials: int, seed: int) -> list[Settings]:
        """Return settings that depend on the seed and on what was drawn before."""
        domains = space.domains()
        # Tune's domains draw from the older kind of generator only.
        random = np.random.RandomState(seed % _NUM_SEEDS)
        drawn = (
            space.settings_of({name: domain.sample(random_state=random) for name, domain in domains.items()})
            for _ in count()
        )
        return _new(drawn, known, num_trials=min(num_trials, space.num_points - len(_own(known))))


class GridSampler:
    """Takes every combination of values, the last setting changing fastest."""

    learns = False

    def __call__(self, space: Space, known: Sequence[KnownTrial], *, num_trials: int, seed: int) -> list[Settings]:
        """Return the next combinations."""
        del seed
        for name, entry in space.settings.items():
            if entry.kind not in {"grid", "choice"}:
                raise ConfigError(
                    f"{space.path}: {name}: {entry.kind} has no end; expected `grid` or `choice` for --sampler grid"
                )
        columns = [[(name, value) for value in space.values_of(name)] for name in space.settings]
        return _new(product(*columns), known, num_trials=num_trials)


class OptunaSampler:
    """Optuna's tree-structured Parzen estimator, as Ray Tune offers it: draws where scores were good."""

    learns = True

    def __call__(self, space: Space, known: Sequence[KnownTrial], *, num_trials: int, seed: int) -> list[Settings]:
        """Return settings to try at once after those that are known; a failed trial teaches nothing."""
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(
                "--sampler optuna: Optuna is not installed; expected pip install 'nnunet-orchestrator[sweep]'"
            ) from error
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        told = [one for one in known if one.score is not None and space.holds(one.settings)]
        search = OptunaSearch(
            # As Optuna has them: Tune's own it turns into these with a warning.
            space=OptunaSearch.convert_search_space(space.domains()),
            metric="score",
            mode="max",
            points_to_evaluate=[space.drawn_as(one.settings) for one in told] or None,
            evaluated_rewards=[one.score for one in told] or None,
            # Each time from another seed: the first draws of one are those of a sampler that knows nothing.
            seed=(seed + len(_own(known))) % _NUM_SEEDS,
        )
        drawn = (search.suggest(str(number)) for number in range(num_trials * _TRIES))
        found = _new((space.settings_of(one) for one in drawn if one is not None), known, num_trials=num_trials)
        # Of few values it may name the same ones for ever.
        also = [*known, *(KnownTrial(settings=one, score=None) for one in found)]
        return found + RandomSampler()(space, also, num_trials=num_trials - len(found), seed=seed)


def _new(drawn: Iterable[Settings], known: Sequence[KnownTrial], *, num_trials: float) -> list[Settings]:
    """Return the first settings of which there was no trial."""
    found: dict[Settings, None] = {}
    before = _own(known)
    settings = iter(drawn)
    while len(found) < num_trials and (one := next(settings, None)) is not None:
        if one not in before:
            found[one] = None
    return list(found)


def _own(known: Sequence[KnownTrial]) -> set[Settings]:
    return {one.settings for one in known if not one.is_earlier}


SAMPLERS: dict[str, Sampler] = {"random": RandomSampler(), "grid": GridSampler(), "optuna": OptunaSampler()}
"""By name."""
