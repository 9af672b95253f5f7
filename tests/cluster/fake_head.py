"""A head of a cluster that is played: commands of Ray that are recorded, machines on an emulated AWS, and its jobs."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import boto3
import yaml

from orchestrator.cluster.jobs import JobState
from orchestrator.errors import ClusterError


class FakeCommands:
    """Records commands and starts and ends the head on the emulated AWS; a command named `failing` fails then."""

    def __init__(self, *, failing: str = "nothing") -> None:
        self.log: list[str] = []
        self.options: dict[str, tuple[str, ...]] = {}
        self._failing = failing

    def call(self, command: Sequence[str]) -> None:
        self.log.append(command[1])
        self.options[command[1]] = tuple(command[2:-1])
        cluster = yaml.safe_load(Path(command[-1]).read_text())["cluster_name"]
        if command[1] == "up" and not heads(cluster):
            start_head(cluster=cluster)
        if command[1] == self._failing:
            raise ClusterError(f"ray {command[1]}: failed")
        if command[1] == "down" and heads(cluster):
            boto3.client("ec2").terminate_instances(InstanceIds=heads(cluster))

    @contextmanager
    def background(self, command: Sequence[str]) -> Iterator[None]:
        self.log.append(command[1])
        try:
            yield
        finally:
            self.log.append("tunnel closed")


def start_head(*, cluster: str) -> None:
    """Start a machine with the tags that Ray gives to the head of a cluster."""
    ec2 = boto3.client("ec2")
    tags = [{"Key": "ray-cluster-name", "Value": cluster}, {"Key": "ray-node-type", "Value": "head"}]
    ec2.run_instances(
        ImageId=ec2.describe_images()["Images"][0]["ImageId"],
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )


def heads(cluster: str = "*") -> list[str]:
    """Return the heads that are running: of all clusters, or of one."""
    running = [{"Name": "instance-state-name", "Values": ["running"]}]
    running += [{"Name": "tag:ray-cluster-name", "Values": [cluster]}]
    found = boto3.client("ec2").describe_instances(Filters=running)["Reservations"]
    return [machine["InstanceId"] for reservation in found for machine in reservation["Instances"]]


class FakeJobs:
    """One head: jobs by id, with a log that comes in pieces and a connection that may break."""

    def __init__(
        self, *, states: Mapping[str, str] | None = None, log: str = "one\ntwo\nthree", breaks: int = 0
    ) -> None:
        self.states = dict(states or {})
        self.ends_with = "SUCCEEDED"
        self.calls: list[str] = []
        self.entrypoint = ""
        self.interrupt: type[BaseException] | None = None
        self._log = log
        self._breaks = breaks

    def find(self, job_id: str) -> JobState | None:
        return JobState(status=self.states[job_id]) if job_id in self.states else None

    def running(self) -> frozenset[str]:
        return frozenset(job_id for job_id, status in self.states.items() if status == "RUNNING")

    def submit(self, job_id: str, *, entrypoint: str, environment: Mapping[str, str]) -> None:
        self.calls.append("submit")
        self.entrypoint = entrypoint
        self.states[job_id] = "RUNNING"

    def forget(self, job_id: str) -> None:
        self.calls.append("forget")
        del self.states[job_id]

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        yield self._log[:6]
        if self.interrupt:
            raise self.interrupt
        if self._breaks:
            self._breaks -= 1
            raise RuntimeError("connection lost")
        yield self._log[6:]
        self.states[job_id] = self.ends_with
