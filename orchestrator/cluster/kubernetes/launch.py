"""A run on Kubernetes: what it needs is looked for, its manifest applied, its driver followed, its tables fetched."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.config import Driver
from orchestrator.cluster.kubernetes.follow import follow_ray_job, job_state
from orchestrator.cluster.kubernetes.kubectl import Kubectl
from orchestrator.cluster.kubernetes.tables import fetch_tables
from orchestrator.errors import ClusterError, ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """A run that is to be there."""

    driver: Driver
    manifest: str
    needed: Mapping[str, tuple[str, ...]]
    """Kind of objects that must be there to their names."""
    output: str | None
    """Where the driver writes, in its pod; None where this machine sees it as well."""
    where: str
    """The cluster file."""

    @property
    def name(self) -> str:
        """Of its objects."""
        return self.driver.run.short

    @property
    def folder(self) -> Path:
        """Of this machine, for a copy of the tables."""
        return Path("runs") / self.name


def launch_and_follow(launched: Launched, kubectl: Kubectl, *, show: Callable[[str], None]) -> bool:
    """Start a run, or attach to it, and follow it to its end; returns whether its driver has succeeded.

    Raises
    ------
    ConfigError
        If a claim, a Secret or the service account is missing, there is no KubeRay, or the run is asked to do something
        else: nothing was started then.
    ClusterError
        If the run is deleted or refused.
    """
    name = launched.name
    state = job_state(kubectl, name)
    if state is not None and not state.has_ended:
        launched.driver.expect_same(state.asked, where=f"RayJob {name}")
        show(f"RayJob {name}: there already, attached")
    else:
        _check_objects(launched, kubectl)
        if state is not None:
            kubectl.delete(name)
        kubectl.apply(launched.manifest)
        show(f"RayJob {name}: applied")
    show("Ctrl-C ends only the watching. To end the run: the same command with --down.")
    ended = follow_ray_job(kubectl, name, show=show)
    succeeded = ended.job == "SUCCEEDED"
    if not succeeded:
        show(f"RayJob {name}: {ended.deployment}, {ended.told or 'its log says why'}")
    _leave(launched, kubectl, cluster=ended.cluster, show=show)
    return succeeded


def _leave(launched: Launched, kubectl: Kubectl, *, cluster: str, show: Callable[[str], None]) -> None:
    """Fetch the tables and delete the run; what fails there changes nothing of what has come of it."""
    try:
        if launched.output is not None and cluster:
            fetch_tables(kubectl, cluster, output=launched.output, folder=launched.folder, show=show)
    except ClusterError as error:
        show(str(error))
    if launched.driver.keep:
        show("The pods go on running. To end them: the same command with --down.")
        return
    try:
        kubectl.delete(launched.name)
    except ClusterError as error:
        show(f"{error}. The pods end by themselves in ten minutes; to end them now: the same command with --down.")


def _check_objects(launched: Launched, kubectl: Kubectl) -> None:
    """Raise ConfigError for what pods would wait for without an end."""
    for kind, names in launched.needed.items():
        for name in names:
            if not kubectl.exists(kind, name):
                raise ConfigError(f"{launched.where}: {kind} {name}: is not in the namespace; nothing was started")
