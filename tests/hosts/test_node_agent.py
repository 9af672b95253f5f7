"""The agent of a machine that is a job: what it tells Ray, and when it starts it again. Ray is played."""

import json
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from test_ray_executor import record

from orchestrator.cluster.commands import free_port
from orchestrator.cluster.ray_head import JOINED
from orchestrator.ray_backend import node_agent
from orchestrator.ray_backend.nodes import time_left


class PlayedRay:
    """Takes note of how it is started; each ends with the next code."""

    def __init__(self):
        self.starts = []
        self.codes = [0]

    @contextmanager
    def start(self, arguments):
        self.starts.append(list(arguments))
        yield SimpleNamespace(poll=lambda: 1)

    def member(self, *_, **__):
        return self

    def last(self, _):
        return self.codes.pop(0)


@pytest.fixture
def played(monkeypatch):
    found = PlayedRay()
    monkeypatch.setattr(node_agent, "_find_head", lambda *_: "head:6379")
    monkeypatch.setattr(node_agent, "_ray", found.start)
    monkeypatch.setattr(node_agent, "_Membership", found.member)
    return found


def carry_out(*more, warned=False):
    event = threading.Event()
    if warned:
        event.set()
    options = ["worker", "--folder", "folder", "--num-cpus", "1", *more]
    return node_agent._worker(node_agent.build_parser().parse_args(options), event)


def test_a_worker_with_a_limit_says_when_it_will_be_drained(played, monkeypatch):
    """Of 600 s of its job 45 have passed when it begins, and the last 100 are for saving what runs."""
    monkeypatch.setattr(node_agent.time, "time", lambda: 5000.0)
    assert carry_out("--limit-s", "600", "--spent-s", "45", "--drain-s", "100") == 0
    (label,) = [word.removeprefix("--labels=") for word in played.starts[0] if word.startswith("--labels=")]
    assert label == "orchestrator/drained-at=5455"
    name, _, value = label.partition("=")
    ending, other = record("ending", cpus=1), record("other", cpus=1)
    ending["Labels"][name] = value
    assert time_left([ending, other], now_s=5400.0) == {"ending": 55.0}


def test_one_without_a_limit_does_not(played):
    assert carry_out() == 0
    assert not [word for word in played.starts[0] if word.startswith("--labels=")]


@pytest.mark.parametrize(
    ("codes", "warned", "num_starts", "code"),
    [([0], False, 1, 0), ([1, 0], False, 2, 0), ([1, 1, 1], False, 3, 1), ([1], True, 1, 1)],
)
def test_a_ray_that_ends_before_it_has_joined_is_started_again(played, codes, warned, num_starts, code):
    played.codes = codes
    assert carry_out(warned=warned) == code
    assert len(played.starts) == num_starts


@pytest.mark.parametrize("has_come", [[True], [False, True], [False, False, False]])
def test_a_ray_that_ends_before_it_is_a_head_is_started_again(tmp_path, monkeypatch, played, capsys, has_come):
    """One that was a head is not: the run has ended with it."""
    come = iter(has_come)
    monkeypatch.setattr(node_agent, "_becomes_head", lambda *_: next(come))
    options = node_agent.build_parser().parse_args(["head", "--folder", str(tmp_path), "--address", "127.0.0.1"])
    assert node_agent._head(options, threading.Event()) == 1
    assert len(played.starts) == len(has_come)
    assert (tmp_path / "head.json").exists() == (True in has_come)
    if True in has_come:
        (port,) = [word.removeprefix("--port=") for word in played.starts[-1] if word.startswith("--port=")]
        assert json.loads((tmp_path / "head.json").read_text())["address"] == f"127.0.0.1:{port}"
    assert capsys.readouterr().err.count("it is started once more") == min(2, has_come.count(False))


def test_a_head_that_cannot_be_reached_is_told_with_its_address_and_the_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(node_agent, "HEAD_WITHIN_S", 0.2)
    monkeypatch.setattr(node_agent, "LOOK_EVERY_S", 0.05)
    words = ["worker", "--folder", str(tmp_path), "--num-cpus", "1"]
    assert node_agent._worker(node_agent.build_parser().parse_args(words), threading.Event()) == 0
    assert "the head of the run is gone: nothing to do" in capsys.readouterr().err
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "head.json").write_text(json.dumps({"address": address}))
    assert node_agent._worker(node_agent.build_parser().parse_args(words), threading.Event()) == 0
    told = capsys.readouterr().err
    assert f"no head answers at {address} within 0.2 s ([Errno 111] Connection refused)" in told
    assert "`address` of the cluster file" in told


def test_what_ray_says_at_the_last_try_is_the_last_that_is_said(played, capsys):
    played.codes = [1, 1, 1]
    assert carry_out() == 1
    assert capsys.readouterr().err.count("Ray has ended before it has joined") == 2


def test_a_worker_says_once_that_it_has_joined(monkeypatch, capsys):
    """Ray is played: its head knows the machine from the second look on, and its process ends after the fifth."""
    looks = iter([None, ("id", False), ("id", False), ("id", False), ("id", False)])
    member = object.__new__(node_agent._Membership)
    member._warned, member._drained, member._drain_s = threading.Event(), False, 1.0
    member._heard_s = member._until_s = float("inf")
    monkeypatch.setattr(node_agent, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(member, "_node", lambda: next(looks))
    codes = iter([None] * 5 + [1])
    assert member.last(SimpleNamespace(poll=lambda: next(codes))) == 0
    assert capsys.readouterr().err.count(JOINED) == 1
