"""How many machines a growing cluster is asked to add, with the sums done by hand."""

import pytest
from named_stages import Name

from orchestrator.cluster.gpu_kinds import GpuKind
from orchestrator.cluster.node_pool import NodePool, Resources
from orchestrator.scheduling.autoscaling import missing_machines
from orchestrator.scheduling.ended import FailureKind
from orchestrator.scheduling.resources import Node, ResourceRequest
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import Needs
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKind

NEED = ResourceRequest(cpus=7, gpus=1)
BIG, GPU, CPU = Resources(cpus=16, gpus=4), Resources(cpus=8, gpus=1), Resources(cpus=16)


def machine(offered, *, name="x", speed=1.0):
    return Node(id=name, offered=offered, speed=speed, kind=f"x{speed}" if offered.gpus else "")


def pool(offered, *, number, speed=1.0):
    gpu = GpuKind(name=f"x{speed}" if offered.gpus else "", speed=speed, memory_gib=float("inf"))
    return NodePool(name="x", max_nodes=number, cpus=offered.cpus, gpus=offered.gpus, gpu=gpu)


POOLS = (
    pool(CPU, number=2),
    pool(GPU, speed=0.4, number=4),
    pool(BIG, speed=0.8, number=1),
    pool(GPU, speed=0.8, number=6),
)
# Four CPUs for each of four GPUs: a training needs seven, so two find room on the big machine.


def missing(*, places=0, cpus=0, present=(), useless=(), pools=POOLS, need=NEED):
    return missing_machines(pools, present=present, useless=useless, need=need, demand={0: cpus, 1: places})


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (0, {}),
        (1, {BIG: 1}),
        (2, {BIG: 1}),
        (3, {BIG: 1, GPU: 1}),
        (100, {BIG: 1, GPU: 10}),
    ],
)
def test_trainings_ask_for_the_fastest_machines_and_never_for_more_than_there_can_be(places, expected):
    assert missing(places=places) == expected


def test_what_is_there_is_used_before_anything_is_asked_for():
    present = [machine(GPU, speed=0.4), machine(GPU, speed=0.8)]
    assert missing(places=2, present=present) == {}
    assert missing(places=3, present=present) == {BIG: 1}
    assert missing(places=100, present=present) == {BIG: 1, GPU: 8}


def test_a_resting_machine_is_of_no_use_and_still_one_of_those_that_there_can_be():
    assert missing(places=100, useless=[machine(GPU, speed=0.8)] * 3) == {BIG: 1, GPU: 7}


def test_small_stages_ask_for_machines_without_gpus_only_where_there_can_be_any():
    assert missing(cpus=1) == {CPU: 1}
    assert missing(cpus=500) == {CPU: 2}
    assert missing(cpus=500, pools=POOLS[1:2]) == {GPU: 4}
    assert missing(cpus=500, pools=POOLS[1:2], present=[machine(CPU)]) == {}


def test_small_stages_use_the_cpus_that_trainings_leave_over():
    # Each GPU machine has one CPU besides the seven of its training.
    assert missing(cpus=2, present=[machine(GPU), machine(GPU)], places=2) == {}
    assert missing(cpus=3, present=[machine(GPU), machine(GPU)], places=2) == {CPU: 1}
    assert missing(cpus=10, places=3, pools=POOLS[1:2]) == {GPU: 4}


def test_without_gpus_trainings_are_cpus():
    assert missing(places=20, cpus=5, need=ResourceRequest(cpus=1), pools=POOLS[:1]) == {CPU: 2}
    assert missing(places=20, cpus=5, need=ResourceRequest(cpus=1), pools=POOLS[:1], present=[machine(CPU)]) == {CPU: 1}


def test_a_schedule_without_any_machine_asks_for_them_and_leaves_one_alone_that_fails_everything():
    """Nothing is there at first. Of two machines that come one is broken: what failed there goes to the other."""
    graph = {
        name: Stage(key=Name(name, StageKind.TRAIN), dependencies=(), products=(), expected_s=9 - index)
        for index, name in enumerate("abc")
    }
    schedule = Schedule(graph, done=(), nodes=(), to_come=[machine(GPU)], needs=Needs(one=NEED))
    assert schedule.start_next(0.0) is None
    assert not schedule.is_over
    assert schedule.demand() == {1: 3}

    for name in ("broken", "sound"):
        schedule.add_node(machine(GPU, name=name), now_s=1.0)
    assert [schedule.start_next(1.0).node for _ in "ab"] == ["broken", "sound"]
    schedule.fail("a", kind=FailureKind.CRASH, now_s=2.0)
    assert schedule.start_next(2.0).node == "broken"
    schedule.fail("c", kind=FailureKind.CRASH, now_s=3.0)
    assert schedule.start_next(3.0) is None
    closed = schedule.processors.closed
    assert [node.id for node in closed] == ["broken"]
    asked = missing_machines(
        [pool(GPU, number=3)],
        present=schedule.processors.nodes.values(),
        useless=closed,
        need=NEED,
        demand=schedule.demand(),
    )
    assert asked == {GPU: 1}
    schedule.remove_node("broken", now_s=4.0)
    assert schedule.processors.closed == ()
