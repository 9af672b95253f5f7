"""Claims about stages and the memory of the machines on which they are placed."""

from test_scheduler import ONE_CPU, schedule_on, stage, start_all, starts

from orchestrator.cluster.node_pool import Resources
from orchestrator.scheduling.resources import Node, ResourceRequest
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKind


def cases(*memories_gib: float) -> list[Stage]:
    """Stages of the same urgency but for their names."""
    return [stage(f"s{i}", kind=StageKind.PREPROCESS, memory_gib=gib) for i, gib in enumerate(memories_gib)]


def machine(name: str, *, gib: float, gpus: float = 0) -> Node:
    return Node(id=name, offered=Resources(cpus=8, gpus=gpus), memory_gib=gib)


def test_a_machine_takes_no_more_stages_than_its_memory_holds():
    schedule = schedule_on([machine("node", gib=16)], *cases(5, 5, 5, 5), need=ONE_CPU)
    assert start_all(schedule) == ["s0", "s1", "s2"]
    schedule.finish("s1", now_s=1)
    assert start_all(schedule) == ["s3"]


def test_a_small_stage_runs_where_a_large_one_has_no_room():
    schedule = schedule_on([machine("node", gib=8)], *cases(5, 5, 2), need=ONE_CPU)
    assert start_all(schedule) == ["s0", "s2"]


def test_a_large_stage_goes_where_its_memory_is_and_alone_where_there_is_less():
    nodes = [machine("small", gib=4), machine("large", gib=16), machine("middle", gib=8)]
    schedule = schedule_on(nodes, *cases(12, 12, 12, 1, 2), need=ONE_CPU)
    found = {start.stage.key: start.node for start in starts(schedule)}
    assert found == {"s0": "large", "s1": "middle", "s2": "small", "s3": "large", "s4": "large"}


def test_a_gpu_whose_machine_has_little_memory_is_used_all_the_same():
    """Also beside a machine without GPUs that has more."""
    need = ResourceRequest(cpus=2, gpus=1, memory_gib=6)
    nodes = [machine("gpu", gib=5, gpus=2), machine("cpu", gib=30)]
    schedule = schedule_on(nodes, *(stage(f"t{i}") for i in range(2)), need=need)
    assert [start.node for start in starts(schedule)] == ["gpu"]
    assert schedule.requests_to_stop(0.0) == []
    schedule.finish("t0", now_s=1.0)
    assert [start.node for start in starts(schedule, now_s=1.0)] == ["gpu"]


def test_machines_whose_memory_is_not_known_take_as_many_stages_as_they_have_cores():
    schedule = schedule_on([machine("node", gib=float("inf"))], *cases(*[50] * 9), need=ONE_CPU)
    assert len(start_all(schedule)) == 8


def test_small_stages_do_not_keep_a_waiting_training_from_its_memory():
    """Of 8 GiB a training takes 6: while it waits for the GPU, only what leaves it so much may start."""
    need = ResourceRequest(cpus=2, gpus=1, memory_gib=6)
    first = stage("first", kind=StageKind.PREPROCESS, expected_s=100, memory_gib=4)
    small = [stage(f"s{i}", kind=StageKind.PREPROCESS, expected_s=99, memory_gib=4) for i in range(3)]
    later = stage("later", "s0", "s1", "s2", expected_s=1)
    nodes = [machine("node", gib=8, gpus=1)]
    schedule = schedule_on(nodes, first, *small, stage("train", "first", expected_s=5), later, need=need)
    assert start_all(schedule) == ["first", "s0"]
    schedule.finish("first", now_s=1)
    assert start_all(schedule) == []
    schedule.finish("s0", now_s=1)
    assert start_all(schedule) == ["train"]


def test_memory_limits_how_many_trainings_a_machine_takes():
    assert ResourceRequest(cpus=2, gpus=1, memory_gib=6).num_on(machine("node", gib=20, gpus=4)) == 3
    assert ResourceRequest(cpus=2, gpus=1, memory_gib=6).num_on(machine("node", gib=5, gpus=4)) == 1
