"""What the executor makes of Ray's description of a cluster, and what it asks Ray for."""

import json
import multiprocessing
import time
from typing import Any
from unittest import mock

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayError, WorkerCrashedError
from ray.util.placement_group import placement_group

from orchestrator.cluster.config import RunningRay
from orchestrator.cluster.kinds.existing import ExistingCluster
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.cluster.node_pool import Resources
from orchestrator.cluster.registry import load_cluster
from orchestrator.errors import ClusterError, DataError
from orchestrator.ray_backend import connect, executor
from orchestrator.ray_backend.connect import Connection, connected
from orchestrator.ray_backend.draining import drain_idle
from orchestrator.ray_backend.errors import failure_of
from orchestrator.ray_backend.executor import RayBackend
from orchestrator.ray_backend.leftovers import remove_orphaned_placement_groups
from orchestrator.ray_backend.nodes import label_selector, nodes_here, nodes_of
from orchestrator.ray_backend.tasks import SubmittedTask, settle_coordinator, submit
from orchestrator.scheduling.ended import Done, Failed, FailureKind
from orchestrator.scheduling.placement import Start
from orchestrator.scheduling.resources import Node, node_of
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKey, StageKind


def record(node_id: str, *, cpus: float, gpus: float = 0, kind: str = "", alive: bool = True) -> dict[str, Any]:
    labels = {"ray.io/node-id": node_id} | ({"ray.io/accelerator-type": kind} if kind else {})
    return {"NodeID": node_id, "Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}, "Labels": labels}


def test_living_machines_with_processors_are_nodes_with_the_speed_of_their_gpus():
    found = [
        record("head", cpus=0),
        record("a", cpus=8, gpus=1, kind="A10G"),
        record("b", cpus=8, gpus=1, kind="A100"),
        record("gone", cpus=8, alive=False),
    ]
    slow, fast = nodes_of(found)
    assert (slow.id, slow.kind, slow.gpu_memory_gib) == ("a", "A10G", 24)
    assert slow.speed < fast.speed


def test_a_gpu_that_comes_with_more_memory_says_so_in_its_name():
    found = nodes_of([record(name, cpus=8, gpus=1, kind=name) for name in ("A100", "A100-80G", "A100-80GB", "X1")])
    assert [node.gpu_memory_gib for node in found] == [40, 80, 80, float("inf")]


def test_the_memory_of_a_gpu_of_this_machine_is_asked_for_where_its_name_does_not_tell(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 12288\necho 8192\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    found = [record("known", cpus=8, gpus=1, kind="A100"), record("G", cpus=8, gpus=2, kind="G"), record("c", cpus=8)]
    assert [node.gpu_memory_gib for node in nodes_here(found)] == [40, 8, float("inf")]
    tool.write_text("#!/bin/sh\necho 'could not communicate with the driver'\nexit 9\n")
    assert [node.gpu_memory_gib for node in nodes_here(found)] == [40, float("inf"), float("inf")]


def test_where_ray_does_not_start_what_mostly_helps_is_said(tmp_path, monkeypatch):
    def fail(**_):
        raise OSError("no space left on device")

    monkeypatch.setattr(connect.ray, "init", fail)
    with (
        pytest.raises(ClusterError, match=r"no space left on device\. .* set TMPDIR"),
        connected(LocalCluster(num_cpus=1, num_gpus=0), run=None),
    ):
        pass


def test_a_node_has_the_memory_that_was_free_when_its_ray_was_started():
    known, unknown = record("known", cpus=8), record("unknown", cpus=8)
    known["Resources"] |= {"memory": 11 * 2**30, "object_store_memory": 5 * 2**30}
    assert [node.memory_gib for node in nodes_of([known, unknown])] == [16, float("inf")]


def test_machines_that_may_come_have_the_speed_and_memory_of_their_gpus():
    entries = {"gpu": {"number": 6, "cpus": 8, "gpus": 1, "gpu": "L40S"}, "cpu": {"number": 2, "cpus": 16}}
    found, plain = ExistingCluster(address="auto", may_start=entries).node_pools()
    node = node_of(found)
    assert (node.id, found.max_nodes, node.gpu_memory_gib, node.speed) == ("gpu", 6, 48, 0.8)
    assert (plain.offered, plain.max_nodes) == (Resources(cpus=16), 2)


def test_after_a_failure_the_machines_are_looked_at_before_anything_else_is_started(monkeypatch):
    """A training has stopped since its machine is drained: the next attempt must not be waited for there."""
    connection = Connection(dashboard="", ray=RunningRay(address="auto", idle_s=60.0))
    backend, key = RayBackend(connection, pools=()), StageKey(kind=StageKind.TRAIN, training="a")
    monkeypatch.setattr(executor.ray, "nodes", lambda: [record("a", cpus=1)])
    monkeypatch.setattr(executor.ray, "wait", lambda references, **_: (references, []))
    monkeypatch.setattr(executor.ray, "get", lambda reference: reference.end)
    monkeypatch.setattr(executor, "draining_nodes", lambda: frozenset({"a"}))
    for end, draining in ((Done(), None), (Failed(kind=FailureKind.PREEMPTION, line="drained"), {"a"})):
        reference = mock.Mock(end=end)
        backend._running[reference] = key, ""
        assert list(backend.wait(timeout_s=0)) == [(key, end)]
        seen = backend.look_at_nodes()
        assert (seen.draining if seen else None) == draining


def test_a_training_whose_process_dies_is_known_to_have_been_on_its_machine(monkeypatch):
    """Which is left alone once this has happened there too often."""

    def die(_):
        raise WorkerCrashedError

    connection = Connection(dashboard="", ray=RunningRay(address="auto", idle_s=60.0))
    backend, key = RayBackend(connection, pools=()), StageKey(kind=StageKind.TRAIN, training="a")
    monkeypatch.setattr(executor.ray, "nodes", list)
    monkeypatch.setattr(executor.ray, "wait", lambda references, **_: (references, []))
    monkeypatch.setattr(executor.ray, "get", die)
    monkeypatch.setattr(executor, "submit", lambda *_, **__: SubmittedTask(reference=mock.Mock(), node="n1"))
    (node,) = nodes_of([record("n1", cpus=1)])
    stage = Stage(key=key, dependencies=(), products=(), expected_s=1.0)
    start = Start(stage=stage, node="n1", attempt=1, share=Resources(cpus=1))
    backend.start(start, nodes=[node], quarantined=())
    ((ended, failed),) = backend.wait(timeout_s=0)
    assert (ended, failed.kind, failed.node) == (key, FailureKind.CRASH, "n1")


def test_ray_is_told_the_kind_of_gpu_only_where_there_are_several_and_no_broken_machine():
    one, other = (Node(id=kind, offered=Resources(cpus=8, gpus=1), kind=kind, speed=1.0) for kind in ("A100", "A10G"))
    assert label_selector(one, nodes=[one], quarantined=()) == {}
    assert label_selector(one, nodes=[one, other], quarantined=()) == {"ray.io/accelerator-type": "A100"}
    assert label_selector(one, nodes=[one], quarantined=["n2", "n1"]) == {"ray.io/node-id": "!in(n1,n2)"}


def wait_until(condition, *, limit_s=240):
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.1)


def reserve_and_give_back(folder):
    class Controller:
        """Reserves a processor, as Ray Train's controller does for its worker."""

        def __init__(self):
            self.group = placement_group([{"CPU": 1.0}])

        def has_place(self):
            return self.group.wait(240)

    with connected(LocalCluster(num_cpus=1, num_gpus=0), run=None):
        controller = ray.remote(num_cpus=0)(Controller).remote()
        assert ray.get(controller.has_place.remote())
        assert remove_orphaned_placement_groups() == 0
        assert ray.available_resources().get("CPU", 0) == 0

        ray.kill(controller)
        wait_until(lambda: remove_orphaned_placement_groups() == 1)
        wait_until(lambda: ray.available_resources().get("CPU", 0) == 1)


def states_of(name):
    return {actor["State"] for actor in ray._private.state.actors().values() if actor["ActorClassName"] == name}


def is_alive(node_id):
    return any(record["Alive"] for record in ray.nodes() if record["NodeID"] == node_id)


def look_where_a_training_runs(folder):
    class Context:
        """Tells where a training and its actors are as soon as it looks at this, and ends it."""

        output = str(folder)

        def __init__(self, actors_before):
            self._before = set(actors_before)

        @property
        def num_threads(self):
            actors = [actor for key, actor in ray._private.state.actors().items() if key not in self._before]
            places = {actor["ActorClassName"]: actor["Address"]["NodeID"] for actor in actors}
            raise DataError(json.dumps(places | {"itself": ray.get_runtime_context().get_node_id()}))

    def where(node_id, *, num_workers):
        stage = Stage(key=StageKey(kind=StageKind.TRAIN, training="a"), dependencies=(), products=(), expected_s=1.0)
        context = ray.put(Context(ray._private.state.actors()))
        share = Resources(cpus=num_workers)
        start = Start(stage=stage, node=node_id, attempt=1, share=share, num_workers=num_workers)
        submitted = submit(start, context=context, is_separate=True, selector={})
        with pytest.raises(RayError) as caught:
            ray.get(submitted.reference)
        failed = failure_of(caught.value)
        assert (failed.kind, failed.node) == (FailureKind.DETERMINISTIC, node_id)
        assert submitted.node == (node_id if num_workers == 1 else "")
        return json.loads(failed.line.partition(": ")[2])

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=2).node_id for _ in range(2)]
    with connected(ExistingCluster(address=cluster.address), run=None):
        for node_id in nodes:
            # No process beside the one that trains.
            assert where(node_id, num_workers=1) == {"itself": node_id}
        settle_coordinator()
        for node_id in nodes:
            found = where(node_id, num_workers=2)
            of_training = {"TrainController", "SynchronizationActor", "RayTrainWorker", "itself"}
            # Of which there is one in the cluster, always on the head.
            assert found.keys() - {"TrainStateActor"} == of_training
            assert {found[name] for name in of_training} == {node_id}
            wait_until(lambda: states_of("TrainController") == {"DEAD"})
        for node_id in nodes:
            # Nothing of a training is left that would keep its machine.
            wait_until(lambda node_id=node_id: drain_idle(node_id) and not is_alive(node_id), limit_s=60)
    cluster.shutdown()


def test_a_head_that_does_not_answer_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(connect, "HEAD_ANSWERS_WITHIN_S", 0.1)
    path = tmp_path / "cluster.yaml"
    path.write_text("kind: existing\naddress: 127.0.0.1:1\n")
    config = load_cluster(path)
    with (
        pytest.raises(ClusterError, match=r"cluster\.yaml\): nothing answers .*expected the head of a running cluster"),
        connected(config, run=None),
    ):
        pass


def in_a_process_of_its_own(claim, folder):
    """Ray leaves objects of processes behind that it has not waited for."""
    process = multiprocessing.get_context("spawn").Process(target=claim, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_all_of_a_training_is_on_the_machine_that_was_chosen_for_it_and_goes_with_it(tmp_path):
    in_a_process_of_its_own(look_where_a_training_runs, tmp_path)


def test_what_a_controller_has_reserved_is_given_back_when_it_is_dead_and_not_before(tmp_path):
    in_a_process_of_its_own(reserve_and_give_back, tmp_path)
