"""Claims about what the benchmark of kills reads from the events of a run."""

from datetime import UTC, datetime, timedelta

from bench.chaos.checks import lost_work
from bench.chaos.cluster import Kill, Target, note_kill, read_kills
from bench.chaos.events import RunEvents
from orchestrator.events import EventLog
from orchestrator.storage.filesystem import open_storage

START = datetime(2026, 11, 26, 12, tzinfo=UTC)


def attempt(folder, *, host, begun_s, epoch=0, checkpoints=(), ended_s=None, error=""):
    """Write the events of one attempt; times are seconds after the start, checkpoints are (time, epoch)."""
    times = iter([begun_s, *(time_s for time_s, _ in checkpoints), ended_s])
    log = EventLog(
        open_storage(folder),
        run_started=START + timedelta(seconds=begun_s),
        clock=lambda: START + timedelta(seconds=next(times)),
        writer="trainings/T-",
    )
    place = {"training": "T", "iteration": 0, "elapsed_s": 0.0, "host": host}
    log.append("attempt_started", epoch=epoch, **place)
    for _, saved in checkpoints:
        log.append("checkpoint_saved", epoch=saved, **place)
    if ended_s is not None:
        log.append("attempt_ended", training="T", error=error, is_preemption=False)


def kill(kind, *, at_s, host=""):
    time_s = START.timestamp() + at_s
    return Kill(kind=kind, failed=Target(name="it", host=host), stages=("train",), time_s=time_s)


def test_a_kill_loses_what_was_done_since_the_last_checkpoint(tmp_path):
    attempt(tmp_path, host="a", begun_s=0, checkpoints=[(2, 1), (4, 2)])
    attempt(tmp_path, host="b", begun_s=20, epoch=2, ended_s=30)
    (loss,) = lost_work(tmp_path, [kill("worker", at_s=5.5), kill("worker", at_s=12)])
    assert (loss.lost_s, loss.saved_at, loss.goes_on_at) == (1.5, (2, 0), (2, 0))


def test_what_happens_to_another_host_costs_a_training_nothing(tmp_path):
    attempt(tmp_path, host="a", begun_s=0, checkpoints=[(2, 1)])
    attempt(tmp_path, host="b", begun_s=20, epoch=1, ended_s=30)
    (loss,) = lost_work(tmp_path, [kill("host", at_s=3, host="c"), kill("host", at_s=3.5, host="a")])
    assert loss.lost_s == 1.5


def test_what_went_down_with_its_controller_elsewhere_was_not_hit_by_a_later_kill(tmp_path):
    attempt(tmp_path, host="a", begun_s=0, checkpoints=[(2, 1), (4, 2), (6, 3)])
    attempt(tmp_path, host="b", begun_s=40, epoch=3, ended_s=50)
    kills = [kill("host", at_s=3, host="c"), kill("controller", at_s=30)]
    assert [loss.lost_s for loss in lost_work(tmp_path, kills)] == [24.0]
    driver = EventLog(open_storage(tmp_path), run_started=START, clock=lambda: START + timedelta(seconds=3.5))
    driver.append("stage_failed", stage="train T", stage_kind="train", error="NodeDiedError", final=False)
    assert [loss.lost_s for loss in lost_work(tmp_path, kills)] == [0.0]


def test_of_an_attempt_that_was_superseded_counts_what_the_next_one_found(tmp_path):
    attempt(
        tmp_path, host="a", begun_s=0, checkpoints=[(2, 1), (9, 4), (21, 5)], ended_s=23, error="SupersededError: late"
    )
    attempt(tmp_path, host="b", begun_s=20, epoch=4, checkpoints=[(22, 5)], ended_s=30)
    (loss,) = lost_work(tmp_path, [kill("cable", at_s=3, host="a"), kill("worker", at_s=25)])
    # It went on after its cable was cut, and the next one goes on from there.
    assert (loss.lost_s, loss.saved_at, loss.goes_on_at) == (0.0, (4, 0), (4, 0))


def test_an_attempt_that_saved_its_place_has_lost_nothing(tmp_path):
    attempt(tmp_path, host="a", begun_s=0, checkpoints=[(3, 1)], ended_s=3, error="PreemptedError: asked")
    attempt(tmp_path, host="a", begun_s=20, epoch=1, ended_s=30)
    assert list(lost_work(tmp_path, [kill("warning", at_s=3)])) == []


def test_a_training_is_under_way_from_its_latest_begin_to_that_attempts_end(tmp_path):
    attempt(tmp_path, host="a", begun_s=0, ended_s=23, error="SupersededError: late")
    attempt(tmp_path, host="b", begun_s=20)
    events = RunEvents(output=tmp_path)
    assert events.trainings_under_way(since_s=START.timestamp() + 10) == {"T"}
    assert events.trainings_under_way(since_s=START.timestamp() + 20) == set()


def test_events_that_come_later_are_seen(tmp_path):
    times = iter([START, START, START, START + timedelta(seconds=12.5)])
    log = EventLog(open_storage(tmp_path), run_started=START, clock=lambda: next(times))
    events = RunEvents(output=tmp_path)
    assert events.stages_under_way() == ()
    log.append("run_started", trainings=["T"], stages_done=0)
    log.append("stage_started", stage="train T", stage_kind="train", attempt=1)
    assert events.stages_under_way() == ("train",)
    log.append("stage_finished", stage="train T", stage_kind="train", elapsed_s=1.0)
    assert (events.stages_under_way(), events.finished_stages()) == ((), {"train T": 1.0})
    assert not events.is_done()
    log.append("run_finished", trainings_done=1, stages_failed=0, elapsed_s=12.5)
    assert (events.is_done(), events.driven_s()) == (True, 12.5)


def test_kills_are_remembered(tmp_path):
    kills = [kill("host", at_s=3, host="a"), kill("worker", at_s=4)]
    assert read_kills(tmp_path / "kills.jsonl") == []
    for one in kills:
        note_kill(tmp_path / "kills.jsonl", one)
    assert read_kills(tmp_path / "kills.jsonl") == kills
