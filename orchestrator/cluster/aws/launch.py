"""A run on machines that are started for it: up, tunnel, submit, follow, down."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cluster import environment
from orchestrator.cluster.aws.checks import placeholders
from orchestrator.cluster.aws.launch_files import REMOTE_LAUNCH, REMOTE_PROJECT, LaunchFiles, write_launch_files
from orchestrator.cluster.aws.pools import describe
from orchestrator.cluster.commands import ShellCommands, free_port, ray_command
from orchestrator.cluster.config import Driver, OrderedMachine
from orchestrator.cluster.jobs import (
    DriverJob,
    RayJobs,
    follow,
    shell_entrypoint,
    submission_id,
    submit_or_attach,
)
from orchestrator.cluster.yaml_files import write_yaml
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.shipped import checkout
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

if TYPE_CHECKING:
    from orchestrator.cluster.kinds.aws import AwsCluster

__all__ = ["Launch", "RayJobs", "ShellCommands", "check_aws_account", "launch_and_follow"]

DASHBOARD_PORT = 8265
"""On the head's loopback."""
WORDS_OF_START = {True: "was running already: attached", False: "started"}
"""By whether the driver was there."""
HEAD = "head"
"""Of a cluster, in its tags."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What is to be run on machines that are started for it."""

    config: "AwsCluster"
    """With every placeholder replaced."""
    driver: Driver

    @property
    def submission_id(self) -> str:
        """The same for the same run, so that a second call finds the first one's job."""
        return submission_id(self.driver.arguments)

    @property
    def folder(self) -> Path:
        """Local folder for the files of the launch; it stays, since `ray down` needs them."""
        return Path("runs") / self.submission_id / "cluster"

    @property
    def submission(self) -> DriverJob:
        """The driver as a Ray job on the head."""
        arguments = shlex.join(self.driver.arguments)
        script = (
            f"cd {REMOTE_PROJECT} && exec ~/venv/bin/python -m {self.driver.module} {arguments} "
            f"--cluster {REMOTE_LAUNCH}/cluster.yaml"
        )
        return DriverJob(
            id=self.submission_id,
            entrypoint=shell_entrypoint(script),
            environment={**environment.HEAD_JOB, environment.LAUNCHED_FROM: str(self.config.path)},
        )


def launch_and_follow(
    launch: Launch,
    *,
    confirm: Callable[[str], bool],
    show: Callable[[str], None],
    commands: ShellCommands,
    connect: Callable[[str], RayJobs],
) -> bool | None:
    """Start the machines, run the driver on the head, show what it prints, bring the machines down.

    A second call while the driver runs attaches to it and changes nothing on the head. Machines go down when the driver
    has ended, or if no driver could be started on a head that this call has made. After Ctrl-C, when the head cannot be
    reached any more, or when an older head does not answer, they stay; what to do then is shown.

    Parameters
    ----------
    launch
        What to run.
    confirm
        Is shown the machines and the expected hours and says whether to go on.
    show
        Takes lines for people.
    commands
        Runs `ray up`, `ray dashboard` and `ray down`.
    connect
        Gives the jobs behind a local address.

    Returns
    -------
    bool or None
        Whether the driver has succeeded; None if the answer was not to go on.

    Raises
    ------
    ConfigError
        If the file has places to be filled in, the output is not on S3, or AWS does not accept our credentials.
    ClusterError
        If a command fails, the head cannot be reached or works for another driver.
    """
    _check_ready(launch)
    check_aws_account(launch)
    if not confirm(_described(launch)):
        return None
    head = _Head(name=launch.config.ray["cluster_name"], files=_write_files(launch), commands=commands, connect=connect)
    succeeded = _drive(head, launch, show=show)
    tables = open_storage(launch.driver.run.output)
    if succeeded and not run_paths.own_keys(tables, run_paths.TABLES):
        raise ClusterError(f"{tables.location}: the driver succeeded and left no tables; expected some below tables/")
    return succeeded


def _described(launch: Launch) -> str:
    """Return what would be started, and for how long."""
    share = launch.config.gpus_per_training or 1.0
    return describe(launch.config.ray, training_hours=launch.driver.training_hours, gpus_per_training=share)


def _write_files(launch: Launch) -> LaunchFiles:
    token = environment.ensure_token()
    return write_launch_files(
        launch.config.ray,
        driver=launch.config.driver_content(auth_token=f"{REMOTE_LAUNCH}/auth_token"),
        token=token,
        folder=launch.folder,
        project=checkout(),
    )


def _drive(head: "_Head", launch: Launch, *, show: Callable[[str], None]) -> bool:
    """Bring the machines up, follow the driver and leave; returns whether it has succeeded."""
    was_there = has_head(launch.config)
    # A driver may be at work on a head that was there, whatever fails on the way to it.
    stay = launch.driver.keep or was_there
    try:
        if not (was_there and head.works_for(launch.submission_id)):
            # Without this option Ray ends all that runs on a head that is there; it starts on a new one all the same.
            head.commands.call(head.command("up", "-y", "--no-config-cache", "--no-restart"))
        with head.jobs() as (jobs, address):
            attached = submit_or_attach(jobs, launch.submission)
            # From here on a driver is at work, whatever becomes of who watches it.
            stay = True
            show(f"driver {launch.submission_id} {WORDS_OF_START[attached]}; {address}")
            succeeded = follow(jobs, launch.submission_id, show=show)
        stay = launch.driver.keep
    except KeyboardInterrupt:
        stay = True
        raise
    finally:
        _leave(head, stay=stay, show=show)
    return succeeded


def check_aws_account(launch: Launch) -> None:
    """Raise ConfigError if AWS does not accept our credentials; StorageError if the output cannot be read."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        boto3.client("sts", region_name=launch.config.ray["provider"]["region"]).get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        raise ConfigError(
            f"AWS does not know who we are ({error}); expected credentials where boto3 finds them, for example "
            "from `aws configure` or in AWS_PROFILE"
        ) from error
    # Asked for a single object, S3 does not tell a bucket that is not there from an object that is not.
    open_storage(launch.driver.run.output).list_keys(run_paths.TABLES)


def has_head(config: "AwsCluster") -> bool:
    """Whether the head of a cluster on AWS is there or starting; raises ClusterError if AWS does not say."""
    return any(machine.pool == HEAD for machine in started_machines(config))


def started_machines(config: "AwsCluster") -> Sequence[OrderedMachine]:
    """Return the machines of a cluster on AWS; raises ClusterError if AWS does not say."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    # What Ray's own provider looks for.
    wanted = {
        "instance-state-name": ["pending", "running"],
        "tag:ray-cluster-name": [config.ray["cluster_name"]],
    }
    filters = [{"Name": name, "Values": values} for name, values in wanted.items()]
    try:
        ec2 = boto3.client("ec2", region_name=config.ray["provider"]["region"])
        pages = list(ec2.get_paginator("describe_instances").paginate(Filters=filters))
    except (BotoCoreError, ClientError) as error:
        raise ClusterError(f"{config.path}: AWS does not say which machines the cluster has: {error}") from error
    found = [machine for page in pages for group in page["Reservations"] for machine in group["Instances"]]
    return tuple(_machine({tag["Key"]: tag["Value"] for tag in machine.get("Tags", ())}) for machine in found)


def _machine(tags: Mapping[str, str]) -> OrderedMachine:
    status = tags.get("ray-node-status", "")
    is_there = status == "up-to-date"
    pool = HEAD if tags.get("ray-node-type") == HEAD else tags.get("ray-user-node-type", "")
    return OrderedMachine(pool=pool, state="there" if is_there else "starting", reason="" if is_there else status)


def bring_down(config: "AwsCluster", *, commands: ShellCommands) -> None:
    """End the machines of a cluster; raises ClusterError if the command fails."""
    commands.call(down_command(config))


def down_command(config: "AwsCluster") -> tuple[str, ...]:
    """Return the command that ends the machines of a cluster, whoever has started them, with the file that it takes."""
    folder = Path("runs") / f"down-{config.ray['cluster_name']}"
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "ray.yaml", config.ray)
    return ray_command("down", "-y", str(folder / "ray.yaml"))


def _check_ready(launch: Launch) -> None:
    if not launch.driver.run.output.startswith("s3://"):
        raise ConfigError(
            f"--output {launch.driver.run.output}: every machine must reach it; expected s3://bucket/prefix"
        )
    left = placeholders({"driver arguments": launch.driver.arguments, "ray": launch.config.ray})
    if left:
        fields = "; ".join(
            f"{word} ({places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''})"
            for word, places in left.items()
        )
        raise ConfigError(f"{launch.config.path}: {len(left)} values must be filled in before a launch: {fields}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Head:
    """The head of a cluster, reached by commands of Ray."""

    name: str
    """Of its cluster."""
    files: LaunchFiles
    commands: ShellCommands
    connect: Callable[[str], RayJobs]

    def command(self, name: str, *options: str) -> tuple[str, ...]:
        """Return a command of Ray's cluster launcher."""
        return ray_command(name, *options, str(self.files.cluster_file))

    @contextmanager
    def jobs(self) -> Iterator[tuple[RayJobs, str]]:
        """Context with a tunnel to its dashboard: its jobs, and the dashboard's address on this machine."""
        port = free_port()
        tunnel = self.command("dashboard", "--port", str(port), "--remote-port", str(DASHBOARD_PORT))
        with self.commands.background(tunnel):
            address = f"http://127.0.0.1:{port}"
            yield self.connect(address), address

    def works_for(self, driver: str) -> bool:
        """Whether it carries out this driver; raises ClusterError if another one, or if it does not answer."""
        try:
            with self.jobs() as (jobs, _):
                running = jobs.running()
        except ClusterError as error:
            look = shlex.join(self.command("attach"))
            restart = shlex.join(self.command("up", "-y", "--no-config-cache", "--restart-only"))
            raise ClusterError(
                f"cluster {self.name}: there is a head, but its dashboard cannot be used: {error}. It was left as it "
                f"is. To look at it: {look}. If its Ray has died, start it anew: {restart}"
            ) from error
        if running and driver not in running:
            others = ", ".join(sorted(running))
            raise ClusterError(
                f"cluster {self.name}: its head works for {others}; expected {driver} or no driver. "
                "Wait until it has ended, end it with --down, or give this run another --output"
            )
        return driver in running


def _leave(head: _Head, *, stay: bool, show: Callable[[str], None]) -> None:
    """Bring the machines down, or say that they stay and how to bring them down."""
    down = head.command("down", "-y")
    if stay:
        show(f"The machines go on running and cost money. To bring them down: {shlex.join(down)}")
        show("To follow the driver again: the same command.")
        return
    try:
        head.commands.call(down)
    except ClusterError:
        show(f"Machines may be left running and cost money. To bring them down: {shlex.join(down)}")
        raise
