"""The machines of a Ray cluster as the schedule sees them, and how Ray is told where a stage shall run."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from orchestrator.cluster.config import ClusterConfig
from orchestrator.cluster.gpu_kinds import kind_of_accelerator
from orchestrator.pipeline.processors import Node, Resources

_KIND_LABEL = "ray.io/accelerator-type"
_NODE_LABEL = "ray.io/node-id"
GROWING = "cluster"
"""Node that stands for all machines of a cluster that grows: which ones there will be is the autoscaler's affair."""


def nodes_of(found: Iterable[Mapping[str, Any]], config: ClusterConfig) -> tuple[Node, ...]:
    """Return the nodes on which stages can be placed.

    Parameters
    ----------
    found
        What ``ray.nodes()`` says.
    config
        A cluster that may grow to more than is there now is one large node: waiting work makes it grow.
    """
    nodes = tuple(_node(record) for record in found if record["Alive"] and record["Resources"].get("CPU", 0) > 0)
    cpus, gpus = (sum(getattr(node.offered, name) for node in nodes) for name in ("cpus", "gpus"))
    if cpus < (config.num_cpus or 0) or gpus < (config.num_gpus or 0):
        most = Resources(cpus=max(cpus, config.num_cpus or 0), gpus=max(gpus, config.num_gpus or 0))
        return (Node(id=GROWING, offered=most),)
    return nodes


def label_selector(node: Node, *, nodes: Collection[Node], shunned: Collection[str]) -> dict[str, str]:
    """Return the labels of the machines on which a training may run; none where all of them will do.

    The kind of GPU was chosen with care, the machine among its equals was not: Ray takes the one that has room.
    """
    selector = {}
    if node.kind and len({other.kind for other in nodes if other.offered.gpus > 0}) > 1:
        selector[_KIND_LABEL] = node.kind
    if shunned:
        selector[_NODE_LABEL] = f"!in({','.join(sorted(shunned))})"
    return selector


def _node(record: Mapping[str, Any]) -> Node:
    resources, labels = record["Resources"], record.get("Labels") or {}
    name = labels.get(_KIND_LABEL) or next(
        (key.partition(":")[2] for key in resources if key.startswith("accelerator_type:")), ""
    )
    kind = kind_of_accelerator(name) if name else None
    return Node(
        id=record["NodeID"],
        offered=Resources(cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0)),
        kind=name,
        speed=kind.speed if kind else 1.0,
        gpu_memory_gib=kind.memory_gib if kind else float("inf"),
    )
