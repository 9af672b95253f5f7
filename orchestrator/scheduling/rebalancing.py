"""When a running training must be preempted so that the last one ends early: numbers in, moves out.

Trainings can be divided at their checkpoints, so the least makespan is the bound of McNaughton, and of Horvath, Lam
and Sethi for machines of different speeds (J. ACM 24, 1977): for no k can the k longest trainings be done faster than
on the k fastest GPUs, nor all of them faster than on all GPUs. Their level algorithm reaches it by moving trainings
all the time. Here a training moves as late as it can: the bound is kept as long as the k longest remaining trainings
need no more than the k fastest GPUs can still do until then, and only when that is about to fail for some k are those
k put on the fastest GPUs. That takes about one move a GPU over a whole run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.workflow.keys import StageKey

LOOKS_PER_GAIN = 8
"""Most looks within the least gain, and how far ahead each sees: the coarser, the earlier trainings move."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenTraining:
    """A training that is not done."""

    id: StageKey
    remaining_s: float
    """On a GPU of speed 1."""
    margin_s: float = 0.0
    """By which it may turn out to be longer: one that starts at the last moment must not."""
    slot: int | None = None
    """Index of its slot; None while it waits."""
    can_start: bool = True
    """Whether only a slot is missing."""
    can_stop: bool = True
    """Whether it is preemptible; ignored while queued."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """Put a training on a slot; who is there is preempted."""

    training: StageKey
    slot: int
    displaced: StageKey | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rebalance:
    """What was found when the trainings were looked at."""

    moves: tuple[Move, ...]
    next_look_s: float
    """Seconds until it can matter to look again, unless trainings become longer than predicted."""


def lower_bound_s(remaining_s: Sequence[float] | Floats, speeds: Sequence[float] | Floats) -> float:
    """Return the least makespan of trainings that can be divided, on GPUs of these speeds.

    Parameters
    ----------
    remaining_s
        Of each training on a GPU of speed 1.
    speeds
        Of each GPU; at least one.
    """
    if not len(remaining_s):
        return 0.0
    longest = np.sort(np.asarray(remaining_s, dtype=np.float64))[::-1]
    fastest = np.cumsum(np.sort(np.asarray(speeds, dtype=np.float64))[::-1])
    num = min(len(longest), len(fastest))
    by_longest = np.cumsum(longest[:num]) / fastest[:num]
    return float(max(by_longest.max(), longest.sum() / fastest[-1]))


def rebalance(trainings: Sequence[OpenTraining], speeds: Sequence[float], *, min_gain_s: float) -> Rebalance:
    """Return which trainings must move now so that the least makespan can still be reached.

    Parameters
    ----------
    trainings
        All trainings that are not done, those that wait included.
    speeds
        Of each slot.
    min_gain_s
        A training is preempted only for one that needs this much longer.
    """
    if not trainings or not speeds:
        return Rebalance(moves=(), next_look_s=float("inf"))
    speed_of = np.asarray(speeds, dtype=np.float64)
    remaining = np.array([training.remaining_s for training in trainings])
    bound_s = lower_bound_s(remaining, speed_of)
    if _last_end_s(trainings, speed_of, bound_s=bound_s) <= min_gain_s:
        return Rebalance(moves=(), next_look_s=float("inf"))
    margins = np.array([training.margin_s for training in trainings])
    now_speed = np.array([0.0 if training.slot is None else speed_of[training.slot] for training in trainings])
    fastest = np.cumsum(np.sort(speed_of)[::-1])[: len(trainings)]

    def late(after_s: float) -> npt.NDArray[np.intp]:
        """Return for which numbers of trainings, less 1, the bound is missed if all stay where they are so long."""
        then = np.sort(np.maximum(remaining + margins - now_speed * after_s, 0.0))[::-1][: len(fastest)]
        # A second of the makespan is not worth a move.
        return np.flatnonzero(np.cumsum(then) / fastest > bound_s - after_s + 1.0)

    look_s = min_gain_s / LOOKS_PER_GAIN
    upgrades = _upgrades(trainings, remaining, speed_of, min_gain_s=min_gain_s)
    if upgrades:
        return Rebalance(moves=upgrades, next_look_s=look_s)
    missed = late(look_s)
    if len(missed):
        moves = _moves(trainings, remaining, speed_of, num_longest=int(missed[-1]) + 1, min_gain_s=min_gain_s)
        return Rebalance(moves=moves, next_look_s=look_s)
    return Rebalance(moves=(), next_look_s=_safe_s(late, look_s=look_s, bound_s=bound_s))


def _last_end_s(trainings: Sequence[OpenTraining], speeds: Floats, *, bound_s: float) -> float:
    """Return when the last training ends if all stay where they are."""
    return max(
        bound_s if training.slot is None else training.remaining_s / float(speeds[training.slot])
        for training in trainings
    )


def _upgrades(
    trainings: Sequence[OpenTraining], remaining: Floats, speeds: Floats, *, min_gain_s: float
) -> tuple[Move, ...]:
    """Move trainings from slow slots to faster ones that nobody wants, those first that would end last."""
    if any(training.slot is None and training.can_start for training in trainings):
        return ()
    taken = {training.slot for training in trainings}
    idle = sorted((p for p in range(len(speeds)) if p not in taken), key=lambda p: -speeds[p])
    movable = [i for i, training in enumerate(trainings) if training.slot is not None and training.can_stop]
    movable.sort(key=lambda i: -remaining[i] / speeds[trainings[i].slot])
    moves = []
    for slot in idle:
        for i in movable:
            if _gain_s(remaining, speeds, i=i, old=trainings[i].slot, new=slot, other=None) > min_gain_s:
                moves.append(Move(training=trainings[i].id, slot=slot, displaced=None))
                movable.remove(i)
                break
        else:
            break
    return tuple(moves)


def _safe_s(late: Callable[[float], npt.NDArray[np.intp]], *, look_s: float, bound_s: float) -> float:
    """Return how long nothing needs to move.

    The sum of the k largest remaining times is convex in time, what is left until the bound is linear: what holds now
    and at a later moment holds in between.
    """
    safe_s, unsafe_s = look_s, bound_s
    if not len(late(unsafe_s)):
        return float("inf")
    while unsafe_s - safe_s > look_s:
        middle_s = (safe_s + unsafe_s) / 2
        if len(late(middle_s)):
            unsafe_s = middle_s
        else:
            safe_s = middle_s
    return safe_s


def _moves(
    trainings: Sequence[OpenTraining], remaining: Floats, speeds: Floats, *, num_longest: int, min_gain_s: float
) -> tuple[Move, ...]:
    """Put the longest trainings on the fastest slots, with as few moves as that takes."""
    # Among equals those that already run stay.
    order = sorted(
        range(len(trainings)),
        key=lambda i: (
            -round(trainings[i].remaining_s / min_gain_s, 1),
            trainings[i].slot is None,
            -trainings[i].remaining_s,
        ),
    )
    chosen = order[:num_longest]
    occupant = {training.slot: i for i, training in enumerate(trainings) if training.slot is not None}
    chosen_slots = {trainings[i].slot for i in chosen}

    def cost(slot: int) -> float:
        """Return the remaining time of who would be preempted; infinite where nobody can."""
        if slot not in occupant:
            return 0.0
        return float(remaining[occupant[slot]]) if trainings[occupant[slot]].can_stop else float("inf")

    slots = sorted(range(len(speeds)), key=lambda p: (-speeds[p], p not in chosen_slots, cost(p)))[:num_longest]
    wanted = [i for i in chosen if trainings[i].slot not in slots and _may_move(trainings[i])]
    # Already sorted: the fastest slot for the longest, of equal slots that of the shortest training.
    free = [p for p in slots if p not in chosen_slots and cost(p) < float("inf")]
    moves = []
    for i, slot in zip(wanted, free, strict=False):
        other = occupant.get(slot)
        if _gain_s(remaining, speeds, i=i, old=trainings[i].slot, new=slot, other=other) > min_gain_s:
            moves.append(
                Move(training=trainings[i].id, slot=slot, displaced=trainings[other].id if other is not None else None)
            )
    return tuple(moves)


def _gain_s(remaining: Floats, speeds: Floats, *, i: int, old: int | None, new: int, other: int | None) -> float:
    """Return by how much the later of two trainings ends earlier if they change slots.

    One that waits counts with what it needs longer than the one that would wait for it.
    """
    of_other_s = float(remaining[other]) if other is not None else 0.0
    if old is None:
        return float(remaining[i]) - of_other_s
    return float(remaining[i] / speeds[old] - max(remaining[i] / speeds[new], of_other_s / speeds[old]))


def _may_move(training: OpenTraining) -> bool:
    return training.can_start if training.slot is None else training.can_stop
