"""`kind: kubernetes`: pods of a Kubernetes cluster with KubeRay's operator, which come and go with the run."""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import Field

from orchestrator.cluster import environment
from orchestrator.cluster.config import ClusterConfig, Driver, LaunchOutcome, OrderedMachine, RunName
from orchestrator.cluster.gpu_kinds import kind_named
from orchestrator.cluster.kinds.existing import ExistingCluster
from orchestrator.cluster.kubernetes import manifest
from orchestrator.cluster.kubernetes.entries import HeadEntry, VolumeEntry, WorkerGroupEntry
from orchestrator.cluster.kubernetes.follow import ASKED, run_pods
from orchestrator.cluster.kubernetes.kubectl import Kubectl
from orchestrator.cluster.kubernetes.launch import Launched, launch_and_follow
from orchestrator.cluster.kubernetes.names import GroupNames, Image, Named, Namespace
from orchestrator.cluster.node_pool import NodePool
from orchestrator.errors import ConfigError
from orchestrator.shipped import checkout
from orchestrator.storage.filesystem import open_storage

_OWN_VARIABLES = ("RAY_", "KUBERAY_", "FQ_RAY_", "REDIS_", "ORCHESTRATOR_")
"""Begin variables that KubeRay or this project sets."""
_OWN_FOLDERS = ("/dev", "/etc", "/opt", "/proc", "/scratch", "/sys", "/tmp", "/usr")
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|(ACCESS|ACCOUNT|PRIVATE)_?KEY|API_?KEY", re.IGNORECASE)


class KubernetesCluster(ClusterConfig):
    """Pods: a head that drives the run, and workers that come when something waits for them."""

    kind: Literal["kubernetes"] = "kubernetes"
    image: Image
    """Of all pods that name no other; clusters/kubernetes/Dockerfile makes one."""
    pools: Annotated[dict[str, WorkerGroupEntry], GroupNames, Field(min_length=1)]
    """Worker groups by name."""
    head: HeadEntry = Field(default=HeadEntry())
    """The pod of the driver."""
    namespace: Namespace | None = None
    """Unless given, that of the context."""
    context: str | None = None
    """Of kubectl's configuration; unless given, the current one."""
    volumes: Annotated[dict[str, VolumeEntry], GroupNames] = Field(default={})
    """Claims that all pods see, by name."""
    s3_secret: Named | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; without one, what the service account may."""
    token_secret: Named | None = None
    """Secret with the token of the run's Ray as auth_token; unless given, KubeRay makes one."""
    pull_secrets: list[Named] = Field(default=[])
    """Secrets with which images are pulled."""
    service_account: Named | None = None
    """Of all pods."""
    environment: dict[str, str] = Field(default={})
    """Variables of all pods, such as AWS_ENDPOINT_URL; nothing that is secret."""
    user: Annotated[int, Field(ge=1)] = 1000
    """Number of the user as whom everything runs; the image knows it."""
    idle_s: Annotated[int, Field(ge=5)] = 60
    """After so long without work a worker is given back."""

    can_keep: ClassVar[bool] = True

    @property
    def is_elsewhere(self) -> bool:
        """Whether the driver runs elsewhere: in the pod of the head."""
        return True

    @property
    def is_growing(self) -> bool:
        """Whether workers come as something waits for them."""
        return True

    @property
    def gives_back_after_s(self) -> float:
        """Return what the file says of idle workers."""
        return float(self.idle_s)

    def check(self) -> None:
        """Raise ConfigError for what Kubernetes or KubeRay would refuse later, and for what pods would not reach."""
        for name, pool in self.pools.items():
            pool.check(f"{self.path}: pools.{name}")
        for index, toleration in enumerate(self.head.tolerations):
            toleration.check(f"{self.path}: head.tolerations.{index}")
        if "head" in self.pools or "headgroup" in self.pools:
            raise ConfigError(f"{self.path}: pools: head and headgroup are names of the head; expected another name")
        self._check_volumes()
        self._check_environment()
        for key, location in {"output": self.output, "data": self.data}.items():
            self._check_place(location, where=f"{self.path}: {key}")

    def node_pools(self) -> tuple[NodePool, ...]:
        """Return the pods that may be started."""
        return tuple(
            NodePool(
                name=name,
                max_nodes=pool.number,
                min_nodes=pool.always,
                cpus=pool.cpus,
                gpus=pool.gpus,
                gpu=kind_named(pool.gpu),
                market="spot" if pool.spot else "",
            )
            for name, pool in self.pools.items()
        )

    def file_argument(self, file: Path, *, option: str) -> str:
        """Return the path of a file in the image, or on a volume."""
        path, project = file.resolve(), checkout()
        if self._volume_of(str(path)):
            return str(path)
        if not path.is_relative_to(project / "splits"):
            raise ConfigError(
                f"{option} {file}: is not in the image; expected a file below {project}/splits, from which the image "
                "was built, or one on a volume of the cluster file"
            )
        return path.relative_to(project).as_posix()

    def render(self, driver: Driver) -> str:
        """Return the manifest of a run: a ConfigMap and a RayJob."""
        self._check_place(driver.run.output, where="--output")
        self._check_place(driver.run.data, where="--data")
        name = driver.run.short
        files = {
            manifest.DRIVER_SCRIPT: self._script(driver),
            manifest.DRIVER_CLUSTER: yaml.safe_dump(ExistingCluster.around(self).content(), sort_keys=False),
        }
        job = manifest.ray_job(
            name, cluster=self._ray_cluster(name), annotations=_annotations(driver), keep=driver.keep
        )
        # Through JSON: shared parts are written out instead of as YAML references.
        documents = json.loads(json.dumps([manifest.config_map(name, files=files), job]))
        return yaml.safe_dump_all(documents, sort_keys=False, width=120)

    def launch(
        self, driver: Driver, *, confirm: Callable[[str], bool], show: Callable[[str], None]
    ) -> LaunchOutcome | None:
        """Apply the manifest, unless the run is there, follow its driver, fetch its tables, end it."""
        del confirm  # what pods cost is known to those who run the cluster
        output = driver.run.output
        launched = Launched(
            driver=driver,
            manifest=self.render(driver),
            needed={
                "persistentvolumeclaim": tuple(volume.claim for volume in self.volumes.values()),
                "secret": tuple(name for name in (self.s3_secret, self.token_secret, *self.pull_secrets) if name),
                "serviceaccount": (self.service_account,) if self.service_account else (),
            },
            output=None if "://" in output else output,
            where=str(self.path),
        )
        succeeded = launch_and_follow(launched, self._kubectl(), show=show)
        folder = launched.folder if launched.output is None else None
        return LaunchOutcome(succeeded=succeeded, folder=folder)

    def bring_down(self, run: RunName, *, show: Callable[[str], None]) -> None:
        """Delete what a run has left."""
        show(self._kubectl().delete(run.short) or f"{run.short}: nothing is left")

    def ordered_machines(self, run: RunName) -> Sequence[OrderedMachine]:
        """Return the pods of a run, with what Kubernetes says of those that wait."""
        return run_pods(self._kubectl(), run.short)

    def _kubectl(self) -> Kubectl:
        return Kubectl(context=self.context, namespace=self.namespace)

    def _ray_cluster(self, name: str) -> Mapping[str, object]:
        pods = manifest.Pods(
            image=self.image,
            user=self.user,
            pull_secrets=self.pull_secrets,
            service_account=self.service_account,
            volumes=self.volumes,
            environment=self.environment,
            s3_secret=self.s3_secret,
        )
        variables = environment.FOR_WORKERS
        return manifest.ray_cluster(
            head=manifest.head_group(name, pods=pods, entry=self.head, variables=variables),
            groups=[
                manifest.worker_group(group, pods=pods, entry=pool, variables=variables)
                for group, pool in self.pools.items()
            ],
            token_secret=self.token_secret,
            idle_s=self.idle_s,
        )

    def _script(self, driver: Driver) -> str:
        arguments = shlex.join([*driver.arguments, "--cluster", f"{manifest.DRIVER_FOLDER}/{manifest.DRIVER_CLUSTER}"])
        variables = {**environment.HEAD_JOB, environment.LAUNCHED_FROM: str(self.path)}
        exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        lines = [*exports, f"cd {manifest.PROJECT_FOLDER}", f"exec python -m {driver.module} {arguments}"]
        return "\n".join([*lines, ""])

    def _check_volumes(self) -> None:
        seen: dict[str, str] = {}
        for name, volume in self.volumes.items():
            where = f"{self.path}: volumes.{name}"
            if name in {"driver", "scratch", "shared-mem", "ray-logs"}:
                raise ConfigError(f"{where}: the name is taken by a volume of every pod; expected another name")
            if any(PurePosixPath(volume.at).is_relative_to(folder) for folder in _OWN_FOLDERS):
                raise ConfigError(
                    f"{where}: at is {volume.at!r}, which belongs to the image; expected one like /shared"
                )
            if volume.at in seen:
                raise ConfigError(f"{where}: at is {volume.at!r}, as of {seen[volume.at]}; expected another path")
            seen[volume.at] = name

    def _check_environment(self) -> None:
        for name, value in self.environment.items():
            where = f"{self.path}: environment: {name}"
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ConfigError(f"{where}: expected a name of letters, digits and _")
            if _SECRET.search(name) or re.search(r"://[^/]*@", value):
                # Everyone who may look at pods could read the value, which is therefore not shown here.
                raise ConfigError(
                    f"{where}: looks like a secret; expected it in a Secret that s3_secret or token_secret names"
                )
            if name.startswith(_OWN_VARIABLES) or name in {"TMPDIR", "HOME", "PATH", "PYTHONPATH"}:
                raise ConfigError(f"{where}: is {value!r:.80}; expected none: it is set for every pod")

    def _check_place(self, location: str | None, *, where: str) -> None:
        """Raise ConfigError if pods would not reach a location."""
        if location is None or self._volume_of(location):
            return
        if location.startswith("s3://"):
            open_storage(location)
            if self.s3_secret is None and self.service_account is None:
                raise ConfigError(
                    f"{where} is {location!r}; expected s3_secret or service_account, with which pods reach it"
                )
            return
        places = ", ".join(volume.at for volume in self.volumes.values()) or "none is given"
        raise ConfigError(f"{where} is {location!r}; expected s3://bucket/prefix or a path on a volume ({places})")

    def _volume_of(self, location: str) -> str | None:
        path = PurePosixPath(location)
        return next((name for name, volume in self.volumes.items() if path.is_relative_to(volume.at)), None)


def _annotations(driver: Driver) -> dict[str, str]:
    """Return what run and study it is, for people, and what its driver is asked to do."""
    run = driver.run
    return {"orchestrator/study": run.study, "orchestrator/output": run.output, ASKED: driver.told}
