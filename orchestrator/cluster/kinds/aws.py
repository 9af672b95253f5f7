"""`kind: aws`: machines on AWS that are started for the run by Ray's cluster launcher, and end with it."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from orchestrator.cluster.aws.checks import check_aws
from orchestrator.cluster.aws.pools import head_pool, most_workers, priced
from orchestrator.cluster.config import ClusterConfig, Driver, LaunchOutcome, OrderedMachine, RunName
from orchestrator.cluster.kinds.existing import ExistingCluster
from orchestrator.cluster.node_pool import NO_GPU, NodePool
from orchestrator.cluster.prices import Prices
from orchestrator.errors import ConfigError
from orchestrator.shipped import checkout
from orchestrator.storage.json_values import JsonMapping, JsonObject


class AwsCluster(ClusterConfig):
    """Machines on AWS; everything is on S3."""

    kind: Literal["aws"] = "aws"
    ray: JsonObject
    """In the words of Ray's cluster launcher."""

    is_rented: ClassVar[bool] = True
    can_keep: ClassVar[bool] = True

    @property
    def is_elsewhere(self) -> bool:
        """Whether the driver runs elsewhere: on the head."""
        return True

    @property
    def is_growing(self) -> bool:
        """Whether workers come as something waits for them."""
        return True

    @property
    def gives_back_after_s(self) -> float:
        """Return what the file says of idle workers."""
        return 60.0 * float(self.ray.get("idle_timeout_minutes", 5))

    def check(self) -> None:
        """Raise ConfigError if a machine would not reach the files, or Ray or EC2 would not understand the file."""
        for key, location in {"output": self.output, "data": self.data}.items():
            if location is not None and not location.startswith("s3://"):
                raise ConfigError(
                    f"{self.path}: {key} is {location!r}; expected s3://bucket/prefix, which every machine reaches"
                )
        check_aws(self.ray, where=f"{self.path}: ray")
        if not self.node_pools():
            raise ConfigError(f"{self.path}: ray: no worker may start; expected one with CPU and max_workers above 0")

    def node_pools(self) -> tuple[NodePool, ...]:
        """Return the workers that Ray's autoscaler may start."""
        return most_workers(self.ray)

    def imagined(self, prices: Prices | None) -> tuple[NodePool, ...]:
        """Return the workers with their prices."""
        for pool in self.node_pools():
            if pool.gpus and pool.gpu == NO_GPU:
                raise ConfigError(f"{self.path}: the GPUs of {pool.machine} are not known to the simulator")
        return tuple(priced(pool, self._known(prices)) for pool in self.node_pools())

    def head_usd_per_hour(self, prices: Prices | None) -> float | None:
        """Return what the head costs."""
        return priced(head_pool(self.ray), self._known(prices)).usd_per_hour

    def _known(self, prices: Prices | None) -> Prices:
        if prices is None:
            raise ConfigError(f"{self.path}: its machines are rented; expected a price list. Pass --prices FILE")
        return prices

    def launch(
        self, driver: Driver, *, confirm: Callable[[str], bool], show: Callable[[str], None]
    ) -> LaunchOutcome | None:
        """Bring the machines up, run the driver on the head, follow it, bring the machines down."""
        if driver.needs_gpus and not any(pool.gpus for pool in self.node_pools()):
            raise ConfigError(
                f"{self.path}: ray: no worker with a GPU may start; expected GPU and max_workers above 0, or --preset "
                "smoke, whose trainings are for CPU cores"
            )
        # It is not needed to read a file.
        from orchestrator.cluster.aws.launch import Launch, RayJobs, ShellCommands, launch_and_follow

        launch = Launch(config=self.of_run(driver.run), driver=driver)
        succeeded = launch_and_follow(launch, confirm=confirm, show=show, commands=ShellCommands(), connect=RayJobs)
        return None if succeeded is None else LaunchOutcome(succeeded=succeeded, folder=launch.folder.parent)

    def of_run(self, run: RunName) -> "AwsCluster":
        """Return the same with the letters of a run after the cluster's name: others of this file are left alone."""
        return self.model_copy(
            update={"ray": {**self.ray, "cluster_name": f"{self.ray['cluster_name']}-{run.letters}"}}
        )

    def bring_down(self, run: RunName, *, show: Callable[[str], None]) -> None:
        """End the machines of a run."""
        from orchestrator.cluster.aws.launch import ShellCommands, bring_down, down_command, started_machines

        cluster = self.of_run(run)
        bring_down(cluster, commands=ShellCommands())
        show(f"cluster {cluster.ray['cluster_name']}: brought down")
        if others := started_machines(self):
            # As before names of clusters told their run.
            show(
                f"cluster {self.ray['cluster_name']}, which is of no run: {len(others)} machines were left. If they "
                f"are yours and nothing runs there any more, bring them down: {shlex.join(down_command(self))}"
            )

    def ordered_machines(self, run: RunName) -> Sequence[OrderedMachine]:
        """Return the machines of a run, as their tags tell."""
        from orchestrator.cluster.aws.launch import started_machines

        return started_machines(self.of_run(run))

    def file_argument(self, file: Path, *, option: str) -> str:
        """Return the path of a file on a rented machine, to which this project's folder is copied."""
        path, project = file.resolve(), checkout()
        if not path.is_relative_to(project / "splits"):
            raise ConfigError(
                f"{option} {file}: is not copied to rented machines; expected a file below {project}/splits"
            )
        return path.relative_to(project).as_posix()

    def driver_content(self, *, auth_token: str) -> JsonMapping:
        """Return the cluster file of the driver."""
        return ExistingCluster.around(self, auth_token=auth_token, cloud="aws").content()
