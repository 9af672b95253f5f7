"""What kinds of machines a cluster may start, and how long they would take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.cluster.gpu_kinds import kind_of_instance
from orchestrator.configuration import Section
from orchestrator.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """Equal machines that an autoscaler may start."""

    name: str
    number: int
    """The most of them at a time."""
    cpus: int
    """Of each, for stages."""
    gpus: int = 0
    """Likewise."""
    gpu: str = ""
    """Kind of the GPUs by Ray's name; empty if it is not known."""

    def __post_init__(self) -> None:
        for field, least in {"number": 0, "cpus": 1, "gpus": 0}.items():
            if getattr(self, field) < least:
                raise ConfigError(f"{self.name}: {field} is {getattr(self, field)}; expected at least {least}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeType:
    """One kind of machine of Ray's `available_node_types`."""

    name: str
    """Its key in the file."""
    instance_type: str
    """For example `g6e.2xlarge`."""
    is_head: bool
    """Whether the driver runs there; there is always one head."""
    is_spot: bool
    """Whether the provider may take it back."""
    num_cpus: int
    """CPUs that it offers to stages."""
    num_gpus: int
    """GPUs that it offers to stages."""
    max_nodes: int
    """The most of them at a time."""


def node_types(ray: Mapping[str, Any]) -> tuple[NodeType, ...]:
    """Return the kinds of machines of a checked `ray` section, the head first."""
    head = ray["head_node_type"]
    kinds = [
        NodeType(
            name=name,
            instance_type=content["node_config"]["InstanceType"],
            is_head=name == head,
            is_spot="InstanceMarketOptions" in content["node_config"],
            num_cpus=content["resources"].get("CPU", 0),
            num_gpus=content["resources"].get("GPU", 0),
            max_nodes=1 if name == head else content.get("max_workers", ray["max_workers"]),
        )
        for name, content in ray["available_node_types"].items()
    ]
    return tuple(sorted(kinds, key=lambda kind: not kind.is_head))


def workers(ray: Mapping[str, Any]) -> tuple[tuple[NodeType, int], ...]:
    """Return the kinds of workers and how many of each there can be when as many GPU machines run as possible.

    The global `max_workers` is spent on machines with the most GPUs first, since those set the pace of a run.
    """
    nodes_left = ray["max_workers"]
    found = []
    for kind in sorted(node_types(ray)[1:], key=lambda kind: (-kind.num_gpus, -kind.num_cpus)):
        number = min(kind.max_nodes, nodes_left)
        nodes_left -= number
        found.append((kind, number))
    return tuple(found)


def most_processors(ray: Mapping[str, Any]) -> tuple[int, int]:
    """Return the CPUs and GPUs of the cluster when as many GPU machines run as its limits allow."""
    head = node_types(ray)[0]
    found = [(head, 1), *workers(ray)]
    return sum(number * kind.num_cpus for kind, number in found), sum(number * kind.num_gpus for kind, number in found)


def growth_of_aws(ray: Mapping[str, Any]) -> tuple[Growth, ...]:
    """Return the workers that a checked `ray` section may start."""
    found = []
    for kind, number in workers(ray):
        gpu = kind_of_instance(kind.instance_type) if kind.num_gpus else None
        if number and kind.num_cpus:
            name = gpu.name if gpu else ""
            found.append(Growth(name=kind.name, number=number, cpus=kind.num_cpus, gpus=kind.num_gpus, gpu=name))
    return tuple(found)


def growth_of_section(section: Section) -> tuple[Growth, ...]:
    """Return the machines that a cluster file lists; raises ConfigError for an unknown key or a wrong value."""
    found = []
    for name, machine in section.sections():
        values = {key: machine.take(key, int) for key in ("number", "cpus")}
        values |= {"gpus": machine.take("gpus", int, default=0), "gpu": machine.take("gpu", str, default="")}
        machine.finish()
        try:
            found.append(Growth(name=name, **values))
        except ConfigError as error:
            raise ConfigError(f"{section.where}: {error}") from error
    return tuple(found)


def describe(ray: Mapping[str, Any], *, training_hours: float, gpus_per_training: float = 1.0) -> str:
    """Return the machines and the expected length of a run as lines for people.

    Parameters
    ----------
    ray
        A checked `ray` section.
    training_hours
        Hours of all trainings together, one after the other on one GPU.
    gpus_per_training
        Share of a GPU that a training takes.
    """
    lines = [f"cluster {ray['cluster_name']} in {ray['provider']['region']}, at most {ray['max_workers']} workers:"]
    for kind in node_types(ray):
        market = "spot" if kind.is_spot else "on demand"
        number = "1" if kind.is_head else f"0 to {kind.max_nodes}"
        lines.append(
            f"  {kind.name}: {number} x {kind.instance_type} ({market}), "
            f"each {kind.num_cpus} CPUs and {kind.num_gpus} GPUs for stages"
        )
    gpus = most_processors(ray)[1]
    slots = int(gpus / gpus_per_training)
    makespan = f"{training_hours / slots:.3g} hours at the least" if slots else "no GPU: it would not end"
    lines.append(
        f"{training_hours:.3g} A100 hours of training on at most {slots} at a time: {makespan}. "
        "Other GPUs, preprocessing and the start of machines add to this; the provider bills by machine and hour."
    )
    return "\n".join(lines)
