"""Machines whose end is near: where no training begins any more, and which are given back at once."""

from dataclasses import replace

import pytest
from test_machines_shown import two_trainings_for_three
from test_observer import EPOCH

from orchestrator.ray_backend.executor import NODES_INTERVAL_S
from orchestrator.scheduling.ended import Done
from orchestrator.scheduling.remaining_time import TimeLeft
from orchestrator.scheduling.resources import NodesSeen
from orchestrator.scheduling.scheduler import RESTART_S
from orchestrator.stages.records.latest_epoch import LatestEpoch, write_latest_epoch
from orchestrator.storage.filesystem import open_storage
from orchestrator.workflow.keys import StageKey, StageKind


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path / "run")


def test_a_drained_machine_is_given_back_as_soon_as_nothing_runs_there(storage):
    loop, backend, now, nodes = two_trainings_for_three(storage)
    backend.seen, backend.idle_s = NodesSeen(present=tuple(nodes), draining=frozenset()), 3600.0
    loop.step()
    loop.step()
    at_work = [node for _, _, node in backend.started]
    (idle,) = {node.id for node in nodes} - set(at_work)
    backend.seen = NodesSeen(present=tuple(nodes), draining=frozenset({at_work[0], idle}))
    now[0] += NODES_INTERVAL_S
    loop.step()
    assert backend.given_back == [idle]
    backend.ends[backend.running[0]] = Done()
    loop.step()
    assert set(backend.given_back) == {at_work[0], idle}


def test_of_machines_that_would_not_come_again_a_drained_one_is_not_given_back(storage):
    """The driver of an allocation is warned as they are; it would take them for lost."""
    loop, backend, _, nodes = two_trainings_for_three(storage)
    backend.seen = NodesSeen(present=tuple(nodes), draining=frozenset(node.id for node in nodes))
    loop.step()
    loop.step()
    assert backend.given_back == []


@pytest.mark.parametrize(
    ("idle_s", "had_s", "left_s", "begins"),
    [
        (3600.0, 900.0, 130.0, True),
        (3600.0, 900.0, 110.0, False),
        # It has more than half of the time that it had at first: others will not have more.
        (3600.0, 200.0, 110.0, True),
        # Others will not come.
        (float("inf"), 900.0, 110.0, True),
    ],
)
def test_no_training_begins_where_less_time_is_left_than_one_takes_to_its_epoch(storage, idle_s, had_s, left_s, begins):
    """The first one has told of its second epoch, the one that is surely of this attempt, after 120 s."""
    loop, backend, now, nodes = two_trainings_for_three(storage)
    backend.idle_s = idle_s
    backend.seen = NodesSeen(present=(nodes[0],), draining=frozenset(), left_s={"one": had_s})
    loop.step()
    loop.step()
    first, other = "ab" if backend.running[0].training == "a" else "ba"
    for epoch in (0, 1):
        now[0] += 60.0
        latest = LatestEpoch(report=replace(EPOCH, epoch=epoch), host="host", node="one")
        write_latest_epoch(storage, first, latest)
        loop.step()
    backend.seen = replace(backend.seen, left_s={"one": left_s})
    loop.step()
    backend.ends[backend.running[0]] = Done()
    loop.step()
    loop.step()
    assert [name for name, *_ in backend.started[1:]] == ([f"train {other}"] if begins else [])
    assert set(backend.given_back) == (set() if begins else {"one"})


def test_before_a_training_has_told_anything_a_usual_start_is_expected():
    times, key = TimeLeft(), StageKey(kind=StageKind.TRAIN, training="a")
    assert times.too_short({"a": 600.0, "b": 600.0}) == set()
    assert times.too_short({"a": RESTART_S + 1, "b": RESTART_S - 1}) == {"b"}
    times.started(key, now_s=100.0)
    for now_s in (120.0, 900.0):
        times.told(key, now_s=now_s)
    assert times.too_short({"a": 21.0, "b": 19.0}) == {"b"}
