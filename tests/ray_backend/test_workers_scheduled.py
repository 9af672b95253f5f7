"""Trainings with several workers: what they take, what is refused, and where they find room; sums done by hand."""

import pytest
from named_stages import Name

from orchestrator.benchmark.costs import pace_of_workers
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import find_preset
from orchestrator.cli.run import main
from orchestrator.cluster.gpu_kinds import GpuKind
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.cluster.node_pool import NodePool, Resources
from orchestrator.errors import ConfigError, DataError, LostWorkerError
from orchestrator.ray_backend.errors import FailedStageError, failure_of
from orchestrator.scheduling.autoscaling import missing_machines
from orchestrator.scheduling.ended import Failed, FailureKind, kind_of
from orchestrator.scheduling.remaining_time import estimate_remaining_s
from orchestrator.scheduling.resources import Node, ResourceRequest, node_of
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import Needs, idle_gpus, needs_of
from orchestrator.simulation.engine import Conditions, Simulation
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKind

HOUR_S = 3600.0
ONE = ResourceRequest(cpus=2, gpus=1, gpu_load=1.0)
TWO = ResourceRequest(cpus=2, gpus=1, gpu_load=1.0, num_workers=2)
STUDY = load_study()
PRESET = find_preset("paper")


def machine(gpus, *, name="node", **others):
    return Node(id=name, offered=Resources(cpus=4.0 * gpus, gpus=gpus), **others)


def pool(gpus, *, number, speed=1.0):
    gpu = GpuKind(name=f"x{speed}", speed=speed, memory_gib=float("inf"))
    return NodePool(name=f"{gpus} GPUs", max_nodes=number, cpus=4 * gpus, gpus=gpus, gpu=gpu)


def training(name, hours, *needs, kind=StageKind.TRAIN):
    return Stage(key=Name(name, kind), dependencies=needs, products=(), expected_s=hours * HOUR_S)


def schedule_on(nodes, *stages, workers, most=None):
    return Schedule(
        {stage.key: stage for stage in stages},
        done=(),
        nodes=nodes,
        needs=Needs(one=ONE, asked=workers, most=most or {}),
        min_gain_s=600.0,
    )


def start_all(schedule, *, now_s=0.0):
    started = {}
    while (start := schedule.start_next(now_s)) is not None:
        started[start.stage.key] = (start.node, start.num_workers)
    return started


def test_two_workers_take_twice_as_much_of_one_machine_and_share_no_gpu():
    assert TWO.share_of(machine(4)) == Resources(cpus=4, gpus=2)
    assert (TWO.num_on(machine(4)), TWO.num_on(machine(3)), TWO.num_on(machine(1))) == (2, 1, 0)
    small = ResourceRequest(cpus=1, gpus=0.25, gpu_load=0.25, gpu_memory_gib=3, memory_gib=6, num_workers=2)
    assert small.share_of(machine(2, gpu_memory_gib=80)) == Resources(cpus=2, gpus=2)
    assert small.num_on(machine(8, memory_gib=25)) == 2
    on_cpus = ResourceRequest(cpus=1, num_workers=3)
    assert on_cpus.share_of(Node(id="cpu", offered=Resources(cpus=4))) == Resources(cpus=3)


@pytest.mark.parametrize(("number", "pace"), [(1, 1.0), (2, 1.6), (4, 16 / 7)])
def test_workers_lose_a_quarter_of_what_each_further_one_adds(number, pace):
    assert pace_of_workers(number) == pytest.approx(pace)
    assert ResourceRequest(cpus=1, num_workers=number).pace_with(Resources(cpus=number)) == pytest.approx(pace)


REFUSED = {
    "batch": ({"workers": 3, "batch_size": 2}, {}, 8, "3 workers for batches of 2 patches; expected at most 2"),
    "machine": ({"workers": 4}, {}, 2, "4 workers; expected at most 2, the GPUs of the largest machine"),
    "shared": ({"workers": 2}, {"gpus_per_training": 0.5}, 8, "2 workers, and gpus_per_training: 0.5 in"),
    "of the cluster": ({"batch_size": 2}, {"workers_per_training": 4}, 8, "4 workers for batches of 2 patches"),
}
"""What the preset has, what the cluster file has, GPUs of the largest machine, and what is said."""


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_the_training_that_asks_for_it(case):
    changes, values, gpus, words = REFUSED[case]
    trainings = STUDY.trainings(only=["T1-lung-fold0"], preset=PRESET)
    preset = PRESET.changed_by(tuple(changes.items()))
    with pytest.raises(ConfigError, match=f"T1-lung-fold0: {words}"):
        needs_of(trainings, one=ONE, preset=preset, config=LocalCluster(**values), machines=[machine(1), machine(gpus)])


def test_the_cluster_file_goes_before_model_and_preset():
    trainings = STUDY.trainings(only=["T1-lung-fold0"], preset=PRESET)
    asked = PRESET.changed_by((("workers", 2),))
    for preset, values, number in ((PRESET, {}, 1), (asked, {}, 2), (asked, {"workers_per_training": 1}, 1)):
        found = needs_of(trainings, one=ONE, preset=preset, config=LocalCluster(**values), machines=())
        assert found.asked == {"T1-lung-fold0": number}


def test_what_is_told_before_a_start_counts_every_gpu_of_a_training(tmp_path, capsys):
    """A training of 9.03 hours by one worker takes two of them 5.64 hours."""
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("kind: local\nworkers_per_training: 2\n")
    command = ["--dry-run", "--preset", "paper", "--only", "T1-lung-fold0", "--cluster", str(cluster)]
    assert main(command) == 0
    assert "1 training, about 11.3 A100 hours" in " ".join(capsys.readouterr().out.split())


def test_gpus_that_are_left_over_by_pairs_are_told():
    line = idle_gpus(TWO, [machine(3)])
    assert line.startswith("Each of 2 workers of a training takes 2 CPUs and 1 GPUs")
    assert "take none: 1 x 1 of 3 GPUs" in line


def test_a_training_that_fits_on_no_machine_is_refused_before_the_start():
    with pytest.raises(ConfigError, match=r"with 2 workers needs 4 CPUs and 2 GPUs .* on one machine; .* 1 GPUs"):
        schedule_on([machine(1), machine(1, name="other")], training("train a", 1), workers={"a": 2})


def test_a_training_with_more_workers_is_waited_for_by_shorter_ones_that_would_take_its_gpus_one_by_one():
    stages = [training("train a", 1), training("train b", 2), training("train feed", 0.1, kind=StageKind.PREPROCESS)]
    stages += [training("train large", 9, "train feed"), training("train short", 0.5, "train feed")]
    schedule = schedule_on([machine(2)], *stages, workers={"large": 2})
    assert start_all(schedule).keys() == {"train a", "train b", "train feed"}
    schedule.finish("train feed", now_s=10)
    schedule.finish("train a", now_s=HOUR_S)
    assert start_all(schedule, now_s=HOUR_S) == {}
    schedule.finish("train b", now_s=2 * HOUR_S)
    assert start_all(schedule, now_s=2 * HOUR_S) == {"train large": ("node", 2)}


def test_other_machines_are_free_for_shorter_ones_meanwhile_and_predictions_are_not_kept_waiting():
    stages = [training(f"train {name}", hours) for name, hours in (("a", 1), ("b", 1.5), ("c", 3), ("d", 4))]
    stages += [training("feed", 0.1, kind=StageKind.PREPROCESS), training("train large", 9, "feed")]
    stages += [training("train short", 0.5, "feed"), training("predict a", 0.1, "train a", kind=StageKind.PREDICT)]
    schedule = schedule_on([machine(2, name="late"), machine(2, name="soon")], *stages, workers={"large": 2})
    started = start_all(schedule)
    assert [started[f"train {name}"][0] for name in "abcd"] == ["soon", "soon", "late", "late"]
    schedule.finish("feed", now_s=10)
    schedule.finish("train a", now_s=HOUR_S)
    assert start_all(schedule, now_s=HOUR_S) == {"predict a": ("soon", 1)}
    schedule.finish("predict a", now_s=1.1 * HOUR_S)
    assert start_all(schedule, now_s=1.1 * HOUR_S) == {}
    schedule.finish("train c", now_s=1.2 * HOUR_S)
    assert start_all(schedule, now_s=1.2 * HOUR_S) == {"train short": ("late", 1)}
    schedule.finish("train b", now_s=1.5 * HOUR_S)
    assert start_all(schedule, now_s=1.5 * HOUR_S) == {"train large": ("soon", 2)}


def test_trainings_of_two_workers_have_half_as_many_places():
    stages = [training(f"train {name}", 10) for name in "abc"]
    schedule = schedule_on([machine(4)], *stages, workers=dict.fromkeys("abc", 2))
    assert start_all(schedule).keys() == {"train a", "train b"}
    # 30 hours of one worker are 18.75 of two on two places.
    assert estimate_remaining_s(schedule, now_s=0.0) == pytest.approx(30 / 1.6 / 2 * HOUR_S, rel=0.02)


def test_what_two_workers_show_teaches_what_one_takes():
    first, second = (
        Stage(
            key=Name(f"train {fold}", StageKind.TRAIN),
            dependencies=(),
            products=(),
            expected_s=10 * HOUR_S,
            training=STUDY.trainings(only=["T1-lung"], preset=PRESET)[fold],
        )
        for fold in range(2)
    )
    schedule = schedule_on([machine(2)], first, second, workers={"0": 2})
    start_all(schedule)
    schedule.progress("train 0", fraction=0.5, whole_s=5 * HOUR_S, now_s=2.5 * HOUR_S)
    assert schedule.remaining_s("train 0", now_s=2.5 * HOUR_S) == pytest.approx(4 * HOUR_S)
    assert schedule.remaining_s("train 0", now_s=3.5 * HOUR_S) == pytest.approx(2.4 * HOUR_S)
    assert schedule.remaining_s("train 1", now_s=3.5 * HOUR_S) == pytest.approx(8 * HOUR_S, rel=0.03)


MISSING = {
    "only large machines will do": (0, {2: 3}, {4: 2}),
    "what is left of them is used": (2, {2: 1}, {4: 1}),
    "the others ask for the fastest": (5, {2: 1}, {4: 2}),
    "more than there can be": (9, {2: 9, 4: 1}, {4: 2, 1: 3}),
}
"""Places, trainings by their workers, and machines by their GPUs that are asked for."""


@pytest.mark.parametrize("case", MISSING)
def test_a_growing_cluster_is_asked_for_machines_that_have_all_gpus_of_a_training(case):
    places, divided, expected = MISSING[case]
    pools = (pool(1, number=3, speed=0.5), pool(4, number=2))
    found = missing_machines(pools, present=(), need=ONE, demand={1: places, **divided})
    assert {int(size.gpus): number for size, number in found.items()} == expected


def test_the_simulator_plays_several_workers():
    pools = (pool(2, number=1),)
    graph = {one.key: one for one in [training("train a", 8), training("train b", 1)]}
    schedule = Schedule(graph, done=(), nodes=(), to_come=[node_of(pools[0])], needs=Needs(one=ONE, asked={"a": 2}))
    trace = Simulation(schedule=schedule, pools=pools, true_s={}, conditions=Conditions(start_training_s=0)).run()
    assert trace.makespan_s == pytest.approx((8 / 1.6 + 1) * HOUR_S)
    assert trace.gpu_hours == pytest.approx(2 * 8 / 1.6 + 1)


def test_of_several_workers_the_one_that_says_why_is_believed(monkeypatch):
    import ray
    from ray.exceptions import ActorDiedError
    from ray.train import WorkerGroupError

    monkeypatch.setattr(ray, "nodes", list)
    silent = FailedStageError(Failed.of(LostWorkerError("hears nothing"), kind=kind_of(LostWorkerError("x"))))
    telling = FailedStageError(Failed.of(DataError("bad case"), kind=FailureKind.DETERMINISTIC))
    found = failure_of(WorkerGroupError("both", {0: silent, 1: telling}))
    assert (found.kind, found.line) == (FailureKind.DETERMINISTIC, "DataError: bad case")
    assert failure_of(WorkerGroupError("one", {0: silent})).kind is FailureKind.CRASH
    killed = failure_of(WorkerGroupError("killed", {0: silent, 1: ActorDiedError()}))
    assert (killed.kind, killed.line.partition(":")[0]) == (FailureKind.CRASH, "ActorDiedError")


def two_at_the_end(*stages, nodes=None, most=2):
    names = [stage.key.training for stage in stages if stage.kind is StageKind.TRAIN]
    return schedule_on(nodes or [machine(2)], *stages, workers={}, most=dict.fromkeys(names, most))


def test_at_the_end_a_training_takes_the_idle_gpu_beside_it():
    schedule = two_at_the_end(training("train a", 10), training("train b", 1))
    start_all(schedule)
    assert schedule.requests_to_stop(10) == []
    schedule.finish("train b", now_s=HOUR_S)
    assert schedule.requests_to_stop(HOUR_S) == ["train a"]
    assert schedule.needs.is_expanded(schedule.graph["train a"])
    assert schedule.requests_to_stop(HOUR_S + 5) == []
    schedule.progress("train a", fraction=0.1, whole_s=10 * HOUR_S, now_s=HOUR_S)
    schedule.fail("train a", kind=FailureKind.PREEMPTION, now_s=HOUR_S + 10)
    assert start_all(schedule, now_s=HOUR_S + 10) == {"train a": ("node", 2)}
    assert schedule.remaining_s("train a", now_s=HOUR_S + 10) == pytest.approx(9 * HOUR_S, rel=0.02)
    assert schedule.remaining_s("train a", now_s=2 * HOUR_S + 10) == pytest.approx(7.4 * HOUR_S, rel=0.02)
    assert schedule.requests_to_stop(3 * HOUR_S) == []


NOT_EXPANDED = {
    "another one is still to come": (
        [training("feed", 9, kind=StageKind.PREPROCESS), training("train c", 1, "feed")],
        2,
    ),
    "nobody has asked for it": ([], 1),
}
"""Stages beside two trainings of which one ends, and the most workers."""


@pytest.mark.parametrize("case", NOT_EXPANDED)
def test_a_training_keeps_its_number_of_workers_where(case):
    others, most = NOT_EXPANDED[case]
    schedule = two_at_the_end(training("train a", 10), training("train b", 1), *others, most=most)
    start_all(schedule)
    schedule.finish("train b", now_s=HOUR_S)
    assert schedule.requests_to_stop(HOUR_S) == []


def test_a_training_that_is_nearly_done_is_not_stopped_for_a_second_gpu():
    """Of 30 minutes two workers spare 11.25, of 31 minutes 11.6: a restart of 1.5 and the least gain are 11.5."""
    for minutes, asked in ((30, []), (31, ["train a"])):
        schedule = two_at_the_end(training("train a", minutes / 60), training("train b", 1 / 60))
        start_all(schedule)
        schedule.finish("train b", now_s=0.0)
        schedule.progress("train a", fraction=1e-9, whole_s=minutes * 60, now_s=0.0)
        assert schedule.requests_to_stop(0.0) == asked, minutes


def test_where_the_place_is_lost_the_training_goes_on_with_as_many_workers_as_before():
    nodes = [machine(2), machine(1, name="small", speed=0.5)]
    schedule = two_at_the_end(training("train a", 10), training("train b", 1), nodes=nodes)
    start_all(schedule)
    schedule.finish("train b", now_s=HOUR_S)
    assert schedule.requests_to_stop(HOUR_S) == ["train a"]
    assert schedule.remove_node("node", now_s=HOUR_S + 1) == ["train a"]
    schedule.fail("train a", kind=FailureKind.PREEMPTION, now_s=HOUR_S + 1)
    assert start_all(schedule, now_s=HOUR_S + 1) == {"train a": ("small", 1)}


def test_a_training_that_takes_its_time_to_stop_still_finds_its_place():
    schedule = two_at_the_end(training("train a", 10), training("train b", 1))
    start_all(schedule)
    schedule.finish("train b", now_s=HOUR_S)
    assert schedule.requests_to_stop(HOUR_S) == ["train a"]
    # Three times the patience that others have.
    for minutes in (10, 20, 30):
        assert schedule.requests_to_stop(HOUR_S + minutes * 60 + 1) == []
    schedule.fail("train a", kind=FailureKind.PREEMPTION, now_s=1.6 * HOUR_S)
    assert start_all(schedule, now_s=1.6 * HOUR_S) == {"train a": ("node", 2)}


def test_the_longest_trainings_take_the_idle_gpus_first():
    stages = [training(f"train {name}", hours) for name, hours in (("a", 10), ("b", 9), ("c", 8), ("d", 1))]
    schedule = two_at_the_end(*stages, nodes=[machine(4)])
    start_all(schedule)
    schedule.finish("train d", now_s=HOUR_S)
    assert schedule.requests_to_stop(HOUR_S) == ["train a"]


@pytest.mark.parametrize(("most", "hours"), [(1, 10), (2, 1 + 9 / 1.6)])
def test_the_simulator_shows_what_the_idle_gpu_gains(most, hours):
    pools, stages = (pool(2, number=1),), [training("train a", 10), training("train b", 1)]
    needs = Needs(one=ONE, most=dict.fromkeys("ab", most))
    graph = {one.key: one for one in stages}
    schedule = Schedule(graph, done=(), nodes=(), to_come=[node_of(pools[0])], needs=needs, min_gain_s=600.0)
    trace = Simulation(schedule=schedule, pools=pools, true_s={}, conditions=Conditions(start_training_s=0)).run()
    assert trace.makespan_s == pytest.approx(hours * HOUR_S, rel=0.01)
