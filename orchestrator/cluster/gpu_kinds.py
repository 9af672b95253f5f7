"""GPUs by the names that Ray gives them: how fast they train, and their memory."""

import re
import subprocess
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import AfterValidator


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuKind:
    """One model of GPU."""

    name: str
    """As Ray calls it."""
    speed: float
    """Of a training, of an A100 = 1: where a run begins, until its own epochs tell better."""
    memory_gib: float


GPU_KINDS = {
    kind.name: kind
    for kind in (
        GpuKind(name="H200", speed=1.7, memory_gib=141),
        GpuKind(name="H100", speed=1.6, memory_gib=80),
        GpuKind(name="A100", speed=1.0, memory_gib=40),
        GpuKind(name="L40S", speed=0.8, memory_gib=48),
        GpuKind(name="A10G", speed=0.4, memory_gib=24),
        GpuKind(name="L4", speed=0.3, memory_gib=24),
        GpuKind(name="T4", speed=0.2, memory_gib=16),
    )
}
"""None is older than Turing, for which PyTorch is no longer built with the CUDA that pip installs."""

_OF_INSTANCES = {
    "p5e": "H200",
    "p5en": "H200",
    "p5": "H100",
    "p4d": "A100",
    "p4de": "A100-80G",
    "g6e": "L40S",
    "g5": "A10G",
    "g6": "L4",
    "g4dn": "T4",
}


def kind_of_instance(instance_type: str) -> GpuKind | None:
    """Return the GPUs of an EC2 instance type such as `g6e.2xlarge`; None if it has none that are known."""
    name = _OF_INSTANCES.get(instance_type.partition(".")[0])
    return kind_of_accelerator(name) if name else None


def kind_of_accelerator(name: str) -> GpuKind | None:
    """Return a kind by Ray's name, which may go on with the memory, as in `A100-80G`; None if it is not known."""
    name = name.removeprefix("NVIDIA_")
    model, _, rest = name.partition("-")
    kind = GPU_KINDS.get(model)
    memory = re.fullmatch(r"(\d+)GB?", rest)
    return replace(kind, name=name, memory_gib=float(memory[1])) if kind and memory else kind


def kind_named(name: str) -> GpuKind:
    """Return a kind by Ray's name; one that is not known counts as an A100 of unknown memory.

    Without a name it is `NO_GPU`.
    """
    return kind_of_accelerator(name) or GpuKind(name=name, speed=1.0, memory_gib=float("inf"))


def _spelled_as_ray_does(name: str) -> str:
    kind = kind_of_accelerator(name)
    if kind is not None and "-" in name and kind.name != name.removeprefix("NVIDIA_"):
        raise ValueError(f"Ray's name of it, which ends with the memory, as in {kind.name}-80G")
    near = next((known for known in GPU_KINDS if not kind and _letters(known) == _letters(name)), None)
    if near is not None:
        raise ValueError(f"Ray's name of it; did you mean {near!r}?")
    return name


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]|nvidia", "", name.casefold())


GpuName = Annotated[str, AfterValidator(_spelled_as_ray_does)]
"""Kind of GPUs in a cluster file: by Ray's name, or one that is not known here, but not by a known one misspelled."""


def memory_of_gpus_here() -> float:
    """Return the memory of the smallest GPU of this machine, in GiB, as NVIDIA's tool says; infinite if it does not."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
        return min(float(line) for line in answer.splitlines()) / 1024
    except (OSError, subprocess.SubprocessError, ValueError):
        return float("inf")
