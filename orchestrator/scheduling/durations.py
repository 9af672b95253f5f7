"""How long trainings take: what is expected before the first, what finished and running ones teach about the rest.

The time of a training is its expected time, times a factor of its group (trainings of one group differ only in their
fold), over the speed of the GPU. Both are means of logarithms of what was seen, shrunk towards a prior that counts as
`PRIOR_WEIGHT` observations: the mean of all groups, and the speed of a kind of GPU, towards what was expected; the
factor of a group towards the mean of all, which counts as `FOLD_WEIGHT` observations.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.workflow.keys import StageKey

PRIOR_WEIGHT = 0.3
"""Observations that what was expected counts as."""
FOLD_WEIGHT = 0.02
"""Folds of a group that the mean of all groups counts as: folds differ little, groups much."""
LEAST_CHANGE = 0.01
"""Share by which an observation of a training differs from the one before at least, to count as another."""
LEAST_NEWS = 0.05
"""Share of new observations from which on groups and kinds are fitted anew."""
_NUM_SWEEPS = 4
"""Rounds in which groups and GPU kinds are fitted in turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """What is expected of a training before anything was seen."""

    seconds: float
    """On a GPU of speed 1."""
    group: str
    """Trainings that last alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Observation:
    kind: str
    log_ratio: float
    """Of the seconds of the whole training to the expected ones."""


class Durations:
    """Predictions that get better while a run goes on."""

    def __init__(self, expected: Mapping[StageKey, Expectation], *, speeds: Mapping[str, float]) -> None:
        """Begin with what is expected.

        Parameters
        ----------
        expected
            By training.
        speeds
            Of each kind of GPU; kinds that are missing count as 1.
        """
        self._expected = dict(expected)
        self._log_speeds = {kind: math.log(speed) for kind, speed in speeds.items()}
        self._seen: dict[StageKey, _Observation] = {}
        self._group_logs: dict[str, float] = {}
        self._kind_logs: dict[str, float] = {}
        self._overall_log = 0.0
        self._fitted_version = 0
        self.version = 0
        """Changes with every observation."""

    def observe(self, training: StageKey, *, kind: str, seconds: float) -> None:
        """Take note of the time of a whole training, measured or extrapolated from its epochs.

        Parameters
        ----------
        training
            Which one; a later observation of the same one replaces the earlier.
        kind
            Kind of GPU that it was measured on.
        seconds
            There; more than 0.
        """
        ratio = math.log(seconds / self._expected[training].seconds)
        before = self._seen.get(training)
        if before is not None and before.kind == kind and abs(before.log_ratio - ratio) < LEAST_CHANGE:
            return
        self._seen[training] = _Observation(kind=kind, log_ratio=ratio)
        self.version += 1

    def is_seen(self, training: StageKey) -> bool:
        """Whether a training has shown how long it takes."""
        return training in self._seen

    def predict_s(self, training: StageKey) -> float:
        """Return the seconds of a whole training on a GPU of speed 1, as is to be expected now."""
        self._fit()
        expected = self._expected[training]
        seen = self._seen.get(training)
        if seen is not None:
            return expected.seconds * math.exp(seen.log_ratio + self._log_speed(seen.kind))
        return expected.seconds * math.exp(self._group_logs.get(expected.group, self._overall_log))

    def speed(self, kind: str) -> float:
        """Return the speed of a kind of GPU as far as it has shown."""
        self._fit()
        return math.exp(self._log_speed(kind))

    def _log_speed(self, kind: str) -> float:
        return self._log_speeds.get(kind, 0.0) + self._kind_logs.get(kind, 0.0)

    def _fit(self) -> None:
        """Fit groups and GPU kinds in turn; the scale of all kinds together stays as it was expected."""
        # Of ten thousand observations the next one changes nothing that matters.
        if self.version <= self._fitted_version * (1 + LEAST_NEWS):
            return
        self._fitted_version = self.version
        by_group: dict[str, list[_Observation]] = defaultdict(list)
        by_kind: dict[str, list[tuple[str, _Observation]]] = defaultdict(list)
        for training, seen in self._seen.items():
            group = self._expected[training].group
            by_group[group].append(seen)
            by_kind[seen.kind].append((group, seen))
        self._kind_logs = dict.fromkeys(by_kind, 0.0)
        for _ in range(_NUM_SWEEPS):
            logs = {
                group: [seen.log_ratio + self._log_speed(seen.kind) for seen in observed]
                for group, observed in by_group.items()
            }
            everything = [log for values in logs.values() for log in values]
            self._overall_log = sum(everything) / (len(everything) + PRIOR_WEIGHT)
            self._group_logs = {
                group: (sum(values) + FOLD_WEIGHT * self._overall_log) / (len(values) + FOLD_WEIGHT)
                for group, values in logs.items()
            }
            if len(by_kind) > 1:
                self._fit_kinds(by_kind)

    def _fit_kinds(self, by_kind: Mapping[str, list[tuple[str, _Observation]]]) -> None:
        found = {
            kind: sum(
                self._group_logs[group] - seen.log_ratio - self._log_speeds.get(kind, 0.0) for group, seen in observed
            )
            / (len(observed) + PRIOR_WEIGHT)
            for kind, observed in by_kind.items()
        }
        mean = sum(found.values()) / len(found)
        self._kind_logs = {kind: log - mean for kind, log in found.items()}
