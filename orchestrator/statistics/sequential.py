"""Whether one method is better than another, asked again as trainings end, with one bound on errors over all looks.

A group sequential test whose limits are found by flipping the signs of patients: where neither method is better, a
patient's differences are as likely as the same with the other sign, all looks and scores of a patient at once. So what
chance does over all looks is counted and not approximated, however few patients there are, however skewed their scores
and however much of one look is also in the next (alpha spending by permutation: Veillette et al., NeuroImage 2023).
Errors are spent in proportion to the trainings that are done, nearly as Pocock does (Kim and DeMets 1987), and are
divided among the tests of a study by Holm's method, which holds look by look (Maurer and Bretz 2013).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.statistics.intervals import ALPHA, mean_with_interval

LEAST_CHANCE = 0.2
"""A test that has less of a chance than this to show anything with all trainings is not waited for."""
_FEWEST_FLIPS, _FLIPS_A_STEP = 10_000, 25
_MOST_NUMBERS = 50_000_000
"""Signs that are held: 200 MB."""
_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True, slots=True)
class InterimDifferences:
    """Differences of two methods as they come in, look by look."""

    shares: tuple[float, ...]
    """Of the planned trainings that are in each look, ascending; 1 in the last one of the plan."""
    differences: tuple[Mapping[str, float], ...]
    """Of each look that there is yet, patient to the mean of its differences so far, second minus first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossing:
    """When a test has shown a difference."""

    look: int
    """From 1."""
    direction: int
    """Of the second method: 1 if it is better, -1 if worse."""
    num_as_extreme: int
    """Flips, what was observed among them, that had shown nothing before and are as extreme at this look."""
    num_allowed: int
    """As many may be, of this look."""
    num_flips: int
    """In all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InterimState:
    """Where a test is after some looks."""

    num_looks: int
    """Looks that it took part in."""
    crossing: Crossing | None
    """The look that has shown a difference, if one has."""
    level: float
    """Error that the test may make, after Holm's division."""
    chance: float
    """That it shows a difference once all trainings are done, if they go on as they began; 0 if they are."""
    is_closed: bool
    """Whether the trainings to come can hardly change it any more: then it takes no part in later looks."""


def num_flips_for(num_tests: int, *, num_patients: int, least_step: float) -> int:
    """Return how many flips a plan takes: enough that each test has some at each look, if they can be held at once.

    Parameters
    ----------
    num_tests : of the study
    num_patients : most of any test, once all trainings are done
    least_step : smallest share of the error that is spent at one look
    """
    wanted = math.ceil(_FLIPS_A_STEP * num_tests / (ALPHA * least_step))
    return max(_FEWEST_FLIPS, min(wanted, _MOST_NUMBERS // max(1, num_patients)))


class Flips:
    """Random signs of patients, the same at every look and in every process: they follow from the patient's name."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._signs: dict[tuple[str, ...], NDArray[np.float32]] = {}

    def of(self, patients: tuple[str, ...]) -> NDArray[np.float32]:
        """Return signs, shape (flips, patients); the first row is what was observed."""
        if patients not in self._signs:
            signs = np.empty((self.number + 1, len(patients)), np.float32)
            for column, patient in enumerate(patients):
                key = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:16], "big")
                random = np.random.Generator(np.random.Philox(key=key))
                signs[1:, column] = 2 * random.integers(0, 2, self.number, dtype=np.int8) - 1
            signs[0] = 1
            self._signs = {patients: signs}
        return self._signs[patients]


@dataclass(kw_only=True, slots=True)
class _Trajectory:
    """Sums of signed ranks of one test at each look, as observed and as they would be with other signs."""

    interim: InterimDifferences
    sums: NDArray[np.float32]
    """Shape (looks, flips); the first flip is as observed."""
    spread: NDArray[np.float64]
    """Standard deviation over all signs, of each look."""
    _crossings: dict[float, Crossing | None] = field(init=False, default_factory=dict)

    def crossing(self, *, level: float, num_looks: int) -> Crossing | None:
        """Return where the limits of a level are crossed within so many looks; a larger level crosses no later."""
        if level not in self._crossings:
            self._crossings[level] = self._first_crossing(level)
        found = self._crossings[level]
        return found if found and found.look <= num_looks else None

    def _first_crossing(self, level: float) -> Crossing | None:
        num = self.sums.shape[1]
        steps = [now - before for before, now in pairwise([0.0, *self.interim.shares])]
        allowed = [math.floor(level * step * num) for step in steps[: len(self.sums)]]
        if self._cannot_cross(allowed):
            return None
        alive = np.ones(num, bool)
        for look, (sums, num_allowed) in enumerate(zip(self.sums, allowed, strict=True)):
            if not num_allowed:
                continue
            sizes = np.abs(sums)
            # Crossed where at most so many of those that have not crossed before are as extreme: ties cross together.
            left = sizes[alive]
            place = left.size - 1 - num_allowed
            limit = np.partition(left, place)[place]
            if sizes[0] > limit:
                return Crossing(
                    look=look + 1,
                    direction=int(np.sign(sums[0])),
                    num_as_extreme=int((left >= sizes[0]).sum()),
                    num_allowed=num_allowed,
                    num_flips=num,
                )
            alive &= sizes <= limit
        return None

    def _cannot_cross(self, allowed: Sequence[int]) -> bool:
        """Whether at each look more are as extreme than all looks until then allow: quick, and true of most."""
        in_all = accumulate(allowed)
        return all(
            np.count_nonzero(np.abs(sums) >= abs(sums[0])) > most for sums, most in zip(self.sums, in_all, strict=True)
        )

    def chance(self, *, level: float, num_looks: int) -> float:
        """Return the predictive chance to be beyond the limit with all trainings, two-sided (Spiegelhalter 1986)."""
        if not num_looks:
            return 1.0
        share = self.interim.shares[num_looks - 1]
        if share >= 1:
            return 0.0
        spread = float(self.spread[num_looks - 1])
        score = float(self.sums[num_looks - 1][0]) / spread if spread else 0.0
        limit = _NORMAL.inv_cdf(1 - level / 2)
        expected = NormalDist(score / math.sqrt(share), math.sqrt((1 - share) / share))
        return 1 - expected.cdf(limit) + expected.cdf(-limit)


@dataclass(kw_only=True, slots=True)
class Family:
    """All tests of a study; the chance that any of those calls equal methods different is bounded."""

    interims: Sequence[InterimDifferences]
    num_tests: int
    """That the study has planned: more than there are differences, if some have no score yet."""
    flips: Flips
    alpha: float = ALPHA
    _trajectories: list[_Trajectory] = field(init=False)
    _shown: dict[tuple[int, int], int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._trajectories = _trajectories(self.interims, flips=self.flips)

    def judged(self, num_looks: Sequence[int]) -> tuple[InterimState, ...]:
        """Return where each test is after so many of its looks (Holm's steps, from the smallest level on)."""
        found: dict[int, InterimState] = {}
        while True:
            level = self.alpha / max(1, self.num_tests - len(found))
            new = {}
            for number, trajectory in enumerate(self._trajectories):
                if number in found:
                    continue
                crossing = trajectory.crossing(level=level, num_looks=num_looks[number])
                if crossing and self._direction(number, num_looks[number]) == crossing.direction:
                    new[number] = InterimState(
                        num_looks=num_looks[number], crossing=crossing, level=level, chance=1.0, is_closed=True
                    )
            if not new:
                break
            found |= new
        chances = [
            one.chance(level=level, num_looks=num) for one, num in zip(self._trajectories, num_looks, strict=True)
        ]
        return tuple(
            found.get(number)
            or InterimState(num_looks=num, crossing=None, level=level, chance=chance, is_closed=chance < LEAST_CHANCE)
            for number, (chance, num) in enumerate(zip(chances, num_looks, strict=True))
        )

    def _direction(self, number: int, num_looks: int) -> int:
        """Return on which side of 0 the interval of the mean difference is; 0 if it holds 0 or there is none."""
        key = number, num_looks
        if key not in self._shown:
            found = self.interims[number].differences[num_looks - 1]
            interval = mean_with_interval(list(found.values()), list(found))
            is_beyond = interval.has_interval and not interval.low <= 0 <= interval.high
            self._shown[key] = int(np.sign(interval.mean)) if is_beyond else 0
        return self._shown[key]


def look_by_look(family: Family, *, num_looks: int) -> Iterator[tuple[InterimState, ...]]:
    """Yield where each test is after each look; what is closed takes no part in later looks."""
    counts = [0] * len(family.interims)
    standings: tuple[InterimState, ...] = ()
    for look in range(1, num_looks + 1):
        closed = [one.is_closed for one in standings] or [False] * len(family.interims)
        counts = [
            count if is_closed else min(look, len(interim.differences))
            for count, is_closed, interim in zip(counts, closed, family.interims, strict=True)
        ]
        judged = zip(family.judged(counts), closed, strict=True)
        standings = tuple(replace(one, is_closed=one.is_closed or was) for one, was in judged)
        yield standings


def _trajectories(interims: Sequence[InterimDifferences], *, flips: Flips) -> list[_Trajectory]:
    if not interims:
        return []
    patients = tuple(sorted({patient for interim in interims for found in interim.differences for patient in found}))
    places = {patient: place for place, patient in enumerate(patients)}
    columns = [(interim, look) for interim in interims for look in range(len(interim.differences))]
    ranks = np.zeros((len(patients), len(columns)), np.float32)
    for column, (interim, look) in enumerate(columns):
        found = interim.differences[look]
        ranks[[places[patient] for patient in found], column] = signed_ranks(list(found.values()))
    sums = np.ascontiguousarray((flips.of(patients) @ ranks).T)
    spread = np.sqrt((ranks.astype(float) ** 2).sum(axis=0))
    ends = np.cumsum([len(interim.differences) for interim in interims])
    parts = zip(interims, np.split(sums, ends[:-1]), np.split(spread, ends[:-1]), strict=True)
    return [_Trajectory(interim=interim, sums=own, spread=own_spread) for interim, own, own_spread in parts]


def signed_ranks(differences: Sequence[float]) -> NDArray[np.float64]:
    """Return twice the signed ranks of differences, whole numbers; those of 0 are ranked and left out (Pratt 1959)."""
    from scipy.stats import rankdata

    values = without_rounding(differences)
    ranks: NDArray[np.float64] = 2 * np.sign(values) * rankdata(np.abs(values))
    return ranks


def without_rounding(differences: ArrayLike) -> NDArray[np.float64]:
    """Return differences of scores with 0 for those of equal masks, whose scores may differ by rounding."""
    values = np.asarray(differences, float)
    return np.where(np.abs(values) < 1e-12, 0.0, values)
