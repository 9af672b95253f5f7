"""The manifest of a run: a KubeRay RayJob with a worker group for each pool, and a ConfigMap with what the head runs.

Fields and rules are those of KubeRay 1.7 (`ray.io/v1`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from orchestrator.cluster.kubernetes.entries import (
    HeadEntry,
    PodEntry,
    Spot,
    TolerationEntry,
    VolumeEntry,
    WorkerGroupEntry,
)
from orchestrator.storage.json_values import JsonMapping, JsonObject

DRIVER_FOLDER = "/etc/orchestrator"
"""Where the head finds the files of the ConfigMap."""
DRIVER_SCRIPT, DRIVER_CLUSTER = "driver.sh", "cluster.yaml"
PROJECT_FOLDER = "/opt/orchestrator"
"""Of the image."""
SCRATCH = "/scratch"
OWN_SCRATCH = f"{SCRATCH}/own"
"""For this user alone: the folder of a volume is open to all."""
KEPT_S = 600
"""Time after the end of a driver in which its tables can be fetched; then the cluster ends by itself."""
OBJECT_STORE_BYTES = 200 * 1024**2
"""Of shared memory, which counts as memory of the pod; hardly anything passes through it."""
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Keys of the Secret, and names of variables; the last is not in every one."""

_SPOT: Mapping[Spot, tuple[str, str, bool]] = {
    # Label and value; whether its nodes have a taint of the same name.
    "aks": ("kubernetes.azure.com/scalesetpriority", "spot", True),
    "eks": ("eks.amazonaws.com/capacityType", "SPOT", False),
    "gke": ("cloud.google.com/gke-spot", "true", True),
    "karpenter": ("karpenter.sh/capacity-type", "spot", False),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pods:
    """What all pods of a run have in common."""

    image: str
    user: int
    pull_secrets: Sequence[str]
    service_account: str | None
    volumes: Mapping[str, VolumeEntry]
    environment: Mapping[str, str]
    s3_secret: str | None

    def template(self, container: JsonMapping, entry: PodEntry, **more: object) -> JsonObject:
        """Return the template of a pod with one container."""
        spec: JsonObject = {
            "containers": [{**container, "securityContext": _confined()}],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": self.user,
                "runAsGroup": self.user,
                "fsGroup": self.user,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "restartPolicy": "Never",
        }
        if self.pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in self.pull_secrets]
        if self.service_account:
            spec["serviceAccountName"] = self.service_account
        if entry.node_selector:
            spec["nodeSelector"] = dict(entry.node_selector)
        if entry.tolerations:
            spec["tolerations"] = [toleration.content() for toleration in entry.tolerations]
        return {"spec": {**spec, **{key: value for key, value in more.items() if value}}}

    def variables(self, more: Mapping[str, str]) -> list[JsonObject]:
        """Return the environment of a container; what is secret is named, not written."""
        found: list[JsonObject] = [
            {"name": name, "value": value} for name, value in {**self.environment, **more}.items()
        ]
        if self.s3_secret:
            for key in S3_KEYS:
                reference = {"name": self.s3_secret, "key": key, "optional": key == S3_KEYS[-1]}
                found.append({"name": key, "valueFrom": {"secretKeyRef": reference}})
        return found

    def mounts(self) -> tuple[list[JsonObject], list[JsonObject]]:
        """Return the volumes of a pod, and where its container sees them."""
        volumes = [
            {"name": name, "persistentVolumeClaim": {"claimName": volume.claim}}
            for name, volume in self.volumes.items()
        ]
        return volumes, [{"name": name, "mountPath": volume.at} for name, volume in self.volumes.items()]


def config_map(name: str, *, files: Mapping[str, str]) -> JsonObject:
    """Return the ConfigMap with the files of a driver."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(name), "data": dict(files)}


def ray_job(name: str, *, cluster: JsonMapping, annotations: Mapping[str, str], keep: bool) -> JsonObject:
    """Return the RayJob of a run.

    Parameters
    ----------
    name
        Also of the ConfigMap.
    cluster
        As `ray_cluster` returns it.
    annotations
        Which run it is, for people.
    keep
        Whether its machines stay after the end.
    """
    submitter = cluster["headGroupSpec"]["template"]["spec"]
    container = {
        "name": "submitter",
        "image": submitter["containers"][0]["image"],
        "resources": _resources({"cpu": "500m", "memory": "1Gi"}),
        "securityContext": _confined(),
    }
    shared = ("securityContext", "restartPolicy", "imagePullSecrets")
    template = {key: submitter[key] for key in shared if key in submitter} | {"containers": [container]}
    ends = {} if keep else {"ttlSecondsAfterFinished": KEPT_S}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {**_metadata(name), "annotations": dict(annotations)},
        "spec": {
            # A script, since the words of an entry point pass through two shells.
            "entrypoint": f"bash {DRIVER_FOLDER}/{DRIVER_SCRIPT}",
            "shutdownAfterJobFinishes": not keep,
            **ends,
            "submitterPodTemplate": {"spec": template},
            "rayClusterSpec": cluster,
        },
    }


def ray_cluster(
    *, head: JsonMapping, groups: Sequence[JsonMapping], token_secret: str | None, idle_s: int
) -> JsonObject:
    """Return the cluster of a RayJob: its head, its worker groups, who may use it and how it grows."""
    secret = {"secretName": token_secret} if token_secret else {}
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token", **secret},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": idle_s,
            "upscalingMode": "Default",
            "resources": _resources({"cpu": "500m", "memory": "1Gi"}),
            "securityContext": _confined(),
        },
        "headGroupSpec": dict(head),
        "workerGroupSpecs": [dict(group) for group in groups],
    }


def head_group(name: str, *, pods: Pods, entry: HeadEntry, variables: Mapping[str, str]) -> JsonObject:
    """Return the head, which offers nothing to stages."""
    volumes, mounts = pods.mounts()
    volumes.append({"name": "driver", "configMap": {"name": name}})
    mounts.append({"name": "driver", "mountPath": DRIVER_FOLDER, "readOnly": True})
    container = {
        "name": "ray-head",
        "image": entry.image or pods.image,
        "env": pods.variables(variables),
        "resources": _resources(_amounts(entry)),
        "volumeMounts": mounts,
    }
    parameters = {"num-cpus": "0", "num-gpus": "0", "object-store-memory": str(OBJECT_STORE_BYTES)}
    return {"rayStartParams": parameters, "template": pods.template(container, entry, volumes=volumes)}


def worker_group(name: str, *, pods: Pods, entry: WorkerGroupEntry, variables: Mapping[str, str]) -> JsonObject:
    """Return the pods of a pool."""
    volumes, mounts = pods.mounts()
    own: JsonObject = {}
    if entry.scratch_gib:
        volumes.append({"name": "scratch", "emptyDir": {"sizeLimit": _mebibytes(entry.scratch_gib)}})
        mounts.append({"name": "scratch", "mountPath": SCRATCH})
        # KubeRay runs this before `ray start`, whose own folder stays where the operator looks for it.
        own["command"] = ["mkdir", "-p", "-m", "700", OWN_SCRATCH]
        variables = {**variables, "TMPDIR": OWN_SCRATCH, "ORCHESTRATOR_CACHES": OWN_SCRATCH, "RAY_TMPDIR": "/tmp"}
    gpus = {entry.gpu_resource: str(entry.gpus)} if entry.gpus else {}
    leave = ["python", "-m", "orchestrator.ray_backend.leave", "--within-s", str(entry.drain_s)]
    container = {
        "name": "ray-worker",
        "image": entry.image or pods.image,
        **own,
        "env": pods.variables(variables),
        "resources": _resources({**_amounts(entry), **gpus}),
        "volumeMounts": mounts,
        "lifecycle": {"preStop": {"exec": {"command": leave}}},
    }
    placed = _on_spot(entry)
    return {
        "groupName": name,
        "replicas": entry.always,
        "minReplicas": entry.always,
        "maxReplicas": entry.number,
        "rayStartParams": {"object-store-memory": str(OBJECT_STORE_BYTES)},
        "template": pods.template(
            container,
            placed,
            volumes=volumes,
            # Beyond what the hook takes, for Ray to end.
            terminationGracePeriodSeconds=entry.drain_s + 20,
        ),
    }


def _on_spot(entry: WorkerGroupEntry) -> WorkerGroupEntry:
    """Return a pool with the labels and taints of its market."""
    if entry.spot is None:
        return entry
    label, value, has_taint = _SPOT[entry.spot]
    taint = [TolerationEntry(key=label, value=value, effect="NoSchedule")] if has_taint else []
    selector = {**entry.node_selector, label: value}
    return entry.model_copy(update={"node_selector": selector, "tolerations": [*entry.tolerations, *taint]})


def _metadata(name: str) -> JsonObject:
    return {"name": name, "labels": {"app.kubernetes.io/name": "orchestrator", "app.kubernetes.io/instance": name}}


def _confined() -> JsonObject:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _amounts(entry: PodEntry) -> dict[str, str]:
    return {"cpu": str(entry.cpus), "memory": _mebibytes(entry.memory_gib)}


def _mebibytes(gib: float) -> str:
    return f"{round(gib * 1024)}Mi"


def _resources(amounts: Mapping[str, str]) -> JsonObject:
    return {"limits": dict(amounts), "requests": dict(amounts)}
