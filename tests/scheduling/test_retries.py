"""Preemptions are free, crashes and storage are tried again, bugs fail once; a broken node is quarantined."""

import errno
import math
import pickle

import pytest
import torch
from ray import exceptions as ray_errors
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)
from ray.train.v2.api.exceptions import ControllerError

from orchestrator.errors import GpuError, OrchestratorError, StorageError, TrainingError
from orchestrator.ray_backend import errors
from orchestrator.ray_backend.errors import FailedStageError, address_of, classify, failure_of
from orchestrator.ray_backend.nodes import node_at
from orchestrator.scheduling.ended import Failed, FailureKind, kind_of
from orchestrator.scheduling.retries import FailureCounts, NodeRecords


class UnpicklableError(Exception):
    def __reduce__(self):
        raise TypeError("cannot pickle")


class AskedToStopError(OrchestratorError):
    is_preemption = True


def from_task(error: Exception, *, traceback="Traceback") -> ray_errors.RayTaskError:
    """Return what ``ray.get`` raises of a task that raised this."""
    return ray_errors.RayTaskError("stage", traceback, error, proctitle="p", pid=1, ip="10.0.0.1")


def test_a_preemption_is_tried_without_end_and_without_a_wait():
    counts = FailureCounts()
    assert {counts.failed("a", kind=FailureKind.PREEMPTION) for _ in range(100)} == {0.0}


def test_a_bug_fails_once():
    assert FailureCounts().failed("a", kind=FailureKind.DETERMINISTIC) is None


def test_waits_grow_until_a_transient_failure_is_given_up():
    counts = FailureCounts()
    waits = [counts.failed("a", kind=FailureKind.TRANSIENT) for _ in range(6)]
    assert waits == [10.0, 60.0, 360.0, 600.0, 600.0, None]
    assert [counts.failed("a", kind=FailureKind.MEMORY) for _ in range(5)] == [30.0, 60.0, 120.0, 240.0, None]
    waits = [counts.failed("a", kind=FailureKind.CRASH) for _ in range(10)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, None]


def test_attempts_are_counted_from_the_latest_progress():
    counts = FailureCounts()
    for _ in range(50):
        assert counts.failed("a", kind=FailureKind.TRANSIENT) == 10.0
        counts.made_progress("a")


class Node:
    """A node of a cluster with two more, and what the records say of it."""

    def __init__(self, *, others=("second", "third")):
        self.records = NodeRecords()
        self.others = others

    def failed(self, stage, *, kind=FailureKind.DETERMINISTIC, node="node", on_gpu=False, now_s=0.0):
        return self.records.failed(node, stage, on_gpu=on_gpu, kind=kind, other_nodes=self.others, now_s=now_s)

    def succeeded(self, stage, *, node="node", on_gpu=False):
        self.records.succeeded(node, stage, on_gpu=on_gpu)

    @property
    def is_quarantined(self):
        return "node" in self.records.quarantined


@pytest.mark.parametrize(
    "kind", sorted({*FailureKind} - {FailureKind.PREEMPTION, FailureKind.GPU, FailureKind.MACHINE})
)
def test_a_node_on_which_different_stages_fail_is_quarantined_and_they_are_innocent(kind):
    node = Node()
    assert node.failed("a") == ()
    assert node.failed("b", kind=kind) == ("a", "b")
    assert node.records.quarantined == {"node"}
    assert node.failed("c", kind=kind) == ("c",), "it ran already when the quarantine began"


@pytest.mark.parametrize(
    ("stages", "kind", "others"),
    [
        (("a", "a", "a"), FailureKind.DETERMINISTIC, ["second"]),
        (("a", "b", "c"), FailureKind.PREEMPTION, ["second"]),
        (("a", "b", "c"), FailureKind.DETERMINISTIC, ["node"]),
    ],
    ids=["one bad stage", "preemptions", "the only node"],
)
def test_a_node_is_not_quarantined_for(stages, kind, others):
    node = Node(others=others)
    assert [node.failed(stage, kind=kind) for stage in stages] == [(), (), ()]
    assert not node.is_quarantined


def test_the_last_node_that_may_be_used_is_not_quarantined():
    node = Node(others=["node", "second"])
    for stage in "ab":
        node.failed(stage, node="second")
    for stage in "cd":
        node.failed(stage)
    assert node.records.quarantined == {"second"}


def test_a_success_wipes_out_what_was_before_and_no_more():
    node = Node()
    node.failed("a")
    node.succeeded("x")
    assert node.failed("b") == ()
    assert node.failed("c") == ("b", "c")


def test_a_stage_that_fails_on_a_second_node_is_at_fault_itself():
    node = Node()
    node.failed("bad")
    assert node.failed("bad", node="second") == ()
    for other in ("node", "second", "third"):
        assert node.failed("bad", node=other) == ()
        assert node.failed(f"once on {other}", node=other) == ()
    assert node.records.quarantined == set()


def test_a_stage_that_goes_on_elsewhere_was_not_at_fault():
    node = Node()
    node.failed("a", node="second")
    node.succeeded("a", node="third")
    node.failed("a")
    assert node.failed("b") == ("a", "b")


@pytest.mark.parametrize(
    ("succeeds_on_gpu", "kind", "is_quarantined"),
    [
        (False, FailureKind.DETERMINISTIC, True),
        (True, FailureKind.DETERMINISTIC, False),
        (True, FailureKind.GPU, True),
    ],
)
def test_a_success_without_a_gpu_says_nothing_of_gpus_and_one_with_it_nothing_of_another_gpu(
    succeeds_on_gpu, kind, is_quarantined
):
    node = Node()
    node.failed("a", kind=kind, on_gpu=True)
    node.succeeded("x", on_gpu=succeeds_on_gpu)
    node.failed("b", kind=kind, on_gpu=True)
    assert node.is_quarantined == is_quarantined


def test_a_gpu_that_fails_the_same_training_twice_within_an_hour_is_quarantined():
    node = Node()
    assert node.failed("a", kind=FailureKind.GPU, on_gpu=True, now_s=0.0) == ()
    assert node.failed("a", kind=FailureKind.GPU, on_gpu=True, now_s=3600.0) == ()
    assert node.failed("a", kind=FailureKind.GPU, on_gpu=True, now_s=7199.0) == ("a",)
    assert node.is_quarantined


def test_a_machine_that_cannot_start_a_stage_is_quarantined_at_once_and_any_number_of_them_are():
    node = Node()
    assert node.failed("a", kind=FailureKind.MACHINE) == ("a",)
    assert node.failed("a", kind=FailureKind.MACHINE, node="second") == ("a",)
    assert node.records.quarantined == {"node", "second"}
    # The last one goes on, and its failures count.
    node.others = ("node", "second")
    assert node.failed("a", kind=FailureKind.MACHINE, node="third") == ()


def test_each_quarantine_is_twice_as_long_until_it_has_gone_well_for_an_hour():
    node, now_s, lengths_s = Node(), 0.0, []
    for wait_s in [0.0] * 9 + [3600.0, 3601.0]:
        now_s += wait_s
        for stage in "ab":
            node.failed(stage, now_s=now_s)
        lengths_s.append(node.records.next_end_s - now_s)
        assert node.records.release(now_s + lengths_s[-1] - 1) == []
        now_s += lengths_s[-1]
        assert (node.records.release(now_s), node.is_quarantined, node.records.next_end_s) == (
            ["node"],
            False,
            math.inf,
        )
    assert lengths_s == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 30]


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
    "machine out of memory": (ray_errors.OutOfMemoryError("killed"), FailureKind.MEMORY),
    "process out of memory": (from_task(MemoryError()), FailureKind.MEMORY),
    "CUDA out of memory": (from_task(RuntimeError("CUDA error: out of memory")), FailureKind.MEMORY),
    "cuDNN out of memory": (from_task(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")), FailureKind.MEMORY),
    "GPU out of memory": (from_task(torch.OutOfMemoryError("CUDA out of memory")), FailureKind.MEMORY),
    "CPU allocator of torch": (
        from_task(RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        FailureKind.MEMORY,
    ),
    "disk full": (from_task(OSError(errno.ENOSPC, "No space left on device")), FailureKind.TRANSIENT),
    "connection lost": (from_task(ConnectionResetError("peer")), FailureKind.TRANSIENT),
    "no such file": (from_task(FileNotFoundError(errno.ENOENT, "x")), FailureKind.DETERMINISTIC),
    "environment not built": (ray_errors.RuntimeEnvSetupError("pip"), FailureKind.MACHINE),
    "function not imported": (
        from_task(
            RuntimeError(
                "The remote function failed to import on the worker. This may be because needed library dependencies "
                "are not installed in the worker environment or cannot be found from sys.path []:\n\nTraceback"
            )
        ),
        FailureKind.MACHINE,
    ),
    "actor not imported": (
        ray_errors.ActorDiedError(
            from_task(
                RuntimeError("x"), traceback="RuntimeError: The actor with name W failed to import on the worker."
            )
        ),
        FailureKind.MACHINE,
    ),
    "arguments not imported": (
        from_task(ray_errors.RaySystemError("No module named 'orchestrator'", "Traceback")),
        FailureKind.MACHINE,
    ),
    "package not there": (from_task(ModuleNotFoundError("No module named 'torch'")), FailureKind.MACHINE),
    "library not there": (
        from_task(OSError("libcudart.so.13: cannot open shared object file: No such file or directory")),
        FailureKind.MACHINE,
    ),
    "no more threads": (from_task(RuntimeError("can't start new thread")), FailureKind.MACHINE),
    "worker group does not start": (from_task(WorkerGroupStartupFailedError("x")), FailureKind.MACHINE),
    "worker group starts too slowly": (from_task(WorkerGroupStartupTimeoutError(1)), FailureKind.MACHINE),
    "cluster too small for a while": (from_task(InsufficientClusterResourcesError("x")), FailureKind.TRANSIENT),
    "an error that cannot be sent": (from_task(UnpicklableError("x")), FailureKind.DETERMINISTIC),
    "controller of Ray Train": (
        from_task(ControllerError(ray_errors.NodeDiedError("gone"))),
        FailureKind.PREEMPTION,
    ),
    "storage": (from_task(StorageError("503")), FailureKind.TRANSIENT),
    "bad case": (from_task(TrainingError("NaN")), FailureKind.DETERMINISTIC),
    "bug": (from_task(ZeroDivisionError()), FailureKind.DETERMINISTIC),
    "worker of Ray Train": (
        from_task(WorkerGroupError("failed", {0: StorageError("503")})),
        FailureKind.TRANSIENT,
    ),
}


CLASSES = {
    FailureKind.PREEMPTION: {
        "NodeDiedError",
        "LocalRayletDiedError",
        "TaskUnschedulableError",
        "ActorUnschedulableError",
        "TaskPlacementGroupRemoved",
        "ActorPlacementGroupRemoved",
    },
    FailureKind.CRASH: {
        "WorkerCrashedError",
        "RayActorError",
        "ActorDiedError",
        "ActorUnavailableError",
        "UnserializableException",
    },
    FailureKind.MACHINE: {
        "RuntimeEnvSetupError",
        "RaySystemError",
        "StreamingGeneratorReplayInconsistentError",
        "RayChannelError",
        "RayChannelTimeoutError",
        "RayCgraphCapacityExceeded",
        "RayDirectTransportError",
        "ObjectStoreFullError",
        "AuthenticationError",
    },
    FailureKind.MEMORY: {"OutOfMemoryError"},
    FailureKind.DETERMINISTIC: {"RayError", "RayTaskError", "UserCodeException", "CrossLanguageError"},
    FailureKind.TRANSIENT: {
        "TaskCancelledError",
        "OutOfDiskError",
        "ObjectLostError",
        "ObjectFetchTimedOutError",
        "RpcError",
        "ReferenceCountingAssertionError",
        "ObjectFreedError",
        "OwnerDiedError",
        "ObjectReconstructionFailedError",
        "GetTimeoutError",
        "PlasmaObjectNotAvailable",
        "AsyncioActorExit",
        "PendingCallsLimitExceeded",
        "ObjectRefStreamEndOfStreamError",
        "OufOfBandObjectRefSerializationException",
        "ActorAlreadyExistsError",
        "ActorHandleNotFoundError",
    },
}
"""Every error class of Ray 2.60; one that a later version adds is to be put here."""


def test_every_class_of_ray_has_a_kind():
    found = {kind: set() for kind in CLASSES}
    for name, of_ray in vars(ray_errors).items():
        if isinstance(of_ray, type) and issubclass(of_ray, ray_errors.RayError):
            # Of some the text is made of what a cluster tells.
            played = type(name, (of_ray,), {"__init__": lambda self: None, "__str__": lambda self: ""})
            error = played() if of_ray is not ray_errors.RayError else of_ray()
            error._preempted, error.cause = False, None
            found[classify(error)].add(name)
    assert found == CLASSES


@pytest.mark.parametrize("case", KINDS)
def test_errors_of_ray_are_told_apart(case):
    error, kind = KINDS[case]
    assert classify(error) is kind


def test_how_a_stage_has_failed_comes_out_of_its_process_as_it_was(monkeypatch):
    monkeypatch.setattr(errors.ray, "nodes", list)
    failed = Failed.of(StorageError("503"), kind=FailureKind.TRANSIENT, node="n1")
    sent = pickle.loads(pickle.dumps(FailedStageError(failed)))
    assert failure_of(from_task(WorkerGroupError("failed", {0: sent}))) == failed
    assert "StorageError: 503" in str(sent)
    crashed = failure_of(ray_errors.WorkerCrashedError())
    assert (crashed.kind, crashed.node) == (FailureKind.CRASH, "")


def test_a_task_that_failed_before_our_code_is_placed_by_its_address():
    nodes = [
        {"NodeID": name, "Alive": alive, "NodeManagerAddress": address}
        for name, alive, address in (("a", True, "10.0.0.1"), ("b", False, "10.0.0.1"), ("c", True, "10.0.0.2"))
    ]
    failed = from_task(RuntimeError("The remote function failed to import on the worker."))
    assert node_at(address_of(failed), found=nodes) == "a"
    assert node_at("10.0.0.1", found=[*nodes, {**nodes[0], "NodeID": "d"}]) is None
    assert node_at(address_of(ray_errors.WorkerCrashedError()), found=nodes) is None


def test_an_error_of_rays_own_in_a_task_has_no_address_and_ends_no_driver():
    """A machine that leaves while the workers of a training are placed."""
    cause = ray_errors.ActorUnschedulableError("the node does not exist any more")
    raised = ray_errors.RayTaskError("fit", "trace", cause, ip="10.0.0.1").as_instanceof_cause()
    assert address_of(raised) is None
    assert classify(raised) is FailureKind.PREEMPTION


def test_an_error_of_ours_says_itself_what_it_is():
    assert kind_of(AskedToStopError("x")) is FailureKind.PREEMPTION
    assert kind_of(StorageError("x")) is FailureKind.TRANSIENT
    assert kind_of(GpuError("x")) is FailureKind.GPU
    assert kind_of(ValueError("x")) is FailureKind.DETERMINISTIC
