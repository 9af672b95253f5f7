"""The machines of a Ray cluster as the schedule sees them, and how Ray is told where a stage shall run."""

import math
from collections.abc import Collection, Iterable
from dataclasses import replace

import ray

from orchestrator.cluster.gpu_kinds import kind_named, memory_of_gpus_here
from orchestrator.cluster.node_pool import Resources
from orchestrator.scheduling.resources import Node
from orchestrator.storage.json_values import JsonMapping

_KIND_LABEL = "ray.io/accelerator-type"
_NODE_LABEL = "ray.io/node-id"
DRAINED_AT = "orchestrator/drained-at"
"""Label of a machine whose end is known: from then on, in seconds of the time of day, it is drained."""
_MEMORIES = ("memory", "object_store_memory")
"""What a node had free when its Ray was started, in bytes; hardly anything passes through the object store."""


def nodes_of(found: Iterable[JsonMapping]) -> tuple[Node, ...]:
    """Return the nodes on which stages can be placed, of what ``ray.nodes()`` says."""
    return tuple(_node(record) for record in found if record["Alive"] and record["Resources"].get("CPU", 0) > 0)


def time_left(found: Iterable[JsonMapping], *, now_s: float) -> dict[str, float]:
    """Return the seconds until machines will be drained, by id, where they say so; `now_s` is the time of day."""
    labels = {str(record["NodeID"]): record.get("Labels") or {} for record in found}
    return {node_id: float(own[DRAINED_AT]) - now_s for node_id, own in labels.items() if DRAINED_AT in own}


def nodes_here(found: Iterable[JsonMapping]) -> tuple[Node, ...]:
    """Return the nodes of an embedded Ray: Ray's names of GPUs tell little of those that are not made for servers."""
    return tuple(
        replace(node, gpu_memory_gib=memory_of_gpus_here())
        if node.offered.gpus and math.isinf(node.gpu_memory_gib)
        else node
        for node in nodes_of(found)
    )


def node_at(address: str | None, *, found: Iterable[JsonMapping]) -> str | None:
    """Return the id of the node with an IP address; None if there is none, or several share it."""
    there = [str(record["NodeID"]) for record in found if record["Alive"] and record["NodeManagerAddress"] == address]
    return there[0] if len(there) == 1 else None


def label_selector(node: Node, *, nodes: Collection[Node], quarantined: Collection[str]) -> dict[str, str]:
    """Return the labels of the machines on which a training may run; none where all of them will do.

    The kind of GPU was chosen with care, the machine among its equals was not: Ray takes the one that has room.
    """
    selector = {}
    if node.kind and len({other.kind for other in nodes if other.offered.gpus > 0}) > 1:
        selector[_KIND_LABEL] = node.kind
    if quarantined:
        selector |= without(quarantined)
    return selector


def without(quarantined: Collection[str]) -> dict[str, str]:
    """Return the labels of all machines but some."""
    return {_NODE_LABEL: f"!in({','.join(sorted(quarantined))})"}


def only(node_id: str) -> dict[str, str]:
    """Return the label of one machine."""
    return {_NODE_LABEL: node_id}


def has_room(node_id: str, share: Resources) -> bool:
    """Return whether a node has so much that nothing takes at the moment, as far as Ray knows."""
    free = ray._private.state.available_resources_per_node().get(node_id, {})  # noqa: SLF001 - what Ray's own use
    return share.fits_in(Resources(cpus=free.get("CPU", 0.0), gpus=free.get("GPU", 0.0)))


def _node(record: JsonMapping) -> Node:
    resources, labels = record["Resources"], record.get("Labels") or {}
    name = labels.get(_KIND_LABEL) or next(
        (key.partition(":")[2] for key in resources if key.startswith("accelerator_type:")), ""
    )
    offered = Resources(cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0))
    kind = kind_named(name)
    memory = sum(resources.get(key, 0.0) for key in _MEMORIES) / 2**30 if "memory" in resources else float("inf")
    return Node(
        id=record["NodeID"],
        offered=offered,
        kind=name,
        speed=kind.speed,
        gpu_memory_gib=kind.memory_gib,
        memory_gib=memory,
    )
