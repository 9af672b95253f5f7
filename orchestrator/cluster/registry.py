"""The kinds of clusters that are known, by name; reads a cluster file strictly."""

from collections.abc import Mapping
from pathlib import Path

from orchestrator.cluster.config import ClusterConfig
from orchestrator.cluster.kinds.aws import AwsCluster
from orchestrator.cluster.kinds.existing import ExistingCluster
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.cluster.kinds.slurm import SlurmCluster
from orchestrator.configuration import load_yaml, understood
from orchestrator.errors import ConfigError

KINDS: dict[str, type[ClusterConfig]] = {
    kind.model_fields["kind"].default: kind for kind in (LocalCluster, ExistingCluster, SlurmCluster, AwsCluster)
}


def load_cluster(path: Path) -> ClusterConfig:
    """Read a cluster file.

    Raises
    ------
    ConfigError
        If the file is missing, has an unknown key or a wrong value, or is not what its kind understands.
    """
    content = load_yaml(path)
    if not isinstance(content, Mapping):
        found = "nothing" if content is None else type(content).__name__
        raise ConfigError(f"{path}: found {found}; expected a mapping of keys to values")
    if "kind" not in content:
        raise ConfigError(f"{path}: key 'kind' is missing; expected one of {', '.join(KINDS)}")
    kind = content["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{path}: kind is {kind!r:.200}; expected one of {', '.join(KINDS)}")
    config = understood(content, KINDS[kind], where=str(path), context=path)
    config.check()
    return config
