"""What the status of a run says of its machines: those there, those asked for, and why nothing starts."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import boto3
import pytest
import yaml
from batch_phantoms import end_jobs, played_slurm
from fake_backend import FakeBackend
from kubernetes_played import play, played_kubectl, pod, state
from moto import mock_aws
from test_kubernetes import BASE

from orchestrator.cli.status import machine_lines, main
from orchestrator.cluster.config import OrderedMachine, RunName
from orchestrator.cluster.kinds.slurm import SlurmCluster
from orchestrator.cluster.node_pool import Resources
from orchestrator.cluster.registry import load_cluster
from orchestrator.driver.event_recorder import EventRecorder
from orchestrator.driver.lease import Lease
from orchestrator.driver.loop import RunLoop
from orchestrator.driver.status import read_status
from orchestrator.events import EventLog, read_events
from orchestrator.ray_backend.executor import NODES_INTERVAL_S
from orchestrator.run_all import main as run
from orchestrator.scheduling.ended import Done
from orchestrator.scheduling.resources import Node, NodesSeen, ResourceRequest
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import Needs
from orchestrator.shipped import shipped_file
from orchestrator.storage.filesystem import open_storage
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKey, StageKind

GPU = Resources(cpus=8, gpus=1)


class GrowingBackend(FakeBackend):
    """One that sees what a test says."""

    nodes = ()

    def __init__(self):
        super().__init__()
        self.seen = None
        self.given_back = []

    def look_at_nodes(self):
        return self.seen

    def give_back(self, node_id):
        self.given_back.append(node_id)


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path / "run")


def a_log(storage):
    events = EventLog(storage, run_started=datetime(2026, 1, 1, tzinfo=UTC), clock=lambda: datetime.now(UTC))
    events.append("run_started", trainings=["a", "b"], stages_done=0)
    return events


def two_trainings_for_three(storage):
    """Return a loop, what it runs on, its clock, and the three machines, of which each takes one training."""
    keys = [StageKey(kind=StageKind.TRAIN, training=name) for name in "ab"]
    graph = {key: Stage(key=key, dependencies=(), products=(), expected_s=100.0) for key in keys}
    nodes = [Node(id=name, offered=GPU) for name in ("one", "two", "three")]
    schedule = Schedule(graph, done=(), nodes=(), to_come=nodes[:1], needs=Needs(one=ResourceRequest(cpus=8, gpus=1)))
    backend, now = GrowingBackend(), [0.0]
    loop = RunLoop(
        schedule,
        backend=backend,
        storage=storage,
        listeners=[EventRecorder(storage, events=a_log(storage))],
        lease=SimpleNamespace(check=lambda: None, look=lambda: None),
        clock=lambda: now[0],
    )
    return loop, backend, now, nodes


def test_a_machine_that_nothing_needs_is_given_back_within_a_minute(storage):
    loop, backend, now, nodes = two_trainings_for_three(storage)
    backend.seen = NodesSeen(present=tuple(nodes), draining=frozenset())
    backend.idle_s = SlurmCluster.model_fields["idle_s"].default
    given_back_s = {}
    for _ in range(20):
        # A connection looks at its machines no more often.
        loop.step()
        given_back_s = {name: given_back_s.get(name, now[0]) for name in backend.given_back}
        if now[0] == 90.0:
            (first, *_) = backend.running
            backend.ends[first] = Done()
        now[0] += NODES_INTERVAL_S
    at_work = {node for _, _, node in backend.started}
    (never_used,) = {node.id for node in nodes} - at_work
    (_, released) = given_back_s.items()
    assert given_back_s[never_used] <= 60.0
    assert released[0] in at_work
    assert 90.0 < released[1] <= 90.0 + 60.0


def test_what_machines_do_is_told_each_time_that_it_changes(storage):
    loop, backend, now, nodes = two_trainings_for_three(storage)
    size = "8 CPUs and 1 GPUs"
    backend.seen = NodesSeen(present=tuple(nodes), draining=frozenset())
    loop.step()
    backend.seen = NodesSeen(present=tuple(nodes), draining=frozenset({"three"}))
    for _ in range(2):
        now[0] += 10.0
        loop.step()
    told = [event["machines"] for event in read_events(storage) if event["kind"] == "machines_seen"]
    assert told[0] == {"idle": {size: 3}}
    # The third may be one of the two that have a training, which goes on there.
    assert (set(told[-1]) - {"idle"}, told[-1]["drained"]) == ({"busy", "drained"}, {size: 1})
    assert len(told) in {2, 3}


def shown(storage, *, capsys, words=()):
    with Lease(storage, note=lambda _: None):
        main(["--output", storage.location, *words])
    return capsys.readouterr()


def test_the_status_lists_machines_and_why_nothing_starts(storage, capsys):
    events = a_log(storage)
    events.append("machines_missing", machines=3)
    events.append("machines_waiting", waiting={"gpu: Priority": 2})
    told = shown(storage, capsys=capsys).out
    assert "machines asked for: 3; in the queue: 2 x gpu: Priority\n" in told
    assert "nothing starts: there is no machine that may be used, and those asked for are not there yet\n" in told
    events.append("machines_seen", machines={"busy": {"8 CPUs and 1 GPUs": 2}, "quarantined": {"8 CPUs": 1}})
    events.append("machines_missing", machines=0)
    told = shown(storage, capsys=capsys).out
    assert "machines busy: 2 x 8 CPUs and 1 GPUs\nmachines quarantined: 1 x 8 CPUs\n" in told
    assert "nothing starts" not in told
    assert "asked for" not in told
    record = json.loads(shown(storage, capsys=capsys, words=["--json"]).out)
    assert record["machines"]["quarantined"] == {"8 CPUs": 1}


def test_where_every_machine_is_quarantined_nothing_starts(storage):
    events = a_log(storage)
    lines = machine_lines(read_status(storage), (), is_at_work=True)
    assert lines == ["nothing starts: there is no machine that may be used, and the cluster has told of none yet"]
    events.append("machines_seen", machines={"quarantined": {"8 CPUs": 1}})
    lines = machine_lines(read_status(storage), (), is_at_work=True)
    assert lines[-1] == "nothing starts: there is no machine that may be used, and none is asked for"
    # What a dead driver saw last is no news.
    assert machine_lines(read_status(storage), (), is_at_work=False) == []


def test_jobs_of_a_batch_system_are_listed_with_its_reasons(tmp_path, monkeypatch, storage, capsys):
    jobs = played_slurm(tmp_path, monkeypatch)
    (jobs / "full").touch()
    path = tmp_path / "slurm.yaml"
    pool = {"number": 2, "cpus": 1, "time_limit_minutes": 60}
    path.write_text(yaml.safe_dump({"kind": "slurm", "pools": {"cores": pool}}))
    config, run = load_cluster(path), RunName(output=storage.location, study="")
    script = tmp_path / "worker.sh"
    script.write_text(config._worker_script("cores", f"{run.short}-", where=tmp_path, comment="", number=None))
    config._system().submit_job(script)
    words = ["--output", storage.location, "--cluster", str(path)]
    assert main(words) == 1
    nothing_else = "the driver has not begun, or its output is not seen from here"
    assert capsys.readouterr().out == f"machines ordered: 1 x cores: asked for (Resources)\n{nothing_else}\n"
    assert main([*words, "--json"]) == 1
    ordered = [{"pool": "cores", "state": "asked for", "reason": "Resources"}]
    assert json.loads(capsys.readouterr().out) == {"driver": nothing_else, "machines_ordered": ordered}
    a_log(storage)
    told = shown(storage, capsys=capsys, words=["--cluster", str(path)]).out
    end_jobs(jobs)
    assert "machines ordered: 1 x cores: asked for (Resources)\n" in told


def test_pods_are_listed_with_the_reasons_of_kubernetes(tmp_path, monkeypatch):
    objects = played_kubectl(tmp_path, monkeypatch)
    path = tmp_path / "pods.yaml"
    path.write_text(yaml.safe_dump(BASE))
    config, run = load_cluster(path), RunName(output="/shared/run", study="")
    play(objects, state("RUNNING", "Running"), pods=[pod("gpu", message="no GPU is free"), pod("gpu", phase="Running")])
    assert config.ordered_machines(run) == ()
    (objects / "rayjob.yaml").touch()
    assert config.ordered_machines(run) == (
        OrderedMachine(pool="gpu", state="starting", reason="no GPU is free"),
        OrderedMachine(pool="gpu", state="there"),
    )


@mock_aws
def test_machines_of_aws_are_listed_by_their_tags(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "played")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "played")
    config, run = load_cluster(shipped_file("clusters", "aws.yaml")), RunName(output="s3://b/x", study="")
    ec2 = boto3.client("ec2", region_name="us-east-1")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    own = f"nnunet-{run.letters}"
    for cluster, kind, pool, status in (
        (own, "head", "head", "up-to-date"),
        (own, "worker", "gpu_spot_l40s", "waiting-for-ssh"),
        ("nnunet-of-another-run", "head", "head", "up-to-date"),
    ):
        tags = {"ray-cluster-name": cluster, "ray-node-type": kind, "ray-user-node-type": pool}
        tags["ray-node-status"] = status
        named = [{"Key": key, "Value": value} for key, value in tags.items()]
        specification = [{"ResourceType": "instance", "Tags": named}]
        ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=specification)
    assert sorted(config.ordered_machines(run), key=str) == [
        OrderedMachine(pool="gpu_spot_l40s", state="starting", reason="waiting-for-ssh"),
        OrderedMachine(pool="head", state="there"),
    ]


def test_the_command_of_a_run_shows_its_status(storage, tmp_path, capsys):
    a_log(storage)
    assert run(["--output", storage.location, "--status"]) == 1
    assert "0 of 2 trainings done" in capsys.readouterr().out
