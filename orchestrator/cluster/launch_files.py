"""The files of a launch: Ray's cluster file, and what is mounted on every machine."""

import copy
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator.cluster.config import ClusterConfig

REMOTE_PROJECT = "~/nnunet-orchestrator"
"""The project on every machine; the file's setup commands install it from there."""
REMOTE_LAUNCH = "~/nnunet-launch"
"""The token and the driver's cluster file on every machine."""
PROJECT_PARTS = ("pyproject.toml", "README.md", "LICENSE", "orchestrator", "kernels", "splits", "clusters")
"""What a machine needs of the project; Ray hashes each mounted file at every launch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchFiles:
    """Where they are on this machine."""

    cluster_file: Path
    """What `ray up`, `ray dashboard` and `ray down` read."""
    mounted: Path
    """Folder that becomes REMOTE_LAUNCH."""


def write_launch_files(config: ClusterConfig, *, token: Path, folder: Path, project: Path) -> LaunchFiles:
    """Write the files of a launch.

    Parameters
    ----------
    config
        Of kind `aws`, with every placeholder replaced.
    token
        File with the authentication token.
    folder
        Local folder of the launch; kept, since `ray down` needs the cluster file.
    project
        Root of this project.
    """
    files = LaunchFiles(cluster_file=folder / "ray.yaml", mounted=folder / "mounted")
    # Made readable for this user alone before the token is in it.
    files.mounted.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(token, _private(files.mounted / "auth_token"))
    _write(files.mounted / "cluster.yaml", _driver_cluster(config))
    ray = copy.deepcopy(config.ray)
    mounts = {f"{REMOTE_PROJECT}/{part}": str(project / part) for part in PROJECT_PARTS if (project / part).exists()}
    ray["file_mounts"] = {**ray.get("file_mounts", {}), **mounts, REMOTE_LAUNCH: str(files.mounted.absolute())}
    _write(files.cluster_file, ray)
    return files


def _driver_cluster(config: ClusterConfig) -> dict[str, Any]:
    """Return the cluster file of the driver: to it, the machines around it are a cluster that exists and grows."""
    content = {
        "kind": "existing",
        "address": "auto",
        "auth_token": f"{REMOTE_LAUNCH}/auth_token",
        "cloud": "aws",
        "may_start": {
            machines.name: {name: value for name, value in asdict(machines).items() if name != "name"}
            for machines in config.may_start
        },
        "cpus_per_training": config.cpus_per_training,
        "gpus_per_training": config.gpus_per_training,
        "min_preemption_gain_s": config.min_preemption_gain_s,
    }
    return {key: value for key, value in content.items() if value is not None}


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    # Through JSON: shared parts are written out instead of as YAML references.
    with temporary.open("w", encoding="utf-8") as file:
        yaml.safe_dump(json.loads(json.dumps(content)), file, sort_keys=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _private(path: Path) -> Path:
    path.touch(mode=0o600)
    path.chmod(0o600)
    return path
