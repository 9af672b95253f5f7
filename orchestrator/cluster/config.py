"""Where a run takes place: one YAML file, read strictly."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.cluster.node_types import Growth, growth_of_aws, growth_of_section
from orchestrator.configuration import Section, load_yaml
from orchestrator.errors import ConfigError

Kind = Literal["local", "existing", "aws"]
SLICE_S = 600.0
"""A training gives way only to one that needs this much longer: long against what a restart costs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """One cluster file."""

    path: Path
    """The file it was read from."""
    kind: Kind
    """`local` starts Ray for the run, `existing` connects to it, `aws` starts machines."""
    address: str | None = None
    """Of an existing cluster: `auto` or `host:port`."""
    auth_token: Path | None = None
    """File with the token of an existing cluster; None for what the environment says."""
    num_cpus: int | None = None
    """CPUs of an embedded Ray, None for all of this machine."""
    num_gpus: int | None = None
    """Likewise for GPUs."""
    may_start: tuple[Growth, ...] = ()
    """Machines that an autoscaler may start for other clusters."""
    cpus_per_training: float | None = None
    """CPUs for each training with a GPU: they feed it. None for what the preset needs; without GPUs it is one CPU."""
    gpus_per_training: float | None = None
    """Part of a GPU for each training; below 1, several share it. None for as many on a GPU as fit and pay."""
    min_preemption_gain_s: float = SLICE_S
    """A training gives way only to one that needs this much longer."""
    cloud: Literal["aws"] | None = None
    """Whose machines the nodes are: they ask it whether they are about to be taken away."""
    output: str | None = None
    """Where everything is written, unless the command line says otherwise; S3 for `aws`."""
    data: str | None = None
    """Where the downloads are, unless the command line says otherwise; S3 for `aws`."""
    ray: dict[str, Any] = field(default_factory=dict)
    """Ray's own cluster launcher configuration; only for `aws`."""

    def __post_init__(self) -> None:
        for name in ("cpus_per_training", "gpus_per_training", "min_preemption_gain_s"):
            number = getattr(self, name)
            if number is not None and not number > 0:
                raise ConfigError(f"{self.path}: {name} is {number}; expected more than 0")
        gpus = self.gpus_per_training
        if gpus is not None and gpus > 1:
            raise ConfigError(
                f"{self.path}: gpus_per_training is {gpus}; expected 1 or a part: a training uses one GPU"
            )
        for name in ("num_cpus", "num_gpus"):
            number = getattr(self, name)
            if number is not None and number < (1 if name == "num_cpus" else 0):
                raise ConfigError(f"{self.path}: {name} is {number}; expected at least {int(name == 'num_cpus')}")


def load_cluster(path: Path) -> ClusterConfig:
    """Read a cluster file.

    Raises
    ------
    ConfigError
        If the file is missing, has an unknown key or a wrong value, or its `ray` section is not what Ray accepts.
    """
    content = load_yaml(path)
    section = Section(content, where=str(path))
    if "kind" not in content:
        raise ConfigError(f"{path}: key 'kind' is missing; expected one of local, existing, aws")
    kind: Kind = section.choose("kind", ("local", "existing", "aws"))
    values: dict[str, Any] = {
        "cpus_per_training": section.take("cpus_per_training", float, default=None),
        "gpus_per_training": section.take("gpus_per_training", float, default=None),
        "min_preemption_gain_s": section.take("min_preemption_gain_s", float, default=SLICE_S),
    }
    if kind == "existing":
        token = section.take("auth_token", str, default=None)
        values |= {"address": _address(section), "auth_token": token and Path(token).expanduser()}
        cloud = section.choose("cloud", ("aws", "none"), default="none")
        values["cloud"] = None if cloud == "none" else cloud
        growth = section.take("may_start", dict, default={})
        values["may_start"] = growth_of_section(Section(growth, where=f"{path}: may_start"))
    if kind == "local":
        values["num_cpus"] = section.take("num_cpus", int, default=None)
        values["num_gpus"] = section.take("num_gpus", int, default=None)
    if kind != "local":
        values["output"] = section.take("output", str, default=None)
        values["data"] = section.take("data", str, default=None)
    if kind == "aws":
        values |= _aws(section, output=values["output"], data=values["data"])
    section.finish()
    return ClusterConfig(path=path, kind=kind, **values)


def _aws(section: Section, *, output: str | None, data: str | None) -> dict[str, Any]:
    from orchestrator.cluster.aws_checks import check_aws

    ray = section.take("ray", dict)
    # A misspelled key of our own is the likelier mistake: it is named first.
    section.finish()
    for key, location in {"output": output, "data": data}.items():
        if location is not None and not location.startswith("s3://"):
            raise ConfigError(
                f"{section.where}: {key} is {location!r}; expected s3://bucket/prefix, which every machine reaches"
            )
    check_aws(ray, where=f"{section.where}: ray")
    growth = growth_of_aws(ray)
    if not any(machines.gpus for machines in growth):
        raise ConfigError(f"{section.where}: ray: no worker with a GPU may start; expected GPU and max_workers above 0")
    return {"ray": ray, "may_start": growth}


def _address(section: Section) -> str:
    address: str = section.take("address", str)
    if address != "auto" and not re.fullmatch(r"[\w.-]+:\d{1,5}", address):
        raise ConfigError(f"{section.where}: address is {address!r}; expected auto or host:port, like 10.0.0.5:6379")
    return address
