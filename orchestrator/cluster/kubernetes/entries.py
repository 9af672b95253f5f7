"""What a cluster file says of pods: the head, worker groups, volumes, and where they may be placed."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from orchestrator.cluster.gpu_kinds import GpuName
from orchestrator.cluster.kubernetes.names import Image, LabelKey, LabelValue, Mount, Named, NodeLabels
from orchestrator.configuration import Entry
from orchestrator.errors import ConfigError

Spot = Literal["aks", "eks", "gke", "karpenter"]
"""Whose labels say that a node is of the spot market."""


def _gpu_resource(key: str) -> str:
    if "/" not in key or not key.endswith("gpu"):
        # What KubeRay and Ray take for GPUs; others would come as machines without any.
        raise ValueError("a resource whose name ends with gpu, like nvidia.com/gpu")
    return key


class TolerationEntry(Entry):
    """A taint of nodes that pods put up with."""

    key: LabelKey | None = None
    """Of the taint; all of them unless given."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """`Exists` takes every value."""
    value: LabelValue | None = None
    """Of the taint, with `Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Of the taint; all of them unless given."""

    def check(self, where: str) -> None:
        """Raise ConfigError for what the keys together cannot mean; Kubernetes would refuse the pods."""
        if self.operator == "Exists" and self.value is not None:
            raise ConfigError(f"{where}: value is {self.value!r}; expected none with operator Exists")
        if self.key is None and self.operator != "Exists":
            raise ConfigError(f"{where}: operator is Equal; expected a key, or operator Exists")

    def content(self) -> dict[str, str]:
        """Return it in the words of Kubernetes."""
        return self.model_dump(exclude_none=True)


class PodEntry(Entry):
    """What a pod asks for, and which nodes will do."""

    cpus: Annotated[int, Field(ge=1)]
    """CPU cores, asked for and at most."""
    memory_gib: Annotated[float, Field(gt=0)]
    """Memory, asked for and at most."""
    image: Image | None = None
    """Unless given, that of the file; Ray and Python in it must be the same."""
    node_selector: NodeLabels = Field(default={})
    """Labels that a node must have."""
    tolerations: list[TolerationEntry] = Field(default=[])
    """Taints that a node may have."""


class HeadEntry(PodEntry):
    """The head, which drives the run and carries out nothing."""

    cpus: Annotated[int, Field(ge=1)] = 2
    """CPU cores."""
    memory_gib: Annotated[float, Field(ge=2)] = 8
    """Memory."""


class WorkerGroupEntry(PodEntry):
    """Equal pods that come when something waits for them, below their name."""

    number: Annotated[int, Field(ge=1, le=1000)]
    """The most of them at a time."""
    always: Annotated[int, Field(ge=0)] = 0
    """So many are there all the time."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of each."""
    gpu: GpuName = ""
    """Kind of the GPUs by Ray's name, such as A100; empty if it is not known."""
    gpu_resource: Annotated[LabelKey, AfterValidator(_gpu_resource)] = "nvidia.com/gpu"
    """What Kubernetes calls them."""
    spot: Spot | None = None
    """On nodes that may be taken away: their labels and taints, by who gives them."""
    drain_s: Annotated[int, Field(ge=5, le=3600)] = 100
    """Time after a warning in which trainings save their place; less than the provider gives."""
    scratch_gib: Annotated[float, Field(gt=0)] | None = None
    """Room on a disk of the node for temporary files and patches."""

    def check(self, where: str) -> None:
        """Raise ConfigError for what the keys together cannot mean."""
        if self.always > self.number:
            raise ConfigError(f"{where}: always is {self.always}; expected at most number, which is {self.number}")
        if self.gpu and not self.gpus:
            raise ConfigError(f"{where}: gpu is {self.gpu!r} and gpus 0; expected gpus above 0")
        for index, toleration in enumerate(self.tolerations):
            toleration.check(f"{where}.tolerations.{index}")


class VolumeEntry(Entry):
    """A claim that is there, and where pods see it."""

    claim: Named
    """Name of the PersistentVolumeClaim; all pods write to it (ReadWriteMany)."""
    at: Mount
    """Where pods see it."""
