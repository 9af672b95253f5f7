"""Imagined clusters: the one that a cluster file describes, and what else could be rented instead."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.cluster.config import ClusterConfig
from orchestrator.cluster.gpu_kinds import kind_of_instance
from orchestrator.cluster.node_types import NodeType, node_types, workers
from orchestrator.cluster.prices import Prices
from orchestrator.errors import ConfigError
from orchestrator.scheduling.resources import Node, Resources
from orchestrator.simulation.engine import Machines

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of GPU machines that are tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RentedMachines:
    """Equal machines and what one of them costs."""

    machines: Machines
    usd_per_hour: float | None
    """None where nothing is paid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """A cluster."""

    parts: tuple[RentedMachines, ...]
    head_usd_per_hour: float | None
    """Of the machine on which the driver runs, as long as the run takes; None where nothing is paid."""

    @property
    def title(self) -> str:
        """Its machines in a few words."""
        return " + ".join(f"{part.machines.number} {part.machines.node.id}" for part in self.parts)

    @property
    def is_rented(self) -> bool:
        """Whether machines are started for the run."""
        return self.head_usd_per_hour is not None

    @property
    def num_gpus(self) -> int:
        """GPUs of all machines."""
        return round(sum(part.machines.number * part.machines.node.offered.gpus for part in self.parts))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """One machine of each part."""
        return tuple(part.machines.node for part in self.parts if part.machines.number)


def fleet_of(config: ClusterConfig, *, prices: Prices | None) -> Fleet:
    """Return the cluster of a cluster file at its largest.

    Parameters
    ----------
    config
        A file without numbers of processors means this machine.
    prices
        For clusters whose machines are rented.

    Raises
    ------
    ConfigError
        If a machine has no price, or a GPU is not known.
    """
    if config.kind != "aws":
        return Fleet(parts=(RentedMachines(machines=_this_machine(config), usd_per_hour=None),), head_usd_per_hour=None)
    if prices is None:
        raise ConfigError(f"{config.path}: its machines are rented; expected a price list. Pass --prices FILE")
    parts = [
        _rented(kind, number=number, prices=prices, where=str(config.path)) for kind, number in workers(config.ray)
    ]
    return Fleet(
        parts=tuple(part for part in parts if part.machines.number),
        head_usd_per_hour=prices.usd_per_hour(node_types(config.ray)[0].instance_type, is_spot=False),
    )


def alternatives(fleet: Fleet, *, num_trainings: int) -> Iterator[Fleet]:
    """Yield other sizes: of each kind of GPU machine alone, and of all kinds in the proportion of the file."""
    with_gpus = [part for part in fleet.parts if part.machines.node.offered.gpus]
    others = tuple(part for part in fleet.parts if not part.machines.node.offered.gpus)
    total = sum(part.machines.number for part in with_gpus)
    for number in SIZES:
        if number > num_trainings:
            break
        for part in with_gpus:
            yield replace(fleet, parts=(_resized(part, number), *others))
        if len(with_gpus) > 1 and number > 1:
            mixed = [_resized(part, round(number * part.machines.number / total)) for part in with_gpus]
            if sum(part.machines.number > 0 for part in mixed) > 1:
                yield replace(fleet, parts=(*(part for part in mixed if part.machines.number), *others))


def gpu_cost_usd(gpu_hours: Mapping[str, float], fleet: Fleet) -> tuple[float, float] | None:
    """Return the least and the most that hours of GPUs cost on the machines of a cluster; None if that is not known.

    Hours without work and machines without GPUs are not counted. A kind that is not known may be any of the file's.
    """
    low = high = 0.0
    for kind, hours in gpu_hours.items():
        prices = [
            part.usd_per_hour / part.machines.node.offered.gpus
            for part in fleet.parts
            if part.usd_per_hour is not None
            and part.machines.node.offered.gpus
            and kind in {"", part.machines.node.kind}
        ]
        if not prices:
            return None
        low, high = low + hours * min(prices), high + hours * max(prices)
    return low, high


def _resized(part: RentedMachines, number: int) -> RentedMachines:
    return replace(part, machines=replace(part.machines, number=number))


def _rented(kind: NodeType, *, number: int, prices: Prices, where: str) -> RentedMachines:
    gpu = kind_of_instance(kind.instance_type)
    if kind.num_gpus and gpu is None:
        raise ConfigError(f"{where}: the GPUs of {kind.instance_type} are not known to the simulator")
    node = Node(
        id=kind.name,
        offered=Resources(cpus=kind.num_cpus, gpus=kind.num_gpus),
        kind=gpu.name if gpu else "",
        speed=gpu.speed if gpu else 1.0,
        gpu_memory_gib=gpu.memory_gib if gpu else float("inf"),
    )
    return RentedMachines(
        machines=Machines(
            node=node,
            number=number,
            start_s=prices.start_minutes * 60,
            interruptions_per_hour=prices.interruptions_per_hour(kind.instance_type, is_spot=kind.is_spot),
        ),
        usd_per_hour=prices.usd_per_hour(kind.instance_type, is_spot=kind.is_spot),
    )


def _this_machine(config: ClusterConfig) -> Machines:
    # The driver's character devices are there without any library of NVIDIA.
    found = len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])
    num_gpus = config.num_gpus if config.num_gpus is not None else found
    num_cpus = config.num_cpus if config.num_cpus is not None else os.cpu_count() or 1
    return Machines(node=Node(id="this machine", offered=Resources(cpus=num_cpus, gpus=num_gpus)), number=1)
