"""Claims about what the driver sees of trainings under way."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from orchestrator.driver.observer import LOOKING_S, SNAPSHOT_INTERVAL_S, RunObserver
from orchestrator.errors import StorageError, TrainingError
from orchestrator.events import EventLog, read_events
from orchestrator.scheduling.resources import Node, ResourceRequest, Resources
from orchestrator.scheduling.retries import GiveUp
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.stages.attempt import TrainingLog
from orchestrator.stages.records.latest_epoch import LatestEpoch, write_latest_epoch
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.reports import EpochReport
from orchestrator.workflow.graph import Stage, StageKind

NODE = Node(id="node", offered=Resources(cpus=4))
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


def make_stage(kind, name, *, dependencies=()):
    return Stage(
        id=f"{kind.value} {name}",
        kind=kind,
        dependencies=dependencies,
        products=(f"{kind.value} {name}",),
        expected_s=1.0,
        training=SimpleNamespace(id=name, group="T1-lung", fold=0),
    )


class Driver:
    """A driver with four trainings under way whose clock goes on when a record is read; one was done before."""

    def __init__(self, folder):
        self.storage = open_storage(folder)
        self.now_s = 0.0
        self.read_s = 0.0
        self.shown = []
        self.stages = [make_stage(StageKind.TRAIN, name) for name in "abcd"]
        scores = [make_stage(StageKind.SCORE, "a", dependencies=("train a",)), make_stage(StageKind.SCORE, "earlier")]
        self.schedule = Schedule(
            {stage.id: stage for stage in [*self.stages, *scores]},
            done=("score earlier",),
            nodes=[NODE],
            training_need=ResourceRequest(cpus=1),
            min_gain_s=600.0,
        )
        self.observer = RunObserver(
            self.schedule,
            storage=self,
            events=EventLog(
                self.storage, run_started=datetime(2026, 1, 1, tzinfo=UTC), clock=lambda: datetime.now(UTC)
            ),
            view=SimpleNamespace(show=self.shown.append, note=lambda _: None),
            publish=lambda snapshot, seconds: None,
            check_lease=lambda: None,
            clock=lambda: self.now_s,
        )
        for stage in self.stages:
            self.schedule.start_next(0.0)
            self.observer.stage_started(stage, attempt=1, node=NODE, gpus=0.0)

    @property
    def location(self):
        return self.storage.location

    def read_bytes(self, key):
        self.now_s += self.read_s
        return self.storage.read_bytes(key)

    def write_bytes(self, key, data):
        self.storage.write_bytes(key, data)

    def write_epoch(self, training, **changes):
        latest = LatestEpoch(report=replace(EPOCH, **changes), host="host7", node="node")
        write_latest_epoch(self.storage, training, latest)

    def tick(self):
        """Return the finished epochs of each training that is shown."""
        self.now_s += SNAPSHOT_INTERVAL_S
        self.observer.tick(self.schedule)
        return {one.id: one.epoch for one in self.shown[-1].running}


@pytest.fixture
def driver(tmp_path):
    return Driver(tmp_path)


def test_an_epoch_is_shown_as_long_as_its_training_runs_and_is_one_event(driver):
    driver.write_epoch("b", epoch=3)
    assert [driver.tick(), driver.tick()] == [{"b": 4}, {"b": 4}]
    (event,) = [event for event in read_events(driver.storage) if event["kind"] == "training_epoch"]
    assert (event["training"], event["epoch"], event["host"], event["loader_wait_s"]) == ("b", 3, "host7", 0.1)
    driver.observer.stage_finished(driver.stages[1], elapsed_s=20.0)
    assert driver.tick() == {}


def test_the_first_epoch_of_an_attempt_tells_nothing_of_those_to_come(driver):
    """The network is compiled in it: 60 s for the first of ten, 2 s for the second, where each training takes 1 s."""
    driver.write_epoch("b", elapsed_s=60.0, is_typical=False)
    driver.tick()
    assert driver.schedule.remaining_s("train b", now_s=driver.now_s) == pytest.approx(0.9, rel=0.1)
    driver.write_epoch("b", epoch=1)
    driver.tick()
    assert driver.schedule.remaining_s("train b", now_s=driver.now_s) == pytest.approx(16.0, rel=0.1)


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
    first, second = driver.stages[:2]
    driver.observer.stage_failed(first, error=ValueError("bad case"), decision=GiveUp(blocked=()))
    driver.observer.stage_finished(second, elapsed_s=1.0)
    assert driver.observer.failures == {"train a": "ValueError: bad case"}


def test_a_failure_brings_the_end_of_the_log_of_its_own_attempt(driver):
    error = TrainingError("the loss is NaN")
    log = TrainingLog(driver.storage, run_paths.log("a"))
    log.write("epoch 1")
    log.__exit__(TrainingError, error, None)
    driver.observer.stage_failed(driver.stages[0], error=error, decision=GiveUp(blocked=()))
    assert driver.observer.failures["train a"].splitlines() == [
        "TrainingError: the loss is NaN",
        "epoch 1",
        "orchestrator.errors.TrainingError: the loss is NaN",
    ]


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
    driver.observer.stage_failed(driver.stages[0], error=error, decision=GiveUp(blocked=()))
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
