"""Events are on the disk when they have happened, and come back in their order."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator import events
from orchestrator.errors import IntegrityError, StorageError
from orchestrator.events import EventLog, read_events
from orchestrator.storage.filesystem import open_storage

START = datetime(2020, 4, 20, 12, 0, 0, tzinfo=UTC)


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


def log(storage, clock):
    return EventLog(storage, run_started=clock(), clock=clock)


def slow(storage):
    """Make a storage look like a bucket, where each write takes a request."""
    storage.is_remote = True
    return storage


def test_an_event_has_its_time_kind_and_fields(storage, clock):
    log(storage, clock).append("machines_missing", machines=2)
    assert read_events(storage) == [{"time": "2020-04-20T12:00:00+00:00", "kind": "machines_missing", "machines": 2}]
    assert storage.list_keys() == ["events/20200420T120000.000000-00000.jsonl"]


def test_each_event_is_on_the_disk_before_the_next(storage, clock):
    running = log(storage, clock)
    for number in range(1, 4):
        running.append("training_epoch", epoch=number)
        assert [event["epoch"] for event in read_events(storage)] == list(range(1, number + 1))


def test_a_full_segment_is_followed_by_another(storage, clock, monkeypatch):
    monkeypatch.setattr(events, "LINES_PER_SEGMENT", 3)
    running = log(storage, clock)
    for number in range(7):
        running.append("training_epoch", epoch=number)
    running.flush()
    assert [event["epoch"] for event in read_events(storage)] == [0, 1, 2, 3, 4, 5, 6]
    assert len(storage.list_keys("events")) == 3


def test_a_later_driver_adds_to_what_an_earlier_one_wrote(storage, clock):
    log(storage, clock).append("run_started", trainings=["a"])
    clock.wait(1)
    log(storage, clock).append("run_started", trainings=["b"])
    assert [event["trainings"] for event in read_events(storage)] == [["a"], ["b"]]


@pytest.mark.parametrize("back_s", [0, 3600])
@pytest.mark.parametrize("writer", ["", "trainings/T1-lung-fold0-"])
def test_what_is_written_later_comes_later_also_where_the_clock_was_set_back(storage, clock, writer, back_s):
    for number in range(4):
        # Of others, whose clocks are ahead.
        for other in ("trainings/T1-lung-fold0-more-", "trainings/T1-lung-"):
            later = clock() + timedelta(days=1)
            EventLog(storage, run_started=later, clock=clock, writer=other).append("other")
        EventLog(storage, run_started=clock(), clock=clock, writer=writer).append("run_started", trainings=[number])
        clock.wait(-back_s)
    told = [event["trainings"] for event in read_events(storage) if event["kind"] == "run_started"]
    assert told == [[0], [1], [2], [3]]
    clock.wait(100 * 3600)
    EventLog(storage, run_started=clock(), clock=clock, writer=writer).append("last")
    assert storage.exists(f"events/{writer}{clock():%Y%m%dT%H%M%S.%f}-00000.jsonl")


def test_a_log_whose_place_cannot_be_listed_waits_and_ends_nothing(storage, clock, monkeypatch):
    log(storage, clock).append("run_started", trainings=["a"])
    later, listed = log(storage, clock), storage.list_keys

    def refuse(prefix=""):
        raise StorageError("503")

    monkeypatch.setattr(storage, "list_keys", refuse)
    later.append("run_started", trainings=["b"])
    monkeypatch.setattr(storage, "list_keys", listed)
    later.flush()
    assert [event["trainings"] for event in read_events(storage)] == [["a"], ["b"]]


def test_writes_to_a_bucket_are_at_least_five_seconds_apart(storage, clock):
    running = log(slow(storage), clock)
    seen = []
    for _ in range(4):
        running.append("training_epoch")
        seen.append(len(read_events(storage)))
        clock.wait(3)
    # At 0 s the first is written; that of 3 s waits for 6 s; that of 9 s waits.
    assert seen == [1, 1, 3, 3]
    running.flush()
    assert len(read_events(storage)) == 4


def test_events_that_the_storage_refuses_wait_and_end_nothing(storage, clock, monkeypatch):
    running, write = log(storage, clock), storage.write_bytes

    def refuse(key, data):
        raise StorageError("no space left")

    monkeypatch.setattr(storage, "write_bytes", refuse)
    for epoch in range(events.LINES_PER_SEGMENT + 1):
        running.append("training_epoch", epoch=epoch)
    assert read_events(storage) == []
    monkeypatch.setattr(storage, "write_bytes", write)
    running.flush()
    assert len(read_events(storage)) == events.LINES_PER_SEGMENT + 1


def test_a_flush_without_events_writes_nothing(storage, clock):
    log(storage, clock).flush()
    assert storage.list_keys() == []
    assert read_events(storage) == []


def test_a_number_that_is_not_finite_is_null(storage, clock):
    log(storage, clock).append("training_epoch", val_loss=math.nan, pseudo_dice=(0.5, math.inf), more={"x": -math.inf})
    (key,) = storage.list_keys("events")
    line = storage.read_bytes(key).decode()
    assert json.loads(line, parse_constant=pytest.fail)["pseudo_dice"] == [0.5, None]
    assert (read_events(storage)[0]["val_loss"], read_events(storage)[0]["more"]) == (None, {"x": None})


def test_a_text_of_several_lines_stays_one_event(storage, clock):
    log(storage, clock).append("attempt_ended", error="first\nsecond\u2028third")
    assert [event["error"] for event in read_events(storage)] == ["first\nsecond\u2028third"]


NOON = '{"time": "2020-04-20T12:00:00", "kind": '


@pytest.mark.parametrize(
    "line",
    [
        b'{"time": "2020',
        b"[1]",
        b'{"kind": "x"}',
        b"\xff",
        b'{"time": "noon", "kind": "x"}',
        b'{"time": 12, "kind": "x"}',
        f"{NOON}[1]}}".encode(),
        f'{NOON}"stage_started", "stage": "train a", "stage_kind": "train"}}'.encode(),
        f'{NOON}"stage_finished", "stage": "train a", "stage_kind": "train", "elapsed_s": null}}'.encode(),
        f'{NOON}"stage_finished", "stage": "train a", "stage_kind": "train", "elapsed_s": 1e400}}'.encode(),
        f'{NOON}"training_epoch", "val_loss": NaN}}'.encode(),
        f'{NOON}"run_started", "trainings": ["a"], "left_out": "y"}}'.encode(),
        b"[" * 100_000,
    ],
)
def test_a_damaged_line_is_named(storage, clock, line):
    log(storage, clock).append("run_started", trainings=[])
    (key,) = storage.list_keys("events")
    storage.write_bytes(key, storage.read_bytes(key) + line)
    with pytest.raises(IntegrityError, match=r"events/2020.*jsonl: line 2 is not an event"):
        read_events(storage)


def test_every_kind_that_a_run_writes_is_documented_and_the_other_way_round():
    documented = {line.split("|")[1].strip() for line in events.__doc__.splitlines() if line.startswith("| ")}
    paths = (path for room in ("driver", "stages") for path in (Path(events.__file__).parent / room).glob("*.py"))
    sources = [path.read_text(encoding="utf-8") for path in paths]
    written = {kind for source in sources for kind in re.findall(r'events\.append\(\s*"(\w+)"', source)}
    assert written == documented - {"kind"}
