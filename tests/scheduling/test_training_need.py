"""How many trainings share a GPU: none where one fills it, and never more than memory and cores allow."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from named_stages import Name

from orchestrator.benchmark.presets import PRESETS
from orchestrator.cluster.gpu_kinds import GpuKind
from orchestrator.cluster.kinds.existing import ExistingCluster
from orchestrator.cluster.node_pool import NodePool, Resources
from orchestrator.scheduling.resources import Node, ResourceRequest, node_of
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import Needs, idle_gpus, training_need
from orchestrator.simulation.engine import Conditions, Simulation
from orchestrator.training.gpu import keep_to_share
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKind

SMALL, FULL = PRESETS["smoke"], PRESETS["paper"]


def config(**values):
    return ExistingCluster(address="auto", **values)


def node(*, cpus=16, gpus=1, gib=80.0, name="gpu"):
    return Node(id=name, offered=Resources(cpus=cpus, gpus=gpus), gpu_memory_gib=gib)


def num_at_once(one, *, preset, **values):
    return training_need(config(**values), [one], preset=preset).num_on(one)


@pytest.mark.parametrize("name", ["quick", "paper"])
@pytest.mark.parametrize("gib", [16, 24, 80, 141])
def test_a_network_that_keeps_a_gpu_busy_has_it_alone_however_much_memory_there_is(name, gib):
    """nnU-Net's plan takes 8 GiB of 141; ten trainings would fit, and each would take ten times as long."""
    assert num_at_once(node(cpus=192, gib=gib), preset=PRESETS[name]) == 1


@pytest.mark.parametrize(
    ("one", "number"),
    [
        # A quarter of the GPU each: 1 GiB by the estimate and 2 besides fit into a quarter of 16.
        (node(gib=80), 4),
        (node(gib=16), 4),
        # 3 of 8 GiB are more than a third: two halves.
        (node(gib=8), 2),
        (node(gib=4), 1),
        (node(gib=2), 0),
        # Two cores each; at least one each.
        (node(cpus=5), 4),
        (node(cpus=3), 3),
        (node(cpus=16, gpus=2), 8),
    ],
)
def test_small_networks_share_a_gpu_as_far_as_memory_and_cores_go(one, number):
    assert num_at_once(one, preset=SMALL) == number


def test_a_gpu_of_unknown_memory_is_shared_only_where_the_cluster_file_says_so():
    unknown = node(gib=float("inf"))
    assert num_at_once(unknown, preset=SMALL) == 1
    assert num_at_once(unknown, preset=SMALL, gpus_per_training=0.5) == 2


def test_the_cluster_file_goes_before_the_preset_but_not_before_the_memory():
    assert num_at_once(node(gib=80), preset=FULL, gpus_per_training=0.25) == 4
    assert num_at_once(node(gib=24), preset=FULL, gpus_per_training=0.25) == 2
    assert num_at_once(node(gib=80), preset=SMALL, gpus_per_training=1.0) == 1
    assert training_need(config(cpus_per_training=3), [node()], preset=FULL).cpus == 3


def test_cores_that_the_cluster_file_asks_for_are_given_and_a_machine_with_fewer_takes_no_training():
    large, small = node(cpus=64, gpus=8, name="large"), node(cpus=4, gpus=1, gib=24, name="small")
    need = training_need(config(cpus_per_training=8), [large, small], preset=FULL)
    assert (need.cpus, need.num_on(large), need.num_on(small)) == (8, 8, 0)
    assert "A training takes 8 CPUs and 1 GPUs with 10 GiB" in idle_gpus(need, [large, small])
    assert "take none: 1 x 1 of 1 GPUs of 24 GiB with 4 CPUs." in idle_gpus(need, [large, small])
    assert idle_gpus(need, [large, node(cpus=2, gpus=0)]) == ""


def test_gpus_for_which_cores_or_memory_do_not_suffice_are_named():
    few_cores, little_memory = node(cpus=16, gpus=4), replace(node(cpus=64, gpus=4), memory_gib=15.6)
    need = training_need(config(cpus_per_training=8), [few_cores, little_memory], preset=FULL)
    line = idle_gpus(need, [few_cores, little_memory])
    assert "1 x 2 of 4 GPUs of 80 GiB with 16 CPUs;" in line
    assert "1 x 2 of 4 GPUs of 80 GiB with 64 CPUs in 16 GiB." in line
    assert "6 GiB of its machine" in line
    assert idle_gpus(training_need(config(), [node()], preset=SMALL), [node()]) == ""


def test_no_share_lies_across_two_gpus():
    """0.4 of a GPU would fit five times into two, but only twice into each."""
    assert num_at_once(node(gpus=2), preset=FULL, gpus_per_training=0.4) == 4


def test_a_training_takes_a_gpu_and_no_more_cores_than_each_gpu_has():
    nodes = [node(cpus=32, gpus=2), node(cpus=8, gpus=2), node(cpus=64, gpus=0)]
    need = training_need(config(), nodes, preset=FULL)
    assert (need.cpus, need.gpus, need.gpu_memory_gib) == (4, 1, 10)
    assert training_need(config(), nodes[2:], preset=FULL) == ResourceRequest(cpus=1, memory_gib=1)


def test_a_planner_that_fills_more_memory_needs_gpus_that_have_it():
    large, small = node(gib=48), node(gib=24)
    need = training_need(config(), [large, small], preset=FULL, planned_gib=24)
    assert (need.gpus, need.gpu_memory_gib) == (1, 26)
    assert (need.num_on(large), need.num_on(small)) == (1, 0)
    # A preset that says how much is right whatever the planner.
    assert training_need(config(), [small], preset=SMALL, planned_gib=24) == training_need(
        config(), [small], preset=SMALL
    )


def trace(preset, *, number, **values):
    pool = NodePool(name="gpu", max_nodes=1, cpus=32, gpus=1, gpu=GpuKind(name="", speed=1.0, memory_gib=80.0))
    machine = node_of(pool)
    graph = {
        name: Stage(key=Name(name, StageKind.TRAIN), dependencies=(), products=(), expected_s=3600)
        for name in map(str, range(number))
    }
    need = training_need(config(**values), [machine], preset=preset)
    schedule = Schedule(graph, done=(), nodes=(), to_come=[machine], needs=Needs(one=need))
    return Simulation(schedule=schedule, pools=(pool,), true_s={}, conditions=Conditions(start_training_s=0)).run()


def test_the_simulator_plays_sharing_and_what_it_costs():
    assert trace(SMALL, number=4).makespan_s == 3600
    assert trace(SMALL, number=4, gpus_per_training=1.0).makespan_s == 4 * 3600
    # Two that each keep the GPU busy take twice as long beside each other: nothing is gained.
    assert trace(FULL, number=2).makespan_s == 2 * 3600
    assert trace(FULL, number=2, gpus_per_training=0.5).makespan_s == 2 * 3600
    assert trace(SMALL, number=4).gpu_hours == 1


def test_a_process_with_a_share_keeps_to_it(monkeypatch):
    told = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=7000 * 1024**2))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: told.append(given))
    keep_to_share(1.0)
    assert told == []
    keep_to_share(0.5)
    assert told == [(pytest.approx(0.4), 0)]
