"""The hours of training that a sweep may take, and what they are enough for."""

import math
from collections import Counter
from collections.abc import Sequence

from orchestrator.sweeps.inner_study import changes_for
from orchestrator.sweeps.request import SweepRequest
from orchestrator.sweeps.trial_results import TrialResult


class Budget:
    """The hours of training that are left, and what they are enough for."""

    def __init__(self, request: SweepRequest, results: Sequence[TrialResult]) -> None:
        self._expected_hours = expected_hours(request)
        begun = [hours for one in results for hours in self._expected_hours[: len(one.scores)] if one.hours > 0]
        spent = sum(one.hours for one in results)
        self._factor = spent / sum(begun) if begun else 1.0
        """Of what a trial takes, by what the trials so far took."""
        self._left = math.inf if request.max_hours is None else request.max_hours - spent
        self.is_short = False
        """Whether it was not enough for something."""

    def take(self, number: int, *, fidelity: int) -> int:
        """Return how many of so many trials can be looked at at a fidelity, and take the hours for these."""
        of_each = self._expected_hours[fidelity] * self._factor
        enough = number if self._left == math.inf else max(0, min(number, int(self._left / of_each)))
        self.is_short |= enough < number and not enough
        self._left -= enough * of_each
        return enough


def expected_hours(request: SweepRequest) -> tuple[float, ...]:
    """Return the hours of training that each fidelity adds to those before it, by what presets say."""
    found, folds = [], Counter[str]()
    for one in request.fidelities:
        changes = changes_for(request.run.study, one, preset=request.run.preset)
        of_each = request.run.preset.changed_by(tuple(changes.items())).expected_training_s / 3600
        found.append(of_each * (one.folds - folds[one.preset]))
        folds[one.preset] = one.folds
    return tuple(found)
