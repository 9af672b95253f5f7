"""The schedule starts the longest way first, keeps within its resources and knows what a failure costs."""

import pytest
from named_stages import Name

from orchestrator.cluster.node_pool import Resources
from orchestrator.errors import ConfigError
from orchestrator.scheduling.ended import FailureKind
from orchestrator.scheduling.placement import Start
from orchestrator.scheduling.rebalancing import lower_bound_s
from orchestrator.scheduling.remaining_time import estimate_remaining_s
from orchestrator.scheduling.resources import Node, ResourceRequest
from orchestrator.scheduling.retries import GiveUp, Retry
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import Needs
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKind

ONE_CPU = ResourceRequest(cpus=1)
ONE_GPU = ResourceRequest(cpus=2, gpus=1)


def stage(
    stage_id: str, *needs: str, kind: StageKind = StageKind.TRAIN, expected_s: float = 1.0, memory_gib: float = 0.0
) -> Stage:
    of = {"products": (f"{stage_id}.out",), "expected_s": expected_s, "memory_gib": memory_gib}
    return Stage(key=Name(stage_id, kind), dependencies=needs, **of)


def schedule_of(*stages: Stage, cpus: float = 1, done: set[str] = frozenset(), gpus: float = 0) -> Schedule:
    nodes = [Node(id="node", offered=Resources(cpus=cpus, gpus=gpus))]
    return schedule_on(nodes, *stages, done=done, need=ONE_GPU if gpus else ONE_CPU)


def schedule_on(nodes: list[Node], *stages: Stage, done=frozenset(), need: ResourceRequest = ONE_GPU) -> Schedule:
    return Schedule({s.key: s for s in stages}, done=done, nodes=nodes, needs=Needs(one=need), min_gain_s=600.0)


def start_all(schedule: Schedule, *, now_s: float = 0.0) -> list[str]:
    return [start.stage.key for start in starts(schedule, now_s=now_s)]


def starts(schedule: Schedule, *, now_s: float = 0.0) -> list[Start]:
    started = []
    while (start := schedule.start_next(now_s)) is not None:
        started.append(start)
    return started


def test_longest_training_starts_first():
    schedule = schedule_of(
        stage("short", expected_s=1), stage("long", expected_s=9), stage("middle", expected_s=5), cpus=3
    )
    assert start_all(schedule) == ["long", "middle", "short"]


def test_what_feeds_a_long_training_goes_before_a_short_one():
    schedule = schedule_of(
        stage("short", expected_s=5),
        stage("prepare", kind=StageKind.PREPROCESS, expected_s=1),
        stage("long", "prepare", expected_s=9),
        cpus=1,
    )
    assert start_all(schedule) == ["prepare"]
    schedule.finish("prepare", now_s=1)
    assert start_all(schedule) == ["long"]


def test_a_trained_model_gets_its_result_before_the_next_training_starts():
    schedule = schedule_of(
        stage("train 1", expected_s=9),
        stage("train 2", expected_s=9),
        stage("predict 1", "train 1", kind=StageKind.PREDICT),
        stage("score 1", "predict 1", kind=StageKind.SCORE),
    )
    for expected in ("train 1", "predict 1", "score 1", "train 2"):
        assert start_all(schedule) == [expected]
        schedule.finish(expected, now_s=1)


def test_a_case_that_only_a_prediction_waits_for_goes_before_trainings():
    schedule = schedule_of(
        stage("ingest", kind=StageKind.INGEST, expected_s=1),
        stage("train 1", expected_s=9),
        stage("predict 1", "train 1", "ingest", kind=StageKind.PREDICT),
    )
    assert start_all(schedule) == ["ingest"]


def test_a_stage_starts_only_when_all_its_needs_are_done():
    schedule = schedule_of(stage("a"), stage("b"), stage("c", "a", "b"), cpus=4)
    assert set(start_all(schedule)) == {"a", "b"}
    schedule.finish("a", now_s=1)
    assert start_all(schedule) == []
    schedule.finish("b", now_s=1)
    assert start_all(schedule) == ["c"]


def test_stages_never_take_more_than_the_cluster_has():
    schedule = schedule_of(*(stage(f"t{i}") for i in range(10)), cpus=3)
    assert len(start_all(schedule)) == 3
    assert schedule.processors.free_on("node") == Resources(cpus=0)
    schedule.finish("t0", now_s=1)
    assert len(start_all(schedule)) == 1


def test_cpu_stages_run_beside_trainings_that_wait_for_a_gpu():
    schedule = schedule_of(
        stage("train 1", expected_s=9),
        stage("train 2", expected_s=9),
        stage("preprocess", kind=StageKind.PREPROCESS),
        stage("train 3", "preprocess"),
        cpus=4,
        gpus=1,
    )
    assert set(start_all(schedule)) == {"train 1", "preprocess"}


def test_a_stage_that_is_done_is_not_started_and_counts_as_done_for_others():
    schedule = schedule_of(stage("a"), stage("b", "a"), done={"a"})
    assert len(schedule.outcomes.needed) == 1
    assert start_all(schedule) == ["b"]


def test_nothing_is_repeated_for_a_result_that_is_there():
    """The patches of a finished training may have been deleted: nobody needs them any more."""
    schedule = schedule_of(stage("patches"), stage("result", "patches"), done={"result"})
    assert len(schedule.outcomes.needed) == 0
    assert start_all(schedule) == []
    assert schedule.is_over


def test_an_error_that_a_retry_can_help_is_tried_six_times():
    schedule = schedule_of(stage("a"), stage("b", "a"))
    assert start_all(schedule) == ["a"]
    assert schedule.fail("a", kind=FailureKind.TRANSIENT, now_s=100) == Retry(attempt=2, wait_s=10)
    assert start_all(schedule, now_s=109) == []
    assert schedule.next_wake_s() <= 110
    assert start_all(schedule, now_s=110) == ["a"]
    assert schedule.fail("a", kind=FailureKind.TRANSIENT, now_s=200) == Retry(attempt=3, wait_s=60)
    assert not schedule.is_over
    for now_s, wait_s in ((300, 360), (700, 600), (1400, 600)):
        assert start_all(schedule, now_s=now_s) == ["a"]
        assert schedule.fail("a", kind=FailureKind.TRANSIENT, now_s=now_s).wait_s == wait_s
    assert start_all(schedule, now_s=2000) == ["a"]
    assert schedule.fail("a", kind=FailureKind.TRANSIENT, now_s=2001) == GiveUp(blocked=("b",))
    assert schedule.is_over


def test_a_deterministic_error_is_not_tried_again_and_spares_the_others():
    schedule = schedule_of(stage("a"), stage("b", "a"), stage("c", "b"), stage("other"), cpus=1)
    assert start_all(schedule) == ["a"]
    assert schedule.fail("a", kind=FailureKind.DETERMINISTIC, now_s=1) == GiveUp(blocked=("b", "c"))
    assert start_all(schedule) == ["other"]
    schedule.finish("other", now_s=1)
    assert schedule.is_over
    assert schedule.outcomes.done == {"other"}


def test_a_training_larger_than_the_cluster_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"needs 1 CPUs and 0 GPUs .* have 0\.5 CPUs"):
        schedule_of(stage("a"), cpus=0.5)


def test_eta_is_the_remaining_work_over_the_places():
    schedule = schedule_of(*(stage(f"t{i}", expected_s=10) for i in range(6)), cpus=2)
    assert estimate_remaining_s(schedule, now_s=0) == pytest.approx(30, rel=0.02)


def test_eta_is_never_below_the_longest_stage():
    schedule = schedule_of(stage("long", expected_s=100), stage("short", expected_s=1), cpus=8)
    assert estimate_remaining_s(schedule, now_s=0) == pytest.approx(100, rel=0.02)


def gpu_nodes(*speeds: float, cpus: float = 2) -> list[Node]:
    return [
        Node(id=f"n{index}", offered=Resources(cpus=cpus, gpus=1), kind=f"x{speed}", speed=speed)
        for index, speed in enumerate(speeds)
    ]


def test_what_a_stage_took_corrects_what_is_expected_of_its_kind_in_proportion():
    small, large, other = (
        stage("small", kind=StageKind.PREPROCESS, expected_s=1),
        stage("large", kind=StageKind.PREPROCESS, expected_s=10),
        stage("other", kind=StageKind.INGEST, expected_s=5),
    )
    schedule = schedule_of(small, large, other, cpus=3)
    start_all(schedule)
    schedule.fail("large", kind=FailureKind.PREEMPTION, now_s=1.0)
    schedule.fail("other", kind=FailureKind.PREEMPTION, now_s=1.0)
    schedule.finish("small", now_s=3.0)
    assert schedule.remaining_s("large", now_s=3.0) == 30.0
    assert schedule.remaining_s("other", now_s=3.0) == 5.0


def test_the_longest_training_gets_the_fastest_gpu():
    schedule = schedule_on(gpu_nodes(0.5, 2.0, 1.0), *(stage(f"t{i}", expected_s=10 - i) for i in range(3)))
    assert {start.stage.key: start.node for start in starts(schedule)} == {"t0": "n1", "t1": "n2", "t2": "n0"}


def test_small_trainings_share_a_gpu_as_far_as_its_memory_goes():
    nodes = [
        Node(id="large", offered=Resources(cpus=8, gpus=1), gpu_memory_gib=24),
        Node(id="small", offered=Resources(cpus=8, gpus=1), gpu_memory_gib=8),
        Node(id="tiny", offered=Resources(cpus=8, gpus=1), gpu_memory_gib=4),
    ]
    need = ResourceRequest(cpus=2, gpus=0.1, gpu_memory_gib=8)
    schedule = schedule_on(nodes, *(stage(f"t{i}") for i in range(9)), need=need)
    assert sorted(start.node for start in starts(schedule)) == ["large"] * 3 + ["small"]


def test_small_stages_do_not_keep_a_waiting_training_from_its_cpus():
    """The node has 2 CPUs; a training needs both. Of three small stages none may start while the training waits."""
    small = [stage(f"s{i}", kind=StageKind.PREPROCESS, expected_s=99) for i in range(3)]
    first = stage("first", kind=StageKind.PREPROCESS, expected_s=100)
    later = stage("later", "s0", "s1", "s2", expected_s=1)
    schedule = schedule_on(gpu_nodes(1.0), first, *small, stage("train", "first", expected_s=5), later)
    assert start_all(schedule) == ["first", "s0"]
    schedule.finish("first", now_s=1)
    assert start_all(schedule) == []
    schedule.finish("s0", now_s=1)
    assert start_all(schedule) == ["train"]


def test_what_failed_on_a_broken_node_is_tried_elsewhere():
    schedule = schedule_on(gpu_nodes(2.0, 1.0), stage("a", expected_s=9), stage("b", expected_s=8), stage("c"))
    assert [start.node for start in starts(schedule)] == ["n0", "n1"]
    assert schedule.fail("a", kind=FailureKind.DETERMINISTIC, now_s=1) == GiveUp(blocked=())
    (start,) = starts(schedule, now_s=1)
    assert (start.stage.key, start.node) == ("c", "n0")
    assert schedule.fail("c", kind=FailureKind.DETERMINISTIC, now_s=2) == Retry(attempt=2)
    assert schedule.take_revived() == ["a"]
    assert starts(schedule, now_s=2) == []
    schedule.finish("b", now_s=9)
    assert [(start.stage.key, start.node) for start in starts(schedule, now_s=9)] == [("a", "n1")]
    assert schedule.outcomes.failed == set()


def test_a_node_that_breaks_later_costs_no_training_and_is_tried_again():
    """Three nodes; from 100 s on everything fails at once on the first, which was fine until then, for 1000 s."""
    schedule = schedule_on(gpu_nodes(3.0, 2.0, 1.0), *(stage(f"t{i:02}", expected_s=50) for i in range(20)))
    now_s, ends_s, broken_s = 0.0, {}, (100.0, 1100.0)
    while not schedule.is_over:
        for start in starts(schedule, now_s=now_s):
            fails = start.node == "n0" and broken_s[0] <= now_s < broken_s[1]
            ends_s[start.stage.key] = (now_s + (1 if fails else 50 if now_s < 100 else 400), fails)
        schedule.requests_to_stop(now_s)
        stage_id = min(ends_s, key=lambda name: ends_s[name][0], default=None)
        wake_s = schedule.next_wake_s()
        if stage_id is None or now_s < wake_s < ends_s[stage_id][0]:
            now_s = wake_s
            continue
        now_s, fails = ends_s.pop(stage_id)
        if fails:
            schedule.fail(stage_id, kind=FailureKind.DETERMINISTIC, now_s=now_s)
        else:
            schedule.finish(stage_id, now_s=now_s)
    assert not schedule.outcomes.failed
    assert max(schedule.attempts.values()) <= 6
    # 2 x 3 before it breaks; 400 s each afterwards: the others alone would need 7 rounds of 2 for the other 14.
    assert now_s < 100 + 7 * 400


def test_a_node_whose_gpu_does_not_work_gets_no_third_training():
    """It would swallow one after the other: it is free again at once."""
    prepare = stage("prepare", kind=StageKind.PREPROCESS)
    trainings = [stage(f"t{i}", "prepare", expected_s=9 - i) for i in range(4)]
    schedule = schedule_on(gpu_nodes(2.0, 1.0), prepare, *trainings)
    (start,) = starts(schedule)
    assert start.node == "n0"
    schedule.finish("prepare", now_s=1)
    assert [(start.stage.key, start.node) for start in starts(schedule, now_s=1)] == [("t0", "n0"), ("t1", "n1")]
    assert schedule.fail("t0", kind=FailureKind.GPU, now_s=2) == Retry(attempt=2, wait_s=1.0)
    assert [(start.stage.key, start.node) for start in starts(schedule, now_s=2)] == [("t2", "n0")]
    assert schedule.fail("t2", kind=FailureKind.GPU, now_s=3) == Retry(attempt=2, wait_s=1.0)
    assert starts(schedule, now_s=4) == []
    schedule.finish("t1", now_s=9)
    assert [(start.stage.key, start.node) for start in starts(schedule, now_s=9)] == [("t0", "n1")]


def test_a_running_training_gives_way_when_a_waiting_one_must_start():
    """Three trainings of 9000 s, two GPUs: the bound is 13500 s, so the third must start after 4500 s at the latest."""
    schedule = schedule_on(gpu_nodes(1.0, 1.0), *(stage(f"t{i}", expected_s=9000) for i in range(3)))
    nodes = {start.stage.key: start.node for start in starts(schedule)}
    assert list(nodes) == ["t0", "t1"]
    assert schedule.requests_to_stop(0) == []
    wake_s = schedule.next_wake_s()
    assert 3000 < wake_s < 4600
    for stage_id in ("t0", "t1"):
        schedule.progress(stage_id, fraction=0.5, whole_s=9000, now_s=4500)
    (asked,) = schedule.requests_to_stop(4500)
    assert schedule.requests_to_stop(4500) == []
    assert schedule.fail(asked, kind=FailureKind.PREEMPTION, now_s=4520) == Retry(attempt=2)
    (start,) = starts(schedule, now_s=4520)
    assert (start.stage.key, start.node) == ("t2", nodes[asked])
    (other,) = {"t0", "t1"} - {asked}
    schedule.finish(other, now_s=9000)
    assert start_all(schedule, now_s=9000) == [asked]


def test_on_shared_cores_the_patches_of_all_trainings_come_first_so_that_the_last_can_be_given_way_to():
    """Two cores: had two trainings taken both of them, the third would never have become one that can start."""
    graph = [stage(f"p{i}", kind=StageKind.PREPROCESS, expected_s=1) for i in range(3)]
    graph += [stage(f"t{i}", f"p{i}", expected_s=9000 - i) for i in range(3)]
    schedule = schedule_of(*graph, cpus=2)
    assert start_all(schedule) == ["p0", "p1"]
    schedule.finish("p0", now_s=1)
    assert start_all(schedule, now_s=1) == ["p2"]
    for done in ("p1", "p2"):
        schedule.finish(done, now_s=2)
    assert start_all(schedule, now_s=2) == ["t0", "t1"]
    for stage_id in ("t0", "t1"):
        schedule.progress(stage_id, fraction=0.5, whole_s=9000, now_s=4500)
    (asked,) = schedule.requests_to_stop(4500)
    schedule.fail(asked, kind=FailureKind.PREEMPTION, now_s=4520)
    assert start_all(schedule, now_s=4520) == ["t2"]


def test_a_prediction_that_takes_the_only_place_does_not_end_the_looking():
    """It looks as if no training could ever run; the next look comes nevertheless."""
    schedule = schedule_of(
        stage("t0", expected_s=9000),
        stage("predict", kind=StageKind.PREDICT, expected_s=1),
        stage("t1", expected_s=8000),
        cpus=1,
    )
    assert start_all(schedule) == ["predict"]
    assert schedule.requests_to_stop(0) == []
    assert schedule.next_wake_s() <= 600


def test_a_training_that_does_not_stop_keeps_nobody_waiting_for_ever():
    schedule = schedule_on(gpu_nodes(1.0, 1.0), *(stage(f"t{i}", expected_s=9000) for i in range(3)))
    start_all(schedule)
    for stage_id in ("t0", "t1"):
        schedule.progress(stage_id, fraction=0.5, whole_s=9000, now_s=4500)
    (deaf,) = schedule.requests_to_stop(4500)
    (other,) = {"t0", "t1"} - {deaf}
    schedule.finish(other, now_s=4600)
    assert start_all(schedule, now_s=4600) == []
    assert schedule.next_wake_s() <= 4500 + 600
    asked = [stage_id for now_s in range(4600, 6000, 100) for stage_id in schedule.requests_to_stop(now_s)]
    assert asked == []
    assert start_all(schedule, now_s=6000) == ["t2"]


def test_a_miniature_never_gives_way():
    schedule = schedule_on(gpu_nodes(1.0, 1.0), *(stage(f"t{i}", expected_s=60) for i in range(3)))
    assert start_all(schedule) == ["t0", "t1"]
    assert [asked for now_s in range(120) for asked in schedule.requests_to_stop(now_s)] == []


def test_a_long_training_moves_to_a_fast_gpu_that_becomes_idle():
    schedule = schedule_on(gpu_nodes(2.0, 0.5), stage("short", expected_s=2000), stage("long", expected_s=1900))
    assert {start.stage.key: start.node for start in starts(schedule)} == {"short": "n0", "long": "n1"}
    schedule.progress("long", fraction=0.25, whole_s=3800, now_s=1000)
    schedule.finish("short", now_s=1000)
    assert schedule.requests_to_stop(1000) == ["long"]
    schedule.fail("long", kind=FailureKind.PREEMPTION, now_s=1200)
    assert [start.node for start in starts(schedule, now_s=1200)] == ["n0"]


def test_a_lost_node_gives_its_trainings_back():
    schedule = schedule_on(gpu_nodes(1.0, 1.0), stage("a", expected_s=9), stage("b", expected_s=8))
    start_all(schedule)
    assert schedule.remove_node("n0", now_s=5) == ["a"]
    assert schedule.fail("a", kind=FailureKind.PREEMPTION, now_s=5) == Retry(attempt=2)
    assert start_all(schedule, now_s=5) == []
    schedule.add_node(Node(id="n2", offered=Resources(cpus=2, gpus=1)), now_s=6)
    assert [start.node for start in starts(schedule, now_s=6)] == ["n2"]


def test_a_training_that_runs_on_another_machine_of_its_kind_says_so_before_that_machine_is_lost():
    """The cluster has put `a` on n1 and `b` on n0. When n0 is lost, `b` is lost, and no place becomes free on n1."""
    schedule = schedule_on(gpu_nodes(1.0, 1.0), *(stage(name, expected_s=9) for name in "abc"))
    assert {start.stage.key: start.node for start in starts(schedule)} == {"a": "n0", "b": "n1"}
    for name, node in (("a", "n1"), ("b", "n0")):
        schedule.progress(name, fraction=0.1, whole_s=9, now_s=1, node=node)
        assert start_all(schedule, now_s=1) == []
    assert schedule.remove_node("n0", now_s=2) == ["b"]
    schedule.fail("b", kind=FailureKind.PREEMPTION, now_s=2)
    assert start_all(schedule, now_s=2) == []
    schedule.finish("a", now_s=9)
    assert [start.node for start in starts(schedule, now_s=9)] == ["n1"]


def test_a_machine_that_is_not_there_any_more_is_not_believed():
    schedule = schedule_on(gpu_nodes(1.0), stage("a", expected_s=9))
    start_all(schedule)
    schedule.progress("a", fraction=0.1, whole_s=9, now_s=1, node="one of an earlier attempt")
    assert schedule.remove_node("n0", now_s=2) == ["a"]


def test_the_bound_for_gpus_of_different_speeds():
    # Alone on the fast one 9 / 2; both on both (9 + 9) / 3; with a third of 9 all of them (27) / 3.
    assert lower_bound_s([9], [2, 1]) == 4.5
    assert lower_bound_s([9, 9], [2, 1]) == 6
    assert lower_bound_s([9, 9, 9], [2, 1]) == 9
