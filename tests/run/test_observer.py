"""Claims about what a run tells of itself: to people, to its events, and to whoever decides."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from fake_backend import NODE, FakeBackend

from orchestrator.driver.event_recorder import EventRecorder
from orchestrator.driver.loop import PROGRESS_EVERY_S, RunLoop
from orchestrator.driver.observer import RunObserver
from orchestrator.driver.progress_feed import LOOKING_S
from orchestrator.errors import ClusterError, StorageError
from orchestrator.events import EventLog, read_events
from orchestrator.scheduling.ended import Done, Failed, FailureKind
from orchestrator.scheduling.resources import ResourceRequest
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import Needs
from orchestrator.stages.records.latest_epoch import NUM_EARLIER, EpochRecorder, LatestEpoch, write_latest_epoch
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.reports import EpochReport
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKey, StageKind

EPOCH = EpochReport(
    epoch=0,
    num_epochs=10,
    train_loss=0.5,
    val_loss=0.4,
    pseudo_dice=0.8,
    elapsed_s=2.0,
    loader_wait_s=0.1,
    is_typical=True,
)
A, B, C, D = (StageKey(kind=StageKind.TRAIN, training=name) for name in "abcd")


def make_stage(kind, name, *, dependencies=()):
    return Stage(
        key=StageKey(kind=kind, training=name),
        dependencies=dependencies,
        products=(f"{kind.value} {name}",),
        expected_s=1.0,
        training=SimpleNamespace(id=name, group="T1-lung", fold=0),
    )


def failed_with(error, kind=FailureKind.DETERMINISTIC):
    return Failed.of(error, kind=kind)


class Driver:
    """A driver with four trainings under way whose clock goes on when a record is read; one was done before."""

    def __init__(self, folder, *, listens=True):
        self.storage = open_storage(folder)
        self.read_bytes = self.storage.read_bytes
        self.storage.read_bytes = self.read_slowly
        self.now_s = 0.0
        self.read_s = 0.0
        self.shown = []
        scores = [make_stage(StageKind.SCORE, "a", dependencies=(A,)), make_stage(StageKind.SCORE, "earlier")]
        self.schedule = Schedule(
            {stage.key: stage for stage in [*(make_stage(StageKind.TRAIN, name) for name in "abcd"), *scores]},
            done=(scores[1].key,),
            nodes=[NODE],
            needs=Needs(one=ResourceRequest(cpus=1)),
            min_gain_s=600.0,
        )
        events = EventLog(self.storage, run_started=datetime(2026, 1, 1, tzinfo=UTC), clock=lambda: datetime.now(UTC))
        view = SimpleNamespace(show=self.shown.append, note=lambda _: None)
        clock = lambda: self.now_s  # noqa: E731
        observer = RunObserver(self.schedule, view=view, publish=lambda snapshot, seconds: None, clock=clock)
        self.backend = FakeBackend()
        self.is_lost = False
        self.loop = RunLoop(
            self.schedule,
            backend=self.backend,
            storage=self.storage,
            listeners=[EventRecorder(self.storage, events=events), observer] if listens else [],
            lease=SimpleNamespace(check=self.check_lease, look=self.check_lease),
            clock=clock,
        )
        self.loop.step()

    def read_slowly(self, key):
        self.now_s += self.read_s
        return self.read_bytes(key)

    def check_lease(self):
        if self.is_lost:
            raise ClusterError("another driver has taken over")

    def write_epoch(self, training, **changes):
        latest = LatestEpoch(report=replace(EPOCH, **changes), host="host7", node="node")
        write_latest_epoch(self.storage, training, latest)

    def tick(self):
        """Return the finished epochs of each training that is shown."""
        self.now_s += PROGRESS_EVERY_S
        self.loop.step()
        return {one.id: one.epoch for one in self.shown[-1].running} if self.shown else {}

    def end(self, key, ended):
        self.backend.ends[key] = ended
        return self.tick()


@pytest.fixture
def driver(tmp_path):
    return Driver(tmp_path)


def test_an_epoch_is_shown_as_long_as_its_training_runs_and_is_one_event(driver):
    driver.write_epoch("b", epoch=3)
    assert [driver.tick(), driver.tick()] == [{"b": 4}, {"b": 4}]
    (event,) = [event for event in read_events(driver.storage) if event["kind"] == "training_epoch"]
    assert (event["training"], event["epoch"], event["host"], event["loader_wait_s"]) == ("b", 3, "host7", 0.1)
    assert driver.end(B, Done()) == {}


def test_the_first_epoch_of_an_attempt_tells_nothing_of_those_to_come(driver):
    """The network is compiled in it: 60 s for the first of ten, 2 s for the second, where each training takes 1 s."""
    driver.write_epoch("b", elapsed_s=60.0, is_typical=False)
    driver.tick()
    assert driver.schedule.remaining_s(B, now_s=driver.now_s) == pytest.approx(0.9, rel=0.1)
    driver.write_epoch("b", epoch=1)
    driver.tick()
    assert driver.schedule.remaining_s(B, now_s=driver.now_s) == pytest.approx(16.0, rel=0.1)


def told_epochs(driver, training="b"):
    events = [event for event in read_events(driver.storage) if event["kind"] == "training_epoch"]
    return [event["epoch"] for event in events if event["training"] == training]


@pytest.mark.parametrize("ended", [Done(), failed_with(StorageError("lost"), kind=FailureKind.PREEMPTION)])
def test_an_epoch_that_ends_together_with_its_training_is_told_before_that_end(driver, ended):
    driver.write_epoch("b", epoch=8)
    driver.tick()
    driver.write_epoch("b", epoch=9, elapsed_s=3.0)
    assert driver.end(B, ended) == {}
    kinds = [event["kind"] for event in read_events(driver.storage)][-2:]
    assert kinds == ["training_epoch", "stage_finished" if isinstance(ended, Done) else "stage_failed"]
    assert told_epochs(driver) == [8, 9]


def test_epochs_between_two_looks_are_told_in_their_order_and_each_once(driver):
    recorder = EpochRecorder(driver.storage, training_id="b", node="node")
    for epoch in range(3):
        recorder.write(replace(EPOCH, epoch=epoch))
    driver.tick()
    for epoch in range(3, 5):
        recorder.write(replace(EPOCH, epoch=epoch))
    assert [driver.tick(), driver.tick()] == [{"b": 5}, {"b": 5}]
    assert told_epochs(driver) == [0, 1, 2, 3, 4]


def test_an_epoch_whose_record_could_not_be_written_is_told_with_a_later_one_as_long_as_the_record_holds_it(
    driver, monkeypatch
):
    recorder = EpochRecorder(driver.storage, training_id="b", node="node")
    with monkeypatch.context() as context:
        context.setattr(driver.storage, "write_bytes", Mock(side_effect=StorageError("503")))
        for epoch in range(2):
            with pytest.raises(StorageError):
                recorder.write(replace(EPOCH, epoch=epoch))
    for epoch in range(2, NUM_EARLIER + 2):
        recorder.write(replace(EPOCH, epoch=epoch))
    driver.tick()
    assert told_epochs(driver) == list(range(1, NUM_EARLIER + 2))


def test_an_attempt_that_repeats_an_epoch_tells_that_again_and_no_other(driver):
    for epoch, elapsed_s in [(0, 2.0), (1, 2.1)]:
        driver.write_epoch("b", epoch=epoch, elapsed_s=elapsed_s)
        driver.tick()
    driver.end(B, failed_with(StorageError("lost"), kind=FailureKind.PREEMPTION))
    driver.tick()
    again = EpochRecorder(driver.storage, training_id="b", node="other")
    for epoch in (1, 2):
        again.write(replace(EPOCH, epoch=epoch, elapsed_s=2.2))
    driver.tick()
    assert told_epochs(driver) == [0, 1, 1, 2]


def test_the_driver_that_goes_on_tells_the_latest_epoch_of_an_attempt_before_and_none_earlier(tmp_path):
    recorder = EpochRecorder(open_storage(tmp_path), training_id="b", node="node")
    for epoch in range(4):
        recorder.write(replace(EPOCH, epoch=epoch))
    driver = Driver(tmp_path)
    driver.tick()
    EpochRecorder(driver.storage, training_id="b", node="node").write(replace(EPOCH, epoch=4))
    driver.tick()
    assert told_epochs(driver) == [3, 4]


def test_an_interrupted_driver_tells_what_its_trainings_have_told_while_it_waited(driver, monkeypatch):
    monkeypatch.setattr(driver.backend, "await_all", lambda keys, timeout_s: driver.write_epoch("b", epoch=6))
    monkeypatch.setattr(driver.backend, "wait", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        driver.loop.execute()
    assert told_epochs(driver) == [6]


@pytest.mark.parametrize("record", [b"{", b"[]", b"{}", b"\xff", b'{"epoch": "3"}'])
def test_a_record_that_cannot_be_read_is_as_none_until_the_next_epoch(driver, record):
    driver.storage.write_bytes(run_paths.training_progress("a"), record)
    driver.write_epoch("b")
    assert driver.tick() == {"b": 1}
    driver.write_epoch("a", epoch=1)
    assert driver.tick() == {"a": 2, "b": 1}


def test_a_storage_that_takes_nothing_ends_no_run(driver, monkeypatch):
    def refuse(key, data):
        raise StorageError("no space left")

    monkeypatch.setattr(driver.storage, "write_bytes", refuse)
    driver.end(A, failed_with(ValueError("bad case")))
    driver.end(B, Done())
    ((key, failed),) = driver.loop.failures.items()
    assert (key, failed.line) == (A, "ValueError: bad case")


def test_where_reading_is_slow_each_training_is_looked_at_in_turn(driver):
    driver.read_s = 0.6 * LOOKING_S
    for training in "abcd":
        driver.write_epoch(training)
    assert driver.tick() == {"a": 1, "b": 1}
    driver.write_epoch("a", epoch=1)
    assert driver.tick() == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert driver.tick() == {"a": 2, "b": 1, "c": 1, "d": 1}


def test_the_text_of_a_failure_has_its_notes_and_its_cause(driver):
    error = RuntimeError("size mismatch")
    error.__cause__ = ValueError("3 axes")
    error.add_note("while mosmed/study_0255 was predicted")
    driver.end(A, failed_with(error))
    assert driver.storage.read_bytes(run_paths.stage_failure("train a")).decode().splitlines() == [
        "RuntimeError: size mismatch",
        "while mosmed/study_0255 was predicted",
        "caused by ValueError: 3 axes",
    ]


def test_trainings_of_an_earlier_call_count_as_done_and_their_stages_not(driver):
    driver.tick()
    shown = driver.shown[-1]
    assert (shown.num_trainings_done, shown.num_trainings) == (1, 2)
    assert {count.kind: (count.done, count.total) for count in shown.stages} == {"train": (0, 4), "score": (0, 1)}


def test_the_numbers_of_stages_are_those_of_what_this_call_has_to_do(driver):
    driver.end(A, failed_with(ValueError("bad case")))
    driver.end(B, Done())
    driver.tick()
    (trainings, scores) = driver.shown[-1].stages
    assert (trainings.total, trainings.done, trainings.running, trainings.failed) == (4, 1, 2, 1)
    assert (scores.total, scores.done, scores.running, scores.failed) == (1, 0, 0, 0)


def decisions(folder, *, listens):
    """Return what a run starts, what it expects and what has failed, with progress, a retry and a failure amid it."""
    driver = Driver(folder, listens=listens)
    driver.write_epoch("b", epoch=0)
    driver.tick()
    driver.write_epoch("b", epoch=4, elapsed_s=500.0)
    driver.end(A, failed_with(StorageError("503"), FailureKind.PREEMPTION))
    driver.end(C, failed_with(ValueError("bad case")))
    driver.end(A, Done(node="node"))
    driver.tick()
    expected_s = driver.schedule.remaining_s(B, now_s=driver.now_s)
    return driver.backend.started, expected_s, {key.text for key in driver.loop.failures}


def test_a_run_decides_the_same_when_nobody_listens(tmp_path):
    started, expected_s, failures = decisions(tmp_path / "heard", listens=True)
    assert decisions(tmp_path / "unheard", listens=False) == (started, expected_s, failures)
    assert ("train a", 2, "node") in started
    assert started[-1] == ("score a", 1, "node")
    # Half of ten epochs that take 500 s each are still to go, where a whole training was expected to take 1 s.
    assert (expected_s > 1000, failures) == (True, {"train c"})


def test_nothing_is_made_again_where_the_whole_location_is_gone(tmp_path):
    driver = Driver(tmp_path)
    driver.is_lost = True
    stage = next(iter(driver.schedule.graph.values()))
    with pytest.raises(ClusterError, match="taken over"):
        driver.loop._settle_failure(stage, Failed(kind=FailureKind.TRANSIENT, line="no such file"), now_s=0.0)
    assert not driver.loop.failures


def test_a_driver_that_was_given_up_for_dead_stops_although_nobody_listens(tmp_path):
    driver = Driver(tmp_path, listens=False)
    driver.is_lost = True
    with pytest.raises(ClusterError, match="taken over"):
        driver.tick()
