"""What the executor makes of Ray's description of a cluster, and what it asks Ray for."""

import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group

from orchestrator.cluster.config import ClusterConfig
from orchestrator.pipeline.processors import Need, Node, Resources
from orchestrator.pipeline.ray_executor import connected
from orchestrator.pipeline.ray_leftovers import free_reserved_places
from orchestrator.pipeline.ray_nodes import GROWING, label_selector, nodes_of, training_need


def record(node_id: str, *, cpus: float, gpus: float = 0, kind: str = "", alive: bool = True) -> dict[str, Any]:
    labels = {"ray.io/node-id": node_id} | ({"ray.io/accelerator-type": kind} if kind else {})
    return {"NodeID": node_id, "Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}, "Labels": labels}


def config(**values: Any) -> ClusterConfig:
    return ClusterConfig(path=Path("x"), kind="existing", **values)


def test_living_machines_with_processors_are_nodes_with_the_speed_of_their_gpus():
    found = [
        record("head", cpus=0),
        record("a", cpus=8, gpus=1, kind="A10G"),
        record("b", cpus=8, gpus=1, kind="A100"),
        record("gone", cpus=8, alive=False),
    ]
    slow, fast = nodes_of(found, config())
    assert (slow.id, slow.kind, slow.gpu_memory_gib) == ("a", "A10G", 24)
    assert slow.speed < fast.speed


def test_a_cluster_that_may_grow_is_one_large_node():
    (node,) = nodes_of([record("a", cpus=2)], config(num_cpus=64, num_gpus=8))
    assert (node.id, node.offered) == (GROWING, Resources(cpus=64, gpus=8))


def test_a_training_takes_a_gpu_and_no_more_cores_than_each_gpu_has():
    nodes = nodes_of([record("a", cpus=32, gpus=2), record("b", cpus=8, gpus=2), record("c", cpus=64)], config())
    assert training_need(config(), nodes, gpu_memory_gib=8) == Need(cpus=4, gpus=1, gpu_memory_gib=8)
    assert training_need(config(), nodes[2:], gpu_memory_gib=8) == Need(cpus=1)


def test_ray_is_told_the_kind_of_gpu_only_where_there_are_several_and_no_broken_machine():
    one, other = (Node(id=kind, offered=Resources(cpus=8, gpus=1), kind=kind, speed=1.0) for kind in ("A100", "A10G"))
    assert label_selector(one, nodes=[one], shunned=()) == {}
    assert label_selector(one, nodes=[one, other], shunned=()) == {"ray.io/accelerator-type": "A100"}
    assert label_selector(one, nodes=[one], shunned=["n2", "n1"]) == {"ray.io/node-id": "!in(n1,n2)"}


def wait_until(condition):
    until_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.1)


@pytest.mark.end_to_end
def test_what_a_controller_has_reserved_is_given_back_when_it_is_dead_and_not_before(tmp_path):
    class Controller:
        """Reserves a processor, as Ray Train's controller does for its worker."""

        def __init__(self):
            self.group = placement_group([{"CPU": 1.0}])

        def has_place(self):
            return self.group.wait(30)

    with connected(ClusterConfig(path=tmp_path, kind="local", num_cpus=1, num_gpus=0)):
        controller = ray.remote(num_cpus=0)(Controller).remote()
        assert ray.get(controller.has_place.remote())
        assert free_reserved_places() == 0
        assert ray.available_resources().get("CPU", 0) == 0

        ray.kill(controller)
        wait_until(lambda: free_reserved_places() == 1)
        wait_until(lambda: ray.available_resources().get("CPU", 0) == 1)
