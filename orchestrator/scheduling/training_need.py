"""What stages take of a machine: how many trainings share a GPU follows from the network and the memory of the GPU."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.presets import NNUNET_MEMORY_GIB, Preset
from orchestrator.benchmark.trainings.ensembles import fitted_trainings
from orchestrator.cluster.config import ClusterConfig
from orchestrator.errors import ConfigError
from orchestrator.scheduling.resources import Node, ResourceRequest
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKind

FILLING_GIB = NNUNET_MEMORY_GIB
"""Patch and batch grow until a network takes this memory, and such a network keeps a GPU busy. A second one beside it
would not end earlier than after it."""
LEAST_LOAD = 0.25
"""Of the smallest network: the start of its kernels takes time, too. Not measured on a GPU."""
FIXED_GIB = 2.0
"""What nnU-Net's estimate leaves out: CUDA's context, workspaces of cuDNN, what the allocator keeps."""
LEAST_BATCH_SIZE = 2
"""Patches that nnU-Net's planners put into a batch at the least."""
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
    """Return what each worker of a training takes: a part of a GPU and what feeds it; one CPU where there is none.

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
    workers = f"each of {need.num_workers} workers of a training" if need.num_workers > 1 else "a training"
    return (
        f"{workers.capitalize()} takes {need.cpus:g} CPUs and {need.gpus:g} GPUs with {need.gpu_memory_gib:g} GiB, and "
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


@dataclass(kw_only=True, eq=False)
class Needs:
    """What each stage of a run takes."""

    one: ResourceRequest
    """Of a prediction, and of one worker of a training."""
    asked: Mapping[str, int] = field(default_factory=dict)
    """How many workers a training has, by its id, where it is not one."""
    most: Mapping[str, int] = field(default_factory=dict)
    """How many it may have at the end of a run, where GPUs would be idle otherwise."""
    _expanded: dict[str, int] = field(init=False, default_factory=dict)
    _made: dict[int, ResourceRequest] = field(init=False, default_factory=dict)

    def num_workers(self, stage: Stage) -> int:
        """Return how many slots of one worker a stage takes; 0 for one without a network."""
        if stage.kind is StageKind.TRAIN:
            training = stage.key.training
            return self._expanded.get(training) or self.asked.get(training, 1)
        return int(stage.kind.uses_network)

    def of(self, stage: Stage) -> ResourceRequest:
        """Return what a stage takes while it runs."""
        number = self.num_workers(stage)
        return self.together(number) if number else ResourceRequest(cpus=1, memory_gib=stage.memory_gib)

    def together(self, number: int) -> ResourceRequest:
        """Return what so many workers of one training take."""
        if number not in self._made:
            self._made[number] = replace(self.one, num_workers=number) if number > 1 else self.one
        return self._made[number]

    @cached_property
    def of_networks(self) -> tuple[ResourceRequest, ...]:
        """Of all stages with a network, as they are or may become, the largest first."""
        numbers = {1, *self.asked.values(), *self.most.values()}
        return tuple(self.together(number) for number in sorted(numbers, reverse=True))

    @cached_property
    def of_most(self) -> ResourceRequest:
        """Of the most of the trainings that were named, which may be preempted for each other."""
        ((number, _),) = Counter(self.asked.values()).most_common(1) or [(1, 0)]
        return self.together(number)

    def may_move(self, stage: Stage) -> bool:
        """Whether a stage is a training that may be preempted for others, or they for it: it takes as much as most."""
        return stage.kind is StageKind.TRAIN and self.of(stage) is self.of_most

    def expand(self, stage: Stage, number: int) -> None:
        """Let a training have so many workers until `shrink` is called."""
        self._expanded[stage.key.training] = number

    def is_expanded(self, stage: Stage) -> bool:
        """Whether a training has more workers, when it starts next, than was asked for."""
        return stage.key.training in self._expanded

    def shrink(self, stage: Stage) -> None:
        """Let a training have as many workers as was asked for."""
        self._expanded.pop(stage.key.training, None)


def needs_of(
    trainings: Sequence[Training],
    *,
    one: ResourceRequest,
    preset: Preset,
    config: ClusterConfig,
    machines: Iterable[Node],
) -> Needs:
    """Return what stages take if each training has as many workers as the cluster file says, or else model and preset.

    This is the one place where it is looked whether that can be. What only nnU-Net's planner can tell, the size of a
    batch that no preset gives, is looked at once it has planned.

    Parameters
    ----------
    trainings, preset, config
        What is run, and where.
    one
        What one worker takes.
    machines
        Of the cluster, as far as they are known.

    Raises
    ------
    ConfigError
        If a batch has fewer patches than the training workers, no machine has a GPU for each, or they would share one.
    """
    asked, most = {}, {}
    gpus = max((int(node.offered.gpus) for node in machines), default=0)
    for training in fitted_trainings(trainings):
        own = preset.changed_by(training.model.changes, where=training.id)
        number = asked[training.id] = config.workers_per_training or own.workers
        most[training.id] = max(number, min(config.workers_at_end, own.batch_size or LEAST_BATCH_SIZE))
        check_workers(number, batch_size=own.batch_size, where=training.id)
        if number > 1 and (config.gpus_per_training or 1) < 1:
            raise ConfigError(
                f"{training.id}: {number} workers, and gpus_per_training: {config.gpus_per_training:g} in "
                f"{config.path}; expected a whole GPU for each. Leave it out, or lower workers"
            )
        if number > 1 and 0 < gpus < number:
            raise ConfigError(
                f"{training.id}: {number} workers; expected at most {gpus}, the GPUs of the largest machine of "
                f"{config.path}, since all are on one machine. Lower workers, or set workers_per_training in that file"
            )
    return Needs(one=one, asked=asked, most=most)


def check_workers(number: int, *, batch_size: int | None, where: str) -> None:
    """Raise ConfigError, beginning with `where`, if a batch cannot be divided over so many workers."""
    if batch_size is not None and number > batch_size:
        raise ConfigError(
            f"{where}: {number} workers for batches of {batch_size} patches; expected at most {batch_size}, one patch "
            "for each. Lower workers, or set a larger batch_size"
        )


def first_misfit(needs: Needs, nodes: Collection[Node]) -> ResourceRequest | None:
    """Return what a training that was asked for takes that fits on none of the nodes; None if all fit."""
    asked = map(needs.together, sorted({1, *needs.asked.values()}))
    return next((need for need in asked if not any(need.share_of(node) for node in nodes)), None)


def check_fits(needs: Needs, nodes: Collection[Node]) -> None:
    """Raise ConfigError if a training fits on none of the nodes."""
    need = first_misfit(needs, nodes)
    if need is None:
        return
    offers = sorted({(node.offered.cpus, node.offered.gpus, node.gpu_memory_gib) for node in nodes})
    found = "; ".join(f"{cpus:g} CPUs and {gpus:g} GPUs of {memory:g} GiB" for cpus, gpus, memory in offers)
    number = need.num_workers
    several = f" with {number} workers" if number > 1 else ""
    cpus, gpus = need.cpus * number, (max(need.gpus, 1.0) if several and need.gpus else need.gpus) * number
    raise ConfigError(
        f"a training{several} needs {cpus:g} CPUs and {gpus:g} GPUs with {need.gpu_memory_gib:g} GiB on one machine; "
        f"the machines of the cluster have {found or 'nothing'}. Lower cpus_per_training or "
        f"{'workers' if several else 'gpus_per_training'}, or use larger machines"
    )
