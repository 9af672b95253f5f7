"""Tables of a run on a volume that this machine does not see: fetched through the pod of its head."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from orchestrator.cluster.kubernetes.kubectl import Kubectl
from orchestrator.errors import ClusterError
from orchestrator.storage import run_paths


def fetch_tables(kubectl: Kubectl, cluster: str, *, output: str, folder: Path, show: Callable[[str], None]) -> None:
    """Copy the tables below `output` in the pod of a head into a folder of this machine; raises ClusterError."""
    labels = f"ray.io/cluster={cluster},ray.io/node-type=head"
    names = [pod["metadata"]["name"] for pod in kubectl.pods(labels)]
    if not names:
        raise ClusterError(f"cluster {cluster}: its head is gone; the tables are in {output}/{run_paths.TABLES}")
    packed = kubectl.read("exec", names[0], "-c", "ray-head", "--", "tar", "-C", output, "-cf", "-", run_paths.TABLES)
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if member.isfile() and path.parts[:1] == (run_paths.TABLES,) and ".." not in path.parts:
                    content = archive.extractfile(member)
                    assert content is not None
                    target = folder.joinpath(*path.parts)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content.read())
                    show(str(target))
    except tarfile.TarError as error:
        raise ClusterError(f"pod {names[0]}: its answer holds no tables ({error}); they are in {output}") from error
