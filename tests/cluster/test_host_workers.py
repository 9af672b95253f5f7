"""Claims about who looks after a host: whatever goes wrong meanwhile, it is asked again."""

import time

import pytest

from orchestrator.cluster.hosts.facts import HostFacts
from orchestrator.cluster.hosts.workers import HostWorkers

FACTS = HostFacts(num_cpus=1, num_gpus=0, versions={})


def wait_until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it did not come to that within 10 s")


def test_a_host_is_looked_after_again_where_this_machine_could_not_for_a_while(tmp_path):
    folder = tmp_path / "run"
    told, starts = [], []

    def ask(host):
        told.append(workers.waiting())
        if len(told) == 1:
            raise OSError(12, "Cannot allocate memory")
        folder.mkdir()
        return FACTS

    def command(facts):
        starts.append(facts)
        return ["cat"]

    # The folder of the logs is not there yet.
    workers = HostWorkers({"h": command}, ask=ask, first={"h": FACTS}, folder=folder, retry_s=0.05)
    try:
        wait_until(lambda: starts)
        assert workers.waiting() == {}
    finally:
        workers.close()
    assert starts == [FACTS]
    (first,), (second,) = told
    assert first.startswith("h: cannot be looked after from this machine ([Errno 2] No such file or directory")
    assert second == "h: cannot be looked after from this machine ([Errno 12] Cannot allocate memory)"
