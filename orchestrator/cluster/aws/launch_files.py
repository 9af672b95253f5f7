"""The files of a launch: Ray's cluster file, and what is mounted on every machine."""

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.yaml_files import write_yaml
from orchestrator.storage.json_values import JsonMapping

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


def write_launch_files(
    ray: JsonMapping, *, driver: JsonMapping, token: Path, folder: Path, project: Path
) -> LaunchFiles:
    """Write the files of a launch.

    Parameters
    ----------
    ray
        For Ray's cluster launcher, with every placeholder replaced.
    driver
        Cluster file of the driver on the head.
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
    write_yaml(files.mounted / "cluster.yaml", driver)
    content = copy.deepcopy(dict(ray))
    mounts = {f"{REMOTE_PROJECT}/{part}": str(project / part) for part in PROJECT_PARTS if (project / part).exists()}
    own = {**mounts, REMOTE_LAUNCH: str(files.mounted.absolute())}
    content["file_mounts"] = {**content.get("file_mounts", {}), **own}
    write_yaml(files.cluster_file, content)
    return files


def _private(path: Path) -> Path:
    path.touch(mode=0o600)
    path.chmod(0o600)
    return path
