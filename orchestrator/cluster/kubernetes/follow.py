"""A RayJob from its submission to its end: why it waits, what its driver says, what has come of it."""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cluster.config import OrderedMachine
from orchestrator.cluster.jobs import MAX_LOST, RECONNECT_S, DriverLostError
from orchestrator.cluster.kubernetes.kubectl import RAY_JOB, Kubectl
from orchestrator.cluster.log_lines import LogLines
from orchestrator.errors import ClusterError
from orchestrator.storage.json_values import JsonMapping

LOOK_EVERY_S = 5.0
ASKED = "orchestrator/asked"
"""Annotation of a RayJob: what its driver is asked to do."""
SHOWN = 200
"""Characters of a reason, which can name every node of a cluster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayJobState:
    """What the operator says of a RayJob."""

    job: str
    """PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED, or empty before there is a driver."""
    deployment: str
    """Initializing, Running, Complete, Failed, ValidationFailed and others, or empty."""
    cluster: str
    """Name of its RayCluster; empty before there is one."""
    told: str
    """Why it is so, if the operator says."""
    asked: str | None = None
    """What its driver was asked to do, as its annotation tells."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.deployment in {"Complete", "Failed", "ValidationFailed"}

    @property
    def has_log(self) -> bool:
        """Whether a driver has begun, which writes one."""
        return self.deployment == "Running" or (self.has_ended and self.job != "")


def job_state(kubectl: Kubectl, name: str) -> RayJobState | None:
    """Return what is said of the RayJob of a run; None if there is none."""
    found = kubectl.get(RAY_JOB, name)
    if found is None:
        return None
    status = found.get("status") or {}
    return RayJobState(
        job=status.get("jobStatus", ""),
        deployment=status.get("jobDeploymentStatus", ""),
        cluster=status.get("rayClusterName", ""),
        told=_in_words(status) or _why_no_pods(status.get("rayClusterStatus") or {}),
        asked=((found.get("metadata") or {}).get("annotations") or {}).get(ASKED),
    )


def _why_no_pods(cluster: JsonMapping) -> str:
    """Return why Kubernetes makes no pods of a RayCluster, such as a quota: there is no pod then that says so."""
    found = (one for one in cluster.get("conditions") or () if one.get("type") == "ReplicaFailure")
    failure = next((one for one in found if one.get("status") == "True"), None)
    # Operators without conditions say it in `reason`.
    told = _in_words(failure) if failure else _in_words({"reason": cluster.get("reason")})
    # Names of workers end with letters that are drawn at each try.
    return re.sub(r'\bpods? "[^"]*"', "a pod", told)


def _in_words(told: JsonMapping) -> str:
    parts = (told.get("reason"), told.get("message"))
    return ": ".join(" ".join(str(part).split()) for part in parts if part)


def why_pods_wait(pods: Sequence[JsonMapping]) -> Mapping[str, int]:
    """Return how many pods wait, by their group and the reason that Kubernetes gives."""
    reasons: Counter[str] = Counter()
    for pod in pods:
        status = pod.get("status") or {}
        if status.get("phase") != "Pending":
            continue
        group = ((pod.get("metadata") or {}).get("labels") or {}).get("ray.io/group", "pod")
        reasons[f"{group}: {_reason(status)}"] += 1
    return dict(reasons)


def run_pods(kubectl: Kubectl, name: str) -> Sequence[OrderedMachine]:
    """Return the pods of the cluster of a RayJob; none where there is no such job."""
    state = job_state(kubectl, name)
    found = []
    for pod in kubectl.pods(f"ray.io/cluster={state.cluster}") if state and state.cluster else ():
        labels, status = (pod.get("metadata") or {}).get("labels") or {}, pod.get("status") or {}
        is_waiting = status.get("phase") == "Pending"
        is_head = labels.get("ray.io/node-type") == "head"
        found.append(
            OrderedMachine(
                pool="head" if is_head else labels.get("ray.io/group", ""),
                state="starting" if is_waiting else "there",
                reason=_reason(status) if is_waiting else "",
            )
        )
    return tuple(found)


def _reason(status: JsonMapping) -> str:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") != "True":
            return " ".join(str(condition.get("message") or condition.get("reason") or "waiting").split())[:SHOWN]
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return _in_words(waiting)[:SHOWN]
    return "starting"


def follow_ray_job(
    kubectl: Kubectl,
    name: str,
    *,
    show: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> RayJobState:
    """Show why a run waits, then the log of its driver line by line, until it has ended; returns its last state.

    Raises
    ------
    ClusterError
        If it is deleted meanwhile, or the operator refuses it.
    DriverLostError
        If the cluster does not answer for five minutes.
    """
    lines, waits, num_lost = LogLines(show=show), _Waits(show=show), 0
    while True:
        try:
            state = _follow_on(kubectl, name, lines=lines, waits=waits)
        except ClusterError as error:
            num_lost += 1
            if num_lost > MAX_LOST:
                raise DriverLostError(f"RayJob {name}: {error}; the same command attaches again") from error
            sleep(RECONNECT_S)
            continue
        num_lost = 0
        if state is None:
            raise ClusterError(f"RayJob {name}: it was deleted; the same command goes on from what is done")
        if state.deployment == "ValidationFailed":
            raise ClusterError(f"RayJob {name}: KubeRay refuses it: {state.told}")
        if state.has_ended:
            lines.finish()
            return state
        sleep(LOOK_EVERY_S)


def _follow_on(kubectl: Kubectl, name: str, *, lines: LogLines, waits: "_Waits") -> RayJobState | None:
    """Show the log of a driver as far as it can be followed, or why there is none; returns the state afterwards."""
    state = job_state(kubectl, name)
    if state is None or not state.has_log:
        if state is not None and not state.has_ended:
            waits.tell(kubectl, state)
        return state
    lines.rewind()
    if told := kubectl.stream(["logs", "--follow", f"job/{name}"], take=lines.add):
        waits.show_new(f"the log of the driver cannot be read: {told}")
    return job_state(kubectl, name)


class _Waits:
    """Says why a run has not begun or cannot be seen, each time that this changes."""

    def __init__(self, *, show: Callable[[str], None]) -> None:
        self._show = show
        self._told = ""

    def tell(self, kubectl: Kubectl, state: RayJobState) -> None:
        """Look at the pods."""
        pods = kubectl.pods(f"ray.io/cluster={state.cluster}") if state.cluster else ()
        reasons = [f"{number} x {reason}" for reason, number in why_pods_wait(pods).items()]
        self.show_new(f"waiting: {'; '.join([*reasons, *([state.told] if state.told else [])]) or 'for KubeRay'}")

    def show_new(self, line: str) -> None:
        """Show a line, unless it was the last one."""
        if line != self._told:
            self._show(line)
        self._told = line
