"""Imagined clusters: the one that a cluster file describes, and what else could be rented instead."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from orchestrator.cluster.config import ClusterConfig
from orchestrator.cluster.node_pool import NodePool
from orchestrator.cluster.prices import Prices
from orchestrator.scheduling.resources import Node, node_of

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of GPU machines that are tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """A cluster."""

    pools: tuple[NodePool, ...]
    """Its machines, at their most."""
    head_usd_per_hour: float | None
    """Of the machine on which the driver runs, as long as the run takes; None where nothing is paid."""
    is_growing: bool = False
    """Whether machines come as something waits for them, and are given back; otherwise all are there all the time."""
    idle_s: float = 600.0
    """After so long without work they are given back."""

    @property
    def title(self) -> str:
        """Its machines in a few words."""
        return " + ".join(f"{pool.max_nodes} {pool.name}" for pool in self.pools)

    @property
    def num_gpus(self) -> int:
        """GPUs of all machines."""
        return round(sum(pool.max_nodes * pool.gpus for pool in self.pools))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """One machine of each pool."""
        return tuple(node_of(pool) for pool in self.pools if pool.max_nodes)


def fleet_of(config: ClusterConfig, *, prices: Prices | None) -> Fleet:
    """Return the cluster of a cluster file at its largest.

    Parameters
    ----------
    config
        Of a kind whose machines are known beforehand.
    prices
        For clusters whose machines are rented.

    Raises
    ------
    ConfigError
        If its machines are not known, or one has no price.
    """
    return Fleet(
        pools=config.imagined(prices),
        head_usd_per_hour=config.head_usd_per_hour(prices),
        is_growing=config.is_growing,
        idle_s=config.gives_back_after_s,
    )


def alternatives(fleet: Fleet, *, num_trainings: int) -> Iterator[Fleet]:
    """Yield other sizes: of each kind of GPU machine alone, and of all kinds in the proportion of the file."""
    with_gpus = [pool for pool in fleet.pools if pool.gpus]
    others = tuple(pool for pool in fleet.pools if not pool.gpus)
    total = sum(pool.max_nodes for pool in with_gpus)
    for number in SIZES:
        if number > num_trainings:
            break
        for pool in with_gpus:
            yield replace(fleet, pools=(replace(pool, max_nodes=number), *others))
        if len(with_gpus) > 1 and number > 1:
            mixed = [replace(pool, max_nodes=round(number * pool.max_nodes / total)) for pool in with_gpus]
            if sum(pool.max_nodes > 0 for pool in mixed) > 1:
                yield replace(fleet, pools=(*(pool for pool in mixed if pool.max_nodes), *others))


def gpu_cost_usd(gpu_hours: Mapping[str, float], fleet: Fleet) -> tuple[float, float] | None:
    """Return the least and the most that hours of GPUs cost on the machines of a cluster; None if that is not known.

    Hours without work and machines without GPUs are not counted. A kind that is not known may be any of the file's.
    """
    low = high = 0.0
    for kind, hours in gpu_hours.items():
        prices = [
            pool.usd_per_hour / pool.gpus
            for pool in fleet.pools
            if pool.usd_per_hour is not None and pool.gpus and kind in {"", pool.gpu.name}
        ]
        if not prices:
            return None
        low, high = low + hours * min(prices), high + hours * max(prices)
    return low, high
