"""What one training takes of a machine: how many share a GPU follows from the network and the memory of the GPU."""

import math
from collections import Counter
from collections.abc import Iterable

from orchestrator.benchmark.presets import NNUNET_MEMORY_GIB, Preset
from orchestrator.cluster.config import ClusterConfig
from orchestrator.scheduling.resources import Node, ResourceRequest

FILLING_GIB = NNUNET_MEMORY_GIB
"""Patch and batch grow until a network takes this memory, and such a network keeps a GPU busy. A second one beside it
would not end earlier than after it."""
LEAST_LOAD = 0.25
"""Of the smallest network: the start of its kernels takes time, too. Not measured on a GPU."""
FIXED_GIB = 2.0
"""What nnU-Net's estimate leaves out: CUDA's context, workspaces of cuDNN, what the allocator keeps."""
_ROUNDING = 1e-3
"""Ten shares of a tenth are a little less than one."""
CPUS = 8.0
"""That feed a network which keeps a GPU busy."""
ON_CPU_GIB = 1.0
"""Memory of a miniature's training and of its prediction, on a CPU."""
BESIDE_GPU_GIB = 6.0
"""Memory of the machine for a training or prediction on a GPU: CUDA and what else is imported, the batches that are
ready, or logits of a large case on their way to its grid. The part of CUDA was not measured."""


def training_need(
    config: ClusterConfig, nodes: Iterable[Node], *, preset: Preset, planned_gib: float = FILLING_GIB
) -> ResourceRequest:
    """Return what each training of a run takes: a part of a GPU and what feeds it; one CPU where there is none.

    Parameters
    ----------
    config
        What it says of CPUs and GPUs goes before what the preset needs; a machine that has less takes no training.
    nodes
        Machines of the cluster.
    preset
        Bounds the memory that nnU-Net estimates for a plan, and with it what a network has to compute.
    planned_gib
        What the planners of the run plan for where the preset sets no bound: the most of any of them.
    """
    memory_gib = planned_gib if preset.gpu_memory_gib is None else preset.gpu_memory_gib
    with_gpus = [node.offered for node in nodes if node.offered.gpus > 0]
    if not with_gpus:
        return ResourceRequest(cpus=1, memory_gib=ON_CPU_GIB)
    load = min(1.0, max(LEAST_LOAD, memory_gib / FILLING_GIB))
    gpus = config.gpus_per_training or load
    # Where a machine has few cores its GPUs share them, rather than staying idle.
    there = min(offered.cpus * gpus // offered.gpus for offered in with_gpus)
    return ResourceRequest(
        cpus=config.cpus_per_training or min(CPUS * load, max(1.0, there)),
        gpus=gpus,
        gpu_load=load,
        gpu_memory_gib=memory_gib + FIXED_GIB,
        gpus_of_unknown=config.gpus_per_training or 1.0,
        memory_gib=BESIDE_GPU_GIB,
    )


def idle_gpus(need: ResourceRequest, nodes: Iterable[Node]) -> str:
    """Return a line about the GPUs that take no training because their machine lacks something; empty for none."""
    offers = Counter(
        f"{idle} of {_description(node)}" for node in nodes if need.gpus and (idle := _num_idle_gpus(need, node))
    )
    if not offers:
        return ""
    found = "; ".join(f"{number} x {offer}" for offer, number in sorted(offers.items()))
    return (
        f"A training takes {need.cpus:g} CPUs and {need.gpus:g} GPUs with {need.gpu_memory_gib:g} GiB, and "
        f"{need.memory_gib:g} GiB of its machine. GPUs that take none: {found}. Where cores are missing, lower "
        "cpus_per_training"
    )


def _num_idle_gpus(need: ResourceRequest, node: Node) -> int:
    share = need.share_of(node)
    taken = need.num_on(node) * share.gpus if share else 0.0
    return int(node.offered.gpus - taken + _ROUNDING)


def _description(node: Node) -> str:
    memory = "" if math.isinf(node.memory_gib) else f" in {node.memory_gib:.0f} GiB"
    return f"{node.offered.gpus:g} GPUs of {node.gpu_memory_gib:g} GiB with {node.offered.cpus:g} CPUs{memory}"
