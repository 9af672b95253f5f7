"""Claims about looking at whole validation cases: when, at which ones, and at what cost."""

import math

import pytest

from orchestrator.results.curves import CurveRow, read_curve, write_curve
from orchestrator.storage.local import LocalStorage
from orchestrator.training.nnunet.trainers.learning_curve import (
    CurveSettings,
    LearningCurve,
)

CASES = ("a", "b", "c", "d")


class Machine:
    """A clock, and cases that take two seconds each."""

    def __init__(self, *, case_s=2.0):
        self.now_s, self.case_s, self.scored = 0.0, case_s, []

    def score(self, case):
        self.now_s += self.case_s
        self.scored.append(case)
        return ((0.5, 0.25), (math.nan, math.nan))

    def curve(self, *, share, every=1, cases=CASES):
        return LearningCurve(
            CurveSettings(every=every, share=share),
            cases=cases,
            structures=("1", "2"),
            score=self.score,
            clock=lambda: self.now_s,
        )


def test_a_look_is_due_every_so_many_epochs():
    curve = Machine().curve(share=1.0, every=3)
    assert [epoch for epoch in range(1, 10) if curve.is_due(epoch)] == [3, 6, 9]
    assert not Machine().curve(share=1.0, cases=()).is_due(3)


@pytest.mark.parametrize(("share", "cases"), [(0.05, ""), (0.1, ""), (0.25, "ab"), (0.39, "abc"), (1.0, "abcd")])
def test_the_first_look_takes_the_cases_for_which_there_is_time(share, cases):
    # 20 seconds of training: 1, 2, 5, 7.8 and 20 seconds for looks, and 2.5 are expected of the first case.
    machine = Machine()
    look = machine.curve(share=share).look(1, elapsed_s=20.0, expected_case_s=2.5)
    assert "".join(machine.scored) == cases
    if look is not None:
        assert (look.mean_dsc, look.mean_nsd, look.elapsed_s) == (0.5, 0.25, 2.0 * len(cases))
        assert [row.case for row in look.rows] == [case for case in cases for _ in range(2)]


def test_all_looks_together_keep_to_their_share():
    machine = Machine()
    curve, elapsed_s, spent_s = machine.curve(share=0.1), 0.0, 0.0
    for epoch in range(1, 101):
        elapsed_s += 10.0
        look = curve.look(epoch, elapsed_s=elapsed_s, expected_case_s=2.0)
        spent_s += look.elapsed_s if look else 0.0
        assert spent_s <= 0.1 * elapsed_s
    assert spent_s == 100.0
    assert set(machine.scored) == {"a"}


def test_later_looks_are_at_the_cases_of_the_first_one_also_after_an_interruption():
    machine = Machine()
    curve = machine.curve(share=0.5)
    assert curve.look(1, elapsed_s=10.0, expected_case_s=2.0) is not None
    assert machine.scored == ["a", "b"]
    state = curve.state
    again = machine.curve(share=0.5)
    again.state = state
    assert again.look(2, elapsed_s=15.0, expected_case_s=2.0) is None  # 7.5 seconds, of which 4 are spent
    assert again.look(3, elapsed_s=16.0, expected_case_s=2.0) is not None
    assert machine.scored == ["a", "b", "a", "b"]
    assert again.state["spent_s"] == 8.0


def test_the_best_is_that_with_the_highest_nsd():
    curve = Machine().curve(share=1.0)
    values = iter([0.25, 0.5, 0.5, math.nan, 0.75])
    curve._score = lambda _: ((0.0, next(values)), (math.nan, math.nan))
    curve._cases = ("a",)
    looks = [curve.look(epoch, elapsed_s=1e9, expected_case_s=0.0) for epoch in range(1, 6)]
    assert [curve.is_best(look) for look in looks] == [True, True, False, False, True]


def test_rows_of_epochs_that_are_done_again_are_replaced(tmp_path):
    def rows(epoch, nsd):
        return [CurveRow(epoch=epoch, case="a", structure="1+2", dsc=math.nan, nsd=nsd)]

    storage = LocalStorage(str(tmp_path))
    for epoch, nsd in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25)):
        write_curve(storage, "curve.csv", rows(epoch, nsd))
    found = read_curve(storage, "curve.csv")
    assert [(row.epoch, row.nsd, row.structure) for row in found] == [(1, 0.1, "1+2"), (2, 0.25, "1+2")]
    assert all(math.isnan(row.dsc) for row in found)
    assert read_curve(storage, "nix.csv") == []
