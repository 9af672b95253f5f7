"""Why the machines of a cloud do not come: what the autoscaler of the installed Ray writes of it. AWS is played."""

import logging
from types import SimpleNamespace

from ray._private import ray_constants, worker
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.v2.instance_manager import node_provider

from orchestrator.ray_backend.launch_failures import LASTS_S, LaunchFailures, log_of_autoscaler

FULL = "We currently do not have sufficient g6e.2xlarge capacity in the Availability Zone you requested."


class PlayedConfig:
    """Of one kind of machines."""

    def get_cached_autoscaling_config(self):
        return self

    def get_cloud_node_config(self, _):
        return {}

    get_node_resources = get_node_labels = get_cloud_node_config

    def get_config(self, _, default):
        return default


class PlayedCloud:
    """Has no machines."""

    def create_node_with_resources_and_labels(self, *_):
        raise NodeLaunchException("InsufficientInstanceCapacity", FULL, None)


def launch(log, *, number, pool="gpu_spot"):
    """Let Ray's own provider fail, and its logger write."""
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.Formatter(ray_constants.LOGGER_FORMAT))
    node_provider.logger.addHandler(handler)
    before = node_provider.logger.level
    node_provider.logger.setLevel(ray_constants.LOGGER_LEVEL.upper())
    try:
        provider = node_provider.NodeProviderAdapter(PlayedCloud(), PlayedConfig())
        provider._launch_nodes_by_type(pool, number, "some-request")
    finally:
        node_provider.logger.setLevel(before)
        node_provider.logger.removeHandler(handler)
        handler.close()


def test_the_words_of_the_cloud_are_told_as_long_as_they_are_news(tmp_path):
    log, now_s = tmp_path / "monitor.log", [0.0]
    log.write_text("2026-11-30 10:00:00,000 INFO x.py:1 -- Failed to launch 1 nodes of type old: over\n")
    failures = LaunchFailures(log, clock=lambda: now_s[0])
    assert failures.recent() == {}
    launch(log, number=3)
    told = f"gpu_spot: InsufficientInstanceCapacity: {FULL}"
    assert failures.recent() == {told: 3}
    now_s[0] = LASTS_S - 1
    assert failures.recent() == {told: 3}
    launch(log, number=1, pool="gpu_on_demand")
    now_s[0] = LASTS_S
    assert list(failures.recent().values()) == [1]


def test_a_log_that_is_begun_anew_or_not_there_or_half_written_is_no_error(tmp_path):
    log = tmp_path / "monitor.log"
    failures = LaunchFailures(log)
    assert failures.recent() == {}
    log.write_text("a long line that ends\n" * 100)
    assert failures.recent() == {}
    log.write_text("-- Failed to launch 2 nodes of type cpu: no ")
    assert failures.recent() == {}
    with log.open("a") as file:
        file.write("quota\n")
    assert failures.recent() == {"cpu: no quota": 2}
    assert LaunchFailures(None).recent() == {}


def test_the_log_is_that_of_the_session_of_this_process(monkeypatch, tmp_path):
    monkeypatch.setattr(worker.global_worker, "node", None)
    assert log_of_autoscaler() is None
    monkeypatch.setattr(worker.global_worker, "node", SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path)))
    assert log_of_autoscaler() == tmp_path / "monitor.log"
