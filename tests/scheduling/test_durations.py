"""What was seen of some trainings corrects what is expected of the others."""

import pytest

from orchestrator.scheduling.durations import Durations, Expectation


def durations(**speeds: float) -> Durations:
    expected = {
        f"{group}{fold}": Expectation(seconds=100.0, group=group) for group in ("lung", "tumour") for fold in range(5)
    }
    return Durations(expected, speeds=speeds)


def test_before_anything_is_seen_the_expectation_holds():
    assert durations().predict_s("lung0") == pytest.approx(100)


def test_a_training_that_was_seen_is_known():
    known = durations()
    known.observe("lung0", kind="", seconds=200)
    assert known.predict_s("lung0") == pytest.approx(200)
    assert known.is_seen("lung0")


def test_one_fold_tells_about_its_group_and_a_little_about_the_others():
    known = durations()
    known.observe("lung0", kind="", seconds=200)
    assert known.predict_s("lung1") == pytest.approx(200, rel=0.02)
    assert 100 < known.predict_s("tumour0") < 200
    known.observe("tumour0", kind="", seconds=50)
    assert known.predict_s("tumour1") == pytest.approx(50, rel=0.03)
    assert known.predict_s("lung1") == pytest.approx(200, rel=0.03)


def test_a_later_observation_replaces_the_earlier_one():
    known = durations()
    known.observe("lung0", kind="", seconds=400)
    known.observe("lung0", kind="", seconds=200)
    assert known.predict_s("lung0") == pytest.approx(200)


def test_seconds_on_a_slow_gpu_count_by_its_speed():
    known = durations(fast=1.0, slow=0.5)
    known.observe("lung0", kind="slow", seconds=200)
    assert known.predict_s("lung1") == pytest.approx(100, rel=0.02)


def test_the_speed_of_a_gpu_is_learned_from_folds_of_the_same_groups():
    """A GPU that was believed to be half as fast does the same groups in a quarter of the speed of the other."""
    known = durations(fast=1.0, slow=0.5)
    for fold in range(2):
        for group in ("lung", "tumour"):
            known.observe(f"{group}{fold}", kind="fast", seconds=100)
            known.observe(f"{group}{fold + 2}", kind="slow", seconds=400)
    assert known.speed("fast") / known.speed("slow") == pytest.approx(4, rel=0.25)
