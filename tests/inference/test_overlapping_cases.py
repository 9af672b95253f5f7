"""Cases of a folder overlap where memory allows it, and nothing is mixed up where they do."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.errors import StorageError
from orchestrator.inference.folder_memory import plan_memory
from orchestrator.inference.overlapping import carried_out, overlapped
from orchestrator.training.nnunet.ensembles.averaged_prediction import CaseBytes
from orchestrator.training.nnunet.environment import prints_to_log

PATIENCE_S = 60.0


class Meeting:
    """Two steps that can only end together."""

    def __init__(self):
        self._barrier = threading.Barrier(2, timeout=PATIENCE_S)

    def __call__(self):
        self._barrier.wait()


def test_the_next_is_read_and_the_one_before_is_written_while_a_case_is_predicted():
    read_next, write_before = Meeting(), Meeting()

    def first():
        yield
        read_next()
        yield
        write_before()
        return "first"

    def second():
        read_next()
        yield
        write_before()
        yield
        return "second"

    assert list(overlapped([first(), second()], may_overlap=lambda _: True)) == ["first", "second"]


def test_what_may_not_overlap_goes_one_after_the_other():
    done = []

    def steps(name):
        done.append(f"read {name}")
        yield
        done.append(f"predict {name}")
        yield
        done.append(f"write {name}")
        return name

    assert list(overlapped([steps("a"), steps("b")], may_overlap=lambda _: False)) == ["a", "b"]
    assert done == ["read a", "predict a", "write a", "read b", "predict b", "write b"]
    done.clear()
    assert carried_out(steps("c")) == "c"
    assert done == ["read c", "predict c", "write c"]


def test_a_case_may_end_at_any_step_and_the_others_go_on():
    def steps(number):
        for _ in range(number):
            yield
        return number

    assert list(overlapped([steps(0), steps(2), steps(1), steps(0)], may_overlap=lambda _: True)) == [0, 2, 1, 0]
    assert list(overlapped([], may_overlap=lambda _: True)) == []


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_failing_disk_ends_all_and_everything_that_is_open_is_closed(step):
    closed = []

    def steps(name, *, fails):
        try:
            for number in range(3):
                if fails and number == step:
                    raise StorageError("no space left")
                if number < 2:
                    yield
        finally:
            closed.append(name)
        return name

    cases = [steps("a", fails=False), steps("b", fails=True), steps("c", fails=False)]
    with pytest.raises(StorageError, match="no space left"):
        list(overlapped(cases, may_overlap=lambda _: True))
    # What was never begun has nothing to close.
    assert {"a", "b"} <= set(closed)
    assert all(case.gi_frame is None for case in cases)


def test_memory_is_that_of_neighbours_and_they_overlap_only_if_there_is_room():
    cases = [CaseBytes(preparing=30, predicting=50, writing=4), None, CaseBytes(preparing=20, predicting=70, writing=3)]
    cases.append(CaseBytes(preparing=40, predicting=60, writing=5))
    with_room = plan_memory(cases, num_left=3, own_bytes=100, most_bytes=10**6, is_alone=False)
    assert with_room.alone == (150, 100, 170, 160)
    # The third is predicted while the fourth is read: 100 + 70 + 40.
    assert (with_room.most_bytes, with_room.largest) == (210, 2)
    assert with_room.overlaps == (True, True, True, True)
    # The fourth with the third being written takes 163.
    without = plan_memory(cases, num_left=3, own_bytes=100, most_bytes=165, is_alone=False)
    assert without.overlaps == (True, True, False, True)
    assert (without.most_bytes, without.largest) == (170, 2)
    alone = plan_memory(cases, num_left=3, own_bytes=100, most_bytes=10**6, is_alone=True)
    assert (alone.overlaps, alone.most_bytes) == ((False,) * 4, 170)
    # What is made of a label map may take more than to predict it.
    drawn = CaseBytes(preparing=30, predicting=50, writing=80, left=7)
    most = plan_memory([drawn], num_left=1, own_bytes=100, most_bytes=10**6, is_alone=True)
    assert (most.alone, most.most_bytes) == ((187,), 187)
    assert plan_memory([None], num_left=0, own_bytes=100, most_bytes=10**6, is_alone=False).largest is None


def test_threads_that_let_nnunet_print_leave_the_output_of_others_alone(capsys):
    before, inside, left = sys.stdout, threading.Event(), threading.Event()

    def nnunet():
        with prints_to_log():
            sys.stdout.write("of nnU-Net\n")
            inside.set()
            assert left.wait(PATIENCE_S)
            sys.stdout.write("of nnU-Net, later\n")

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(nnunet)
        assert inside.wait(PATIENCE_S)
        sys.stdout.write("ours\n")
        with prints_to_log():
            sys.stdout.write("of nnU-Net, too\n")
            with prints_to_log():
                sys.stdout.write("of nnU-Net, within\n")
        sys.stdout.write("ours, later\n")
        left.set()
        other.result()
    assert sys.stdout is before
    assert capsys.readouterr().out == "ours\nours, later\n"
