"""Pods of a run on Kubernetes: why they wait, and how one that ends leaves Ray's cluster."""

from types import SimpleNamespace

import pytest
from kubernetes_played import pod

from orchestrator.cluster.kubernetes.follow import why_pods_wait
from orchestrator.ray_backend import draining
from orchestrator.ray_backend.leave import leave


def test_why_pods_wait_is_said_by_the_group_and_in_words_of_kubernetes():
    pods = [pod("gpu", waiting="ImagePullBackOff"), pod("gpu", phase="Running"), pod("cpu"), pod("cpu")]
    assert why_pods_wait(pods) == {"gpu: ImagePullBackOff": 1, "cpu: starting": 2}


class PlayedHead:
    """Answers like Ray's client: one node that leaves the cluster some looks after it was drained."""

    def __init__(self, *, looks):
        self.looks = looks
        self.drained = []

    def get_all_node_info(self, timeout):
        if self.drained:
            self.looks -= 1
        node = SimpleNamespace(node_manager_address="10.0.0.7", state=0 if self.looks > 0 else 1)
        return {b"\x01\x02": node, b"\x03": SimpleNamespace(node_manager_address="10.0.0.8", state=0)}

    def drain_node(self, node_id, reason, told, until_ms):
        self.drained.append((node_id, told))
        return True, ""


@pytest.mark.parametrize(("looks", "within_s", "waited_s"), [(3, 60, 3), (1000, 10, 10)])
def test_a_pod_that_ends_drains_its_node_once_and_waits_until_it_has_left(looks, within_s, waited_s):
    head, now = PlayedHead(looks=looks), [0.0]

    def sleep(seconds):
        now[0] += seconds

    leave(head, address="10.0.0.7", within_s=within_s, clock=lambda: now[0], sleep=sleep)
    assert head.drained == [("0102", "Kubernetes ends its pod")]
    assert now[0] == pytest.approx(waited_s, abs=1)


def test_a_head_that_does_not_take_note_is_no_error():
    class Silent:
        def drain_node(self, *_):
            raise RuntimeError("unreachable")

    assert not draining.announce_end(Silent(), "01", reason="x", within_s=1.0)
