"""Preemptions are free, crashes and storage are tried again, bugs fail once; a broken node is left alone."""

import pickle

import pytest
from ray import exceptions as ray_errors
from ray.train import WorkerGroupError

from orchestrator.errors import GpuError, OrchestratorError, StorageError, TrainingError
from orchestrator.pipeline.failures import FailureCounts, FailureKind, NodeRecords, kind_of
from orchestrator.pipeline.ray_failures import classify, innermost, node_of, note_node


class AskedToStopError(OrchestratorError):
    is_preemption = True


def from_task(error: Exception) -> ray_errors.RayTaskError:
    """Return what ``ray.get`` raises of a task that raised this."""
    return ray_errors.RayTaskError("stage", "Traceback", error, proctitle="p", pid=1, ip="10.0.0.1")


def test_a_preemption_is_tried_without_end_and_without_a_wait():
    counts = FailureCounts()
    assert {counts.failed("a", kind=FailureKind.PREEMPTION) for _ in range(100)} == {0.0}


def test_a_bug_fails_once():
    assert FailureCounts().failed("a", kind=FailureKind.DETERMINISTIC) is None


def test_waits_grow_until_a_transient_failure_is_given_up():
    counts = FailureCounts()
    assert [counts.failed("a", kind=FailureKind.TRANSIENT) for _ in range(3)] == [10.0, 60.0, None]
    waits = [counts.failed("a", kind=FailureKind.CRASH) for _ in range(10)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, None]


def test_attempts_are_counted_from_the_latest_progress():
    counts = FailureCounts()
    for _ in range(50):
        assert counts.failed("a", kind=FailureKind.TRANSIENT) == 10.0
        counts.made_progress("a")


def test_a_node_on_which_different_stages_fail_is_shunned_and_they_are_innocent():
    records = NodeRecords()
    common = {"on_gpu": False, "other_nodes": ["good"]}
    assert records.failed("bad", "a", kind=FailureKind.DETERMINISTIC, **common) == ()
    assert records.failed("bad", "b", kind=FailureKind.CRASH, **common) == ("a", "b")
    assert records.shunned == {"bad"}


@pytest.mark.parametrize(
    ("stages", "kind", "other_nodes", "succeeds"),
    [
        (("a", "a", "a"), FailureKind.DETERMINISTIC, ["good"], False),
        (("a", "b", "c"), FailureKind.PREEMPTION, ["good"], False),
        (("a", "b", "c"), FailureKind.TRANSIENT, ["good"], False),
        (("a", "b", "c"), FailureKind.DETERMINISTIC, ["node"], False),
        (("a", "b", "c"), FailureKind.DETERMINISTIC, ["good"], True),
    ],
    ids=["one bad stage", "preemptions", "storage", "the only node", "a node with a success"],
)
def test_a_node_is_not_shunned_for(stages, kind, other_nodes, succeeds):
    records = NodeRecords()
    if succeeds:
        records.succeeded("node", on_gpu=False)
    for stage in stages:
        assert records.failed("node", stage, on_gpu=False, kind=kind, other_nodes=other_nodes) == ()
    assert not records.shunned


@pytest.mark.parametrize(
    ("succeeds_on_gpu", "kind", "is_shunned"),
    [
        (False, FailureKind.DETERMINISTIC, True),
        (True, FailureKind.DETERMINISTIC, False),
        (True, FailureKind.GPU, True),
    ],
)
def test_a_cpu_acquits_no_gpu_and_nothing_acquits_one_that_does_not_work(succeeds_on_gpu, kind, is_shunned):
    records = NodeRecords()
    records.succeeded("node", on_gpu=succeeds_on_gpu)
    for stage in "ab":
        records.failed("node", stage, on_gpu=True, kind=kind, other_nodes=["good"])
    assert ("node" in records.shunned) == is_shunned


def test_a_gpu_that_fails_the_same_training_twice_is_shunned():
    records = NodeRecords()
    common = {"on_gpu": True, "kind": FailureKind.GPU, "other_nodes": ["good"]}
    assert [records.failed("node", "a", **common) for _ in range(3)] == [(), ("a",), ()]
    assert records.shunned == {"node"}


KINDS = {
    "asked to stop": (from_task(AskedToStopError("stop")), FailureKind.PREEMPTION),
    "node lost": (ray_errors.NodeDiedError("gone"), FailureKind.PREEMPTION),
    "process killed": (ray_errors.WorkerCrashedError(), FailureKind.CRASH),
    "actor lost": (ray_errors.ActorDiedError(), FailureKind.CRASH),
    "actor lost with its node": (
        ray_errors.RayActorError(error_msg="The actor died because its node has died. Node Id: ab"),
        FailureKind.PREEMPTION,
    ),
    "actor of a drained node": (ray_errors.RayActorError(preempted=True), FailureKind.PREEMPTION),
    "machine out of memory": (ray_errors.OutOfMemoryError("killed"), FailureKind.DETERMINISTIC),
    "process out of memory": (from_task(MemoryError()), FailureKind.DETERMINISTIC),
    "object lost": (ray_errors.RuntimeEnvSetupError("pip"), FailureKind.TRANSIENT),
    "storage": (from_task(StorageError("503")), FailureKind.TRANSIENT),
    "bad case": (from_task(TrainingError("NaN")), FailureKind.DETERMINISTIC),
    "bug": (from_task(ZeroDivisionError()), FailureKind.DETERMINISTIC),
    "worker of Ray Train": (
        from_task(WorkerGroupError("failed", {0: StorageError("503")})),
        FailureKind.TRANSIENT,
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_errors_of_ray_are_told_apart(case):
    error, kind = KINDS[case]
    assert classify(error) is kind


def test_an_error_says_where_it_was_after_it_was_sent():
    error = StorageError("503")
    note_node(error, "n1")
    sent = from_task(WorkerGroupError("failed", {0: pickle.loads(pickle.dumps(error))}))
    assert node_of(sent) == "n1"
    assert node_of(ray_errors.WorkerCrashedError()) is None
    assert isinstance(innermost(sent), StorageError)


def test_an_error_of_ours_says_itself_what_it_is():
    assert kind_of(AskedToStopError("x")) is FailureKind.PREEMPTION
    assert kind_of(StorageError("x")) is FailureKind.TRANSIENT
    assert kind_of(GpuError("x")) is FailureKind.GPU
    assert kind_of(ValueError("x")) is FailureKind.DETERMINISTIC
