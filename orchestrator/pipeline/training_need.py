"""What one training takes of a machine: how many share a GPU follows from the network and the memory of the GPU."""

from collections.abc import Iterable

from orchestrator.benchmark.presets import Preset
from orchestrator.cluster.config import ClusterConfig
from orchestrator.pipeline.processors import Need, Node

FILLING_GIB = 8.0
"""Memory that nnU-Net plans for by default: patch and batch grow until a network takes it, and such a network keeps a
GPU busy. A second one beside it would not end earlier than after it."""
LEAST_LOAD = 0.25
"""Of the smallest network: the start of its kernels takes time, too. Not measured on a GPU."""
FIXED_GIB = 2.0
"""What nnU-Net's estimate leaves out: CUDA's context, workspaces of cuDNN, what the allocator keeps."""
CPUS = 8.0
"""That feed a network which keeps a GPU busy."""


def training_need(config: ClusterConfig, nodes: Iterable[Node], *, preset: Preset) -> Need:
    """Return what each training of a run takes: a part of a GPU and the CPUs that feed it, one CPU where there is none.

    Parameters
    ----------
    config
        What it says of CPUs and GPUs goes before what the preset needs.
    nodes
        Machines of the cluster.
    preset
        Bounds the memory that nnU-Net estimates for a plan, and with it what a network has to compute.
    """
    with_gpus = [node.offered for node in nodes if node.offered.gpus > 0]
    if not with_gpus:
        return Need(cpus=1)
    load = min(1.0, max(LEAST_LOAD, preset.gpu_memory_gib / FILLING_GIB))
    gpus = config.gpus_per_training or load
    # Where a machine has few cores its GPUs share them, rather than staying idle.
    there = min(offered.cpus * min(1.0, gpus) // offered.gpus for offered in with_gpus)
    return Need(
        cpus=min(config.cpus_per_training or CPUS * load, max(1.0, there)),
        gpus=gpus,
        gpu_load=load,
        gpu_memory_gib=preset.gpu_memory_gib + FIXED_GIB,
        gpus_of_unknown=config.gpus_per_training or 1.0,
    )
