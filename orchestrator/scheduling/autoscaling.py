"""Which machines a cluster that grows lacks: numbers in, numbers out.

To start machines and to end them is the affair of Ray's autoscaler: here is only said how many it should add for what
runs or could run now.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.scheduling.resources import Node, ResourceRequest, Resources


@dataclass(frozen=True, kw_only=True, slots=True)
class MayStart:
    """Equal machines that may be started."""

    node: Node
    """Each of them, under the name of its kind."""
    number: int
    """The most at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What runs, and what lacks nothing but a place."""

    num_places: int
    """Trainings and predictions."""
    num_cpus: int
    """Other stages, of one CPU each."""


def missing_machines(
    kinds: Sequence[MayStart],
    *,
    present: Collection[Node],
    useless: Collection[Node] = (),
    need: ResourceRequest,
    demand: Demand,
) -> Counter[Resources]:
    """Return how many machines of which size should be added: the fastest first, and none with GPUs for CPUs alone.

    Parameters
    ----------
    kinds
        What may be started.
    present
        Machines that are there.
    useless
        Machines that are there as well, but get nothing any more; they count among the most that may be started.
    need
        Of a training.
    demand
        What is to find room. Kinds of one size are one to the autoscaler, so sizes are all that can be asked for.
    """
    num_there = Counter(node.offered for node in (*present, *useless))
    missing: Counter[Resources] = Counter()
    num_cpus = float(demand.num_cpus)
    if need.gpus:
        num_places = demand.num_places - sum(need.num_on(node) for node in present)
        for kind, left in _left(kinds, num_there):
            each = need.num_on(kind.node)
            number = min(left, math.ceil(num_places / each)) if each and num_places > 0 else 0
            missing[kind.node.offered] += number
            num_places -= number * each
    else:
        num_cpus += demand.num_places * need.cpus
    num_cpus -= sum(_spare_cpus(node.offered, need=need) for node in present)
    num_cpus -= sum(number * _spare_cpus(size, need=need) for size, number in missing.items())
    without_gpus = [kind for kind in kinds if not kind.node.offered.gpus]
    if not without_gpus and any(not node.offered.gpus for node in present):
        return +missing
    for kind, left in _left(without_gpus or kinds, num_there + missing):
        number = max(0, min(left, math.ceil(num_cpus / kind.node.offered.cpus)))
        missing[kind.node.offered] += number
        num_cpus -= number * kind.node.offered.cpus
    return +missing


def _left(kinds: Sequence[MayStart], num_there: Counter[Resources]) -> Iterator[tuple[MayStart, int]]:
    """Yield the kinds, the fastest first, and how many of each can be added; of one size the fastest are there."""
    num_there = num_there.copy()
    for kind in sorted(kinds, key=lambda kind: -kind.node.speed):
        there = min(kind.number, num_there[kind.node.offered])
        num_there[kind.node.offered] -= there
        yield kind, kind.number - there


def _spare_cpus(offered: Resources, *, need: ResourceRequest) -> float:
    """Return the CPUs of a machine on which trainings leave nothing of its GPUs."""
    return max(0.0, offered.cpus - offered.gpus / need.gpus * need.cpus) if need.gpus else offered.cpus
