"""What is expected of stages follows from the voxels of their cases, and of predictions from the window of nnU-Net."""

from collections import Counter

import pytest
from test_stages import graph_of

from orchestrator.benchmark import costs
from orchestrator.benchmark.costs import EXPORT, START_S, StepCost, case_voxels, prediction_of_case
from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.simulation.forecast import NUM_TOGETHER, compact, simulate_run
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKey, StageKind

PAPER, SMOKE = PRESETS["paper"], PRESETS["smoke"]


@pytest.fixture(scope="module")
def study():
    return load_study()


def test_a_case_has_the_slices_of_its_data_set_and_a_coarse_phantom_the_voxels_of_a_thorax(study):
    dataset = study.dataset("covid-19-ct-seg")
    assert case_voxels(dataset, preset=PAPER, phantoms=True) == 176 * 512 * 512
    assert case_voxels(dataset, preset=SMOKE, phantoms=False) == 176 * 512 * 512
    # 400 x 320 x 320 mm in voxels of 8 mm.
    assert case_voxels(dataset, preset=SMOKE, phantoms=True) == 50 * 40 * 40


def test_a_stage_takes_longer_by_the_voxels_of_its_case():
    step = StepCost(core_s=0.5, gib=0.1)
    assert step.seconds(0) == START_S
    assert step.seconds(4_000_000) == START_S + 2.0


def test_a_stage_takes_more_memory_for_a_larger_case(study):
    """As measured: 4.3 GiB for 67 million voxels, so about 4 for 46 million; 1 GiB holds any stage of a miniature."""
    graph = graph_of(study, "T1-lung-fold0")
    kinds = {stage.kind: stage.memory_gib for stage in graph.values()}
    assert kinds[StageKind.PREPROCESS] == 4
    assert kinds[StageKind.PLAN] == kinds[StageKind.INGEST] == 2
    assert costs.PREPROCESS.memory_gib(66.6e6) == 5
    small = graph_of(study, "T1-lung-fold0", preset=SMOKE, phantoms=True).values()
    assert {stage.memory_gib for stage in small if not stage.kind.uses_network} == {1}


def test_a_prediction_is_a_forward_pass_for_each_place_of_the_window_and_each_mirrored_axis(study):
    """Two patches along each axis: 3.5 places by half steps, eight times mirrored; a pass is a sixth of 0.13 s."""
    (training,) = study.trainings(only=("T1-lung-fold0",), preset=PAPER)
    seconds = prediction_of_case(8 * 128**3, training=training, preset=PAPER)
    assert seconds.network == pytest.approx(3.5**3 * 8 * 0.13 / 6)
    assert seconds.core == EXPORT.seconds(8 * 128**3)


def test_a_2d_network_mirrors_two_axes(study):
    training, flat = study.trainings(matrix="all", only=("T1-lung-fold0", "T1-lung-2d-fold0"), preset=PAPER)
    assert (training.model.configuration, flat.model.configuration) == ("3d_fullres", "2d")
    solid_s, flat_s = (prediction_of_case(10**8, training=t, preset=PAPER).network for t in (training, flat))
    assert solid_s == 2 * flat_s


def test_a_miniature_is_predicted_without_mirrors_by_larger_steps_on_a_core(study):
    (training,) = study.trainings(only=("T1-lung-fold0",), preset=SMOKE)
    seconds = prediction_of_case(8 * 32**3, training=training, preset=SMOKE)
    assert seconds.network == pytest.approx((1 / 0.75 + 1.5) ** 3 * SMOKE.expected_s_per_iteration)


def test_cases_are_preprocessed_to_the_grid_in_the_middle_of_their_training(study):
    """Four cases of 176 slices and 50 of 95: all get 95."""
    graph = graph_of(study, "T3-lung-structseg-fold0")
    training = graph[StageKey.parse("train T3-lung-structseg-fold0")].training
    covid = next(case for case in training.train if case.dataset == "covid-19-ct-seg")
    assert graph[StageKey.parse(f"preprocess {training.id} {covid.id}")].voxels == 95 * 512 * 512
    assert graph[StageKey.parse(f"ingest {covid.id}")].voxels == 176 * 512 * 512


def test_what_prepares_and_predicts_the_paper_takes_hours_and_not_minutes(study):
    hours = Counter()
    for stage in graph_of(study).values():
        hours[stage.kind] += stage.expected_s / 3600
    assert 8 < hours[StageKind.PREPROCESS] < 40
    assert 15 < hours[StageKind.PREDICT] < 80
    assert hours[StageKind.TRAIN] == pytest.approx(45 * 250_000 * 0.13 / 3600)


def test_the_miniature_is_simulated_to_take_minutes_on_two_cores(study):
    """`make run` takes 4.9 minutes there: between half and twice as long."""
    trainings = study.trainings(preset=SMOKE)
    found = simulate_run(
        graph_of(study, phantoms=True, preset=SMOKE),
        trainings=trainings,
        preset=SMOKE,
        cluster=LocalCluster(num_cpus=2, num_gpus=0),
        prices=None,
        seed=0,
    )
    assert 2.45 < found.asked_for.makespan_s / 60 < 9.8


def test_a_compact_graph_is_smaller_and_as_much_work_in_an_order_that_can_be_carried_out(study):
    graph = graph_of(study, "T2-*", phantoms=True)
    small = compact(graph)
    assert len(small) < len(graph) / 10
    for kind in StageKind:
        whole_s, small_s = (sum(s.expected_s for s in g.values() if s.kind is kind) for g in (graph, small))
        assert small_s == pytest.approx(whole_s)
    seen = set()
    for stage in small.values():
        assert seen.issuperset(stage.dependencies)
        seen.add(stage.key)


def test_a_compact_graph_does_so_many_cases_in_one_stage():
    cases = [Case(dataset="d", name=f"{index:02d}") for index in range(NUM_TOGETHER + 1)]
    keys = [StageKey(kind=StageKind.INGEST, case=case) for case in cases]
    graph = {key: Stage(key=key, dependencies=(), products=(), expected_s=2.0) for key in keys}
    plan = StageKey(kind=StageKind.PLAN, training="a")
    graph[plan] = Stage(key=plan, dependencies=tuple(graph), products=(), expected_s=1.0)
    small = compact(graph)
    assert {key.text: stage.expected_s for key, stage in small.items()} == {
        "ingest d/00": 2.0 * NUM_TOGETHER,
        "ingest d/25": 2.0,
        "plan a": 1.0,
    }
    assert small[plan].dependencies == (keys[0], keys[NUM_TOGETHER])
