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

_ROUNDED = 1e-9
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
            if hours > self._left + _ROUNDED:
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


def affordable(request: SweepRequest, trials: Sequence[Trial]) -> tuple[list[Trial], float]:
    """Return the first of these trials that fit by what settings say, and the hours of training that these take."""
    enough, hours = [], 0.0
    for trial in trials:
        of_it = sum(expected_hours(request, trial.settings)[: trial.fidelity + 1])
        if request.max_hours is not None and hours + of_it > request.max_hours + _ROUNDED:
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
