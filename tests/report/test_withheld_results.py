"""What leads to withheld results alone is not started, and all of it once they are required."""

from test_scheduler import schedule_of, stage, start_all

from orchestrator.scheduling.ended import FailureKind
from orchestrator.workflow.keys import StageKind


def two_trainings():
    """Return a schedule of two trainings with a case in common and one each."""
    return schedule_of(
        stage("common", kind=StageKind.INGEST),
        stage("case a", kind=StageKind.INGEST),
        stage("case b", kind=StageKind.INGEST),
        stage("a", "common", "case a"),
        stage("b", "common", "case b"),
        stage("score a", "a", kind=StageKind.SCORE),
        stage("score b", "b", kind=StageKind.SCORE),
        cpus=4,
    )


def test_a_withheld_result_starts_nothing_that_no_other_needs():
    schedule = two_trainings()
    schedule.withhold(["score b"])
    assert sorted(start_all(schedule)) == ["case a", "common"]
    for key in ("common", "case a"):
        schedule.finish(key, now_s=1)
    assert start_all(schedule) == ["a"]
    schedule.finish("a", now_s=2)
    assert start_all(schedule) == ["score a"]
    schedule.finish("score a", now_s=3)
    assert schedule.is_over
    assert schedule.remaining() == []


def test_what_is_required_later_is_carried_out_but_for_what_is_done():
    schedule = two_trainings()
    schedule.withhold(["score b"])
    start_all(schedule)
    for key in ("common", "case a"):
        schedule.finish(key, now_s=1)
    further = schedule.require(["score a", "score b"])
    assert further == ["case b", "b", "score b"]
    assert sorted(start_all(schedule)) == ["a", "case b"]
    schedule.finish("case b", now_s=3)
    assert start_all(schedule) == ["b"]


def test_what_is_required_is_blocked_by_what_has_failed():
    schedule = two_trainings()
    schedule.withhold(["score b"])
    start_all(schedule)
    schedule.fail("common", kind=FailureKind.DETERMINISTIC, now_s=1)
    schedule.finish("case a", now_s=1)
    schedule.require(["score b"])
    assert start_all(schedule) == ["case b"]
    schedule.finish("case b", now_s=3)
    assert schedule.is_over
    assert schedule.outcomes.blocked == {"a", "b", "score a", "score b"}
