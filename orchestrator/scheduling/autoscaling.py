"""Which machines a cluster that grows lacks: numbers in, numbers out.

To start machines and to end them is the affair of Ray's autoscaler: here is only said how many it should add for what
runs or could run now.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.cluster.node_pool import NodePool, Resources
from orchestrator.scheduling.resources import Node, ResourceRequest, node_of


def missing_machines(
    pools: Sequence[NodePool],
    *,
    present: Collection[Node],
    useless: Collection[Node] = (),
    need: ResourceRequest,
    demand: Mapping[int, int],
) -> Counter[Resources]:
    """Return how many machines of which size should be added: the fastest first, and none with GPUs for CPUs alone.

    Parameters
    ----------
    pools
        What may be started.
    present
        Machines that are there.
    useless
        Machines that are there as well, but get nothing any more; they count among the most that may be started.
    need
        Of one worker of a training.
    demand
        How many stages are to find room, by the number of their workers; 0 for those of one CPU. Kinds of one size are
        one to the autoscaler, so sizes are all that can be asked for.
    """
    num_there = Counter(node.offered for node in (*present, *useless))
    missing: Counter[Resources] = Counter()
    num_cpus = float(demand.get(0, 0))
    if need.gpus:
        rooms = list(present)
        for num_workers in sorted(filter(None, demand), reverse=True):
            of_all = replace(need, num_workers=num_workers)
            rooms, number = _placed(of_all, demand[num_workers], rooms)
            for pool, left in _left(pools, num_there + missing):
                node, each = node_of(pool), of_all.num_on(node_of(pool))
                added = min(left, math.ceil(number / each)) if each else 0
                missing[node.offered] += added
                new, number = _placed(of_all, number, [node] * added)
                rooms += new
    else:
        num_cpus += need.cpus * sum(number * num_workers for num_workers, number in demand.items())
    num_cpus -= sum(_spare_cpus(node.offered, need=need) for node in present)
    num_cpus -= sum(number * _spare_cpus(size, need=need) for size, number in missing.items())
    without_gpus = [pool for pool in pools if not pool.gpus]
    if not without_gpus and any(not node.offered.gpus for node in present):
        return +missing
    for pool, left in _left(without_gpus or pools, num_there + missing):
        number = max(0, min(left, math.ceil(num_cpus / pool.cpus)))
        missing[pool.offered] += number
        num_cpus -= number * pool.cpus
    return +missing


def _placed(need: ResourceRequest, number: int, nodes: Iterable[Node]) -> tuple[list[Node], int]:
    """Put so many with one need on nodes; return what is left of these, and how many find no room."""
    rooms = []
    for node in nodes:
        share, here = need.share_of(node), min(number, need.num_on(node))
        if share is None or not here:
            rooms.append(node)
            continue
        number -= here
        taken = Resources(cpus=share.cpus * here, gpus=share.gpus * here)
        rooms.append(replace(node, offered=node.offered - taken, memory_gib=node.memory_gib - here * need.memory_gib))
    return rooms, number


def _left(pools: Sequence[NodePool], num_there: Counter[Resources]) -> Iterator[tuple[NodePool, int]]:
    """Yield the pools, the fastest first, and how many of each can be added; of one size the fastest are there."""
    num_there = num_there.copy()
    for pool in sorted(pools, key=lambda pool: -pool.gpu.speed):
        offered = pool.offered
        there = min(pool.max_nodes, num_there[offered])
        num_there[offered] -= there
        yield pool, pool.max_nodes - there


def _spare_cpus(offered: Resources, *, need: ResourceRequest) -> float:
    """Return the CPUs of a machine on which trainings leave nothing of its GPUs."""
    return max(0.0, offered.cpus - offered.gpus / need.gpus * need.cpus) if need.gpus else offered.cpus
