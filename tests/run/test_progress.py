"""What people see of a run."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.cli.run.live_view import LiveView
from orchestrator.progress import RunningTraining, Snapshot, StageCount, duration_text, plain_line

SNAPSHOT = Snapshot(
    elapsed_s=65.0,
    eta_s=7260.0,
    stages=(
        StageCount(kind="ingest", total=20, done=20, running=0, failed=0),
        StageCount(kind="train", total=45, done=3, running=2, failed=1),
    ),
    num_trainings=45,
    num_trainings_done=2,
    num_trainings_failed=1,
    running=(
        RunningTraining(
            id="T1-lung-fold0",
            epoch=2,
            num_epochs=5,
            train_loss=-0.5,
            pseudo_dice=0.91,
            epoch_elapsed_s=4.2,
            loader_wait_s=0.3,
        ),
    ),
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.4, "7 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (273600, "3 d 4 h")],
)
def test_durations_read_well(seconds, text):
    assert duration_text(seconds) == text


def test_plain_line_says_how_far_the_run_is():
    assert plain_line(SNAPSHOT) == (
        "[1 min 05 s] 2 of 45 trainings done, 1 failed, about 2 h 01 min to go | in this call: ingest 20/20  train 3/45"
    )


@pytest.mark.parametrize(
    ("num_done", "text"),
    [
        (0, "waiting for predict, longer than expected (the first one in an installation compiles kernels, which takes "
            "up to a minute)"),
        (1, "waiting for predict, longer than expected"),
    ],
)  # fmt: skip
def test_a_stage_that_lasts_longer_than_expected_is_named_instead_of_no_time_to_go(num_done, text):
    trained = StageCount(kind="train", total=2, done=2, running=0, failed=0)
    late = StageCount(kind="predict", total=2, done=num_done, running=1, failed=0)
    snapshot = replace(SNAPSHOT, eta_s=0.3, stages=(trained, late))
    assert f", {text} | in this call: " in plain_line(snapshot)
    assert "about 0 s to go" in plain_line(replace(snapshot, stages=(trained,)))


@pytest.mark.parametrize(("force_terminal", "kind"), [(False, "xterm"), (True, "dumb")])
def test_without_a_terminal_or_on_a_dumb_one_there_is_a_line_now_and_then(force_terminal, kind):
    console = Console(file=io.StringIO(), force_terminal=force_terminal, _environ={"TERM": kind})
    with LiveView(console) as view:
        view.show(SNAPSHOT)
        view.show(SNAPSHOT)
        view.note("FAILED train T1-lung-fold0: TrainingError: the loss is nan")
    text = console.file.getvalue()
    assert text.count("2 of 45 trainings done") == 1
    assert "FAILED train T1-lung-fold0" in text


def test_a_terminal_shows_stages_and_running_trainings():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with LiveView(console) as view:
        view.show(SNAPSHOT)
    text = console.file.getvalue()
    for part in ("2 of 45 trainings done, 1 failed", "T1-lung-fold0", "2/5", "0.910", "4.2"):
        assert part in text
