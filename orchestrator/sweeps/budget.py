"""The hours of training that a sweep may take, and which trials they are enough for."""

import math
from collections import Counter
from collections.abc import Sequence

from orchestrator.benchmark.costs import pace_of_workers
from orchestrator.search.samplers import Trial
from orchestrator.search.space import Settings
from orchestrator.sweeps.inner_study import changes_of_trial
from orchestrator.sweeps.request import SweepRequest
from orchestrator.sweeps.trial_results import TrialResult

ROUNDED_HOURS = 1e-9
"""Hours that sums of hours may be off."""


class Budget:
    """The hours of training that are left.

    A trial fits if they last even where it takes as much more than its settings say as the slowest so far: what is
    begun can exceed them only by what it is slower than that. Of the first one nothing is known, and it is alone.
    """

    def __init__(self, request: SweepRequest, results: Sequence[TrialResult]) -> None:
        self._request = request
        self._slowest = max((_slowness(request, one) for one in results), default=0.0)
        """Hours of a trial for each that its settings say; 0 if none is known."""
        spent = sum(one.hours for one in results)
        self._left = math.inf if request.max_hours is None else request.max_hours - spent
        self.is_short = False
        """Whether it was not enough for something."""

    def take(self, trials: Sequence[Trial], *, fidelity: int) -> list[Trial]:
        """Return the first of these trials, as many as can be looked at at a fidelity, and take the hours for these."""
        if self._left == math.inf:
            return list(trials)
        enough = []
        for trial in trials if self._slowest else trials[:1]:
            hours = expected_hours(self._request, trial.settings)[fidelity] * (self._slowest or 1.0)
            if hours > self._left + ROUNDED_HOURS:
                break
            self._left -= hours
            enough.append(trial)
        self.is_short |= bool(trials) and not enough
        return enough


def expected_hours(request: SweepRequest, settings: Settings = ()) -> tuple[float, ...]:
    """Return the hours of training that each fidelity adds to those before it, by what preset and settings say."""
    found, folds, run = [], Counter[str](), request.run
    for one in request.fidelities:
        changes = changes_of_trial(request.training.model, settings, one, study=run.study, preset=run.preset)
        preset = run.preset.changed_by(tuple(changes.items()))
        of_each = preset.expected_training_s / pace_of_workers(preset.workers) / 3600
        found.append(of_each * (one.folds - folds[one.preset]))
        folds[one.preset] = one.folds
    return tuple(found)


def most_to_the_end(hours_left: float, *, hours_of_each: float) -> int:
    """Return how many members of a population go on after a generation, if each takes so long: one at least."""
    return max(1, math.floor(hours_left / hours_of_each + ROUNDED_HOURS))


def affordable(request: SweepRequest, trials: Sequence[Trial]) -> tuple[list[Trial], float]:
    """Return as many of these trials as fit by what settings say, and the hours of training in all.

    Of a population these are as many as train to the end; the first generation of the others is among the hours.
    """
    enough, hours = [], 0.0
    if request.population and request.max_hours is not None:
        (of_each,) = expected_hours(request)
        first = of_each * request.population.boundaries[0] / request.population.num_epochs
        left = request.max_hours - len(trials) * first
        enough = list(trials)[: most_to_the_end(left, hours_of_each=of_each - first)]
        return enough, len(trials) * first + len(enough) * (of_each - first)
    for trial in trials:
        of_it = sum(expected_hours(request, trial.settings)[: trial.fidelity + 1])
        if request.max_hours is not None and hours + of_it > request.max_hours + ROUNDED_HOURS:
            break
        hours += of_it
        enough.append(trial)
    return enough, hours


def _slowness(request: SweepRequest, result: TrialResult) -> float:
    """Return the hours of a trial for each that its settings say; 0 if it failed or ended early, which tells less."""
    if result.scores[0] is None or not (result.is_whole or len(request.fidelities) > 1):
        return 0.0
    expected = sum(expected_hours(request, result.trial.settings)[: len(result.scores)])
    return result.hours / expected if expected else 0.0
