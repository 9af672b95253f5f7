"""Claims about the status of a run as its files tell it."""

import json
import re
import shutil
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.cli import status as status_command
from orchestrator.cli.status import DriverState, main
from orchestrator.driver.lease import DriverRecord, Lease, latest_driver
from orchestrator.driver.status import read_status
from orchestrator.errors import ConfigError
from orchestrator.events import EventLog
from orchestrator.stages.records.latest_epoch import LatestEpoch, write_latest_epoch
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.reports import EpochReport

START = datetime(2026, 1, 1, tzinfo=UTC)


class Run:
    """Writes what a driver would."""

    def __init__(self, folder):
        self.storage = open_storage(folder)
        self.now = START

    def begin(self, *trainings):
        self.now += timedelta(seconds=1)
        self.events = EventLog(self.storage, run_started=self.now, clock=lambda: self.now)
        self.events.append("run_started", trainings=list(trainings), stages_done=0)

    def started(self, kind, training):
        self.events.append("stage_started", stage=f"{kind} {training}", stage_kind=kind, attempt=1)

    def finished(self, kind, training, *, elapsed_s):
        self.events.append("stage_finished", stage=f"{kind} {training}", stage_kind=kind, elapsed_s=elapsed_s)
        if kind == "score":
            self.storage.write_bytes(run_paths.results(training), b"")

    def failed(self, kind, training, *, final, **more):
        told = {"stage": f"{kind} {training}", "stage_kind": kind, "error": "E: x", "final": final} | more
        self.events.append("stage_failed", **told)

    def epoch(self, training, *, epoch, elapsed_s, is_typical=True):
        report = EpochReport(
            epoch=epoch,
            num_epochs=10,
            train_loss=0,
            val_loss=0,
            pseudo_dice=0.5,
            elapsed_s=elapsed_s,
            loader_wait_s=0,
            is_typical=is_typical,
        )
        write_latest_epoch(self.storage, training, LatestEpoch(report=report, host="node7", node=""))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_a_stage_that_waits_before_another_attempt_is_told_with_its_reason(run, capsys, monkeypatch):
    monkeypatch.setattr(status_command, "find_driver", lambda *_, **__: DriverState(text="at work", is_at_work=True))
    run.now = datetime.now(UTC)
    run.begin("a", "b", "c")
    for training in "abc":
        run.started("predict", training)
        run.failed("predict", training, final=False, wait_s=600.0)
    run.started("predict", "b")
    run.failed("predict", "c", final=True)
    assert list(read_status(run.storage).delayed) == ["predict a"]
    main(["--output", run.storage.location])
    shown = capsys.readouterr().out
    assert f"predict a: E: x ({run.storage.location}/" in shown
    assert re.search(r"to be tried again in \d+ min \d\d s: predict a", shown)
    assert shown.count("to be tried again") == 1


def test_each_training_is_done_under_way_waiting_or_failed(run, capsys):
    run.begin("a", "b", "c", "d", "e")
    for kind, elapsed_s in (("train", 100.0), ("predict", 10.0), ("score", 1.0)):
        run.started(kind, "a")
        run.finished(kind, "a", elapsed_s=elapsed_s)
    run.started("train", "b")
    run.epoch("b", epoch=3, elapsed_s=9.0)
    run.started("train", "c")
    run.failed("train", "c", final=True)
    run.started("train", "d")
    run.finished("train", "d", elapsed_s=80.0)
    status = read_status(run.storage)
    assert status.done == {"a"}
    assert [(t.id, t.stage, t.epoch, t.host) for t in status.under_way] == [
        ("b", "train", 4, "node7"),
        ("d", "predict", 0, ""),
    ]
    assert (status.waiting, dict(status.failed)) == (("e",), {"train c": "E: x"})
    assert status.training_s == 191.0
    assert main(["--output", run.storage.location]) == 1
    printed = capsys.readouterr().out
    assert "1 of 5 trainings done, 2 interrupted, 1 waiting, 1 stages failed" in printed
    assert "to go" not in printed
    assert "4/10" in printed
    assert "there has been no driver" in printed
    with Lease(run.storage):
        assert main(["--output", run.storage.location]) == 1
    printed = capsys.readouterr().out
    assert "1 of 5 trainings done, 2 under way, 1 waiting, 1 stages failed" in printed
    assert "to go" not in printed


def test_how_long_a_run_goes_on_is_what_its_driver_expects_as_long_as_it_is_at_work(run, capsys):
    run.begin("a")
    with Lease(run.storage, heartbeat_s=0.01) as lease:
        for expected_s, shown_s in ((float("inf"), None), (7260.0, 7260.0)):
            lease.tell_remaining(expected_s)
            before = latest_driver(run.storage).mark
            while latest_driver(run.storage).mark == before:
                time.sleep(0.01)
            time.sleep(0.1)
            main(["--output", run.storage.location, "--json"])
            assert json.loads(capsys.readouterr().out)["remaining_s"] == shown_s
        main(["--output", run.storage.location])
        assert "to go: about 2 h 01 min\n" in capsys.readouterr().out
    main(["--output", run.storage.location, "--json"])
    assert json.loads(capsys.readouterr().out)["remaining_s"] is None


def test_a_driver_that_says_nothing_sensible_of_the_time_left_is_one_that_does_not_know(run):
    own = asdict(DriverRecord.of_this_process(run.storage))
    for remaining_s in ("soon", None, []):
        run.storage.write_bytes(run_paths.driver(1), json.dumps({**own, "remaining_s": remaining_s}).encode())
        assert latest_driver(run.storage).remaining_s is None
    del own["remaining_s"]
    run.storage.write_bytes(run_paths.driver(1), json.dumps(own).encode())
    assert latest_driver(run.storage).remaining_s is None


def test_the_first_epoch_of_an_attempt_is_no_forecast(run):
    run.begin("a")
    run.started("train", "a")
    for epoch, is_typical, left_s in ((0, False, None), (1, True, 16.0)):
        run.epoch("a", epoch=epoch, elapsed_s=2.0, is_typical=is_typical)
        (training,) = read_status(run.storage).under_way
        assert (training.epoch, training.remaining_s()) == (epoch + 1, left_s)


def test_a_failure_that_was_tried_again_is_none(run):
    run.begin("a")
    run.started("train", "a")
    run.failed("train", "a", final=False)
    assert read_status(run.storage).waiting == ("a",)
    run.started("train", "a")
    status = read_status(run.storage)
    assert [t.id for t in status.under_way] == ["a"]
    assert not status.failed


def test_only_the_latest_call_counts_for_what_is_under_way(run):
    run.begin("a", "b")
    run.started("train", "a")
    run.failed("train", "b", final=True)
    run.begin("a", "b")
    status = read_status(run.storage)
    assert (status.under_way, dict(status.failed), status.waiting) == ((), {}, ("a", "b"))


def test_json_has_null_for_what_is_not_known(run, capsys):
    run.begin("a")
    run.started("train", "a")
    assert main(["--output", run.storage.location, "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["under_way"][0]["pseudo_dice"] is None
    assert record["remaining_s"] is None


def test_everything_done_is_exit_code_0_and_no_run_2(run, capsys):
    assert main(["--output", run.storage.location]) == 2
    assert "no run has been started there" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no run"):
        read_status(run.storage)
    run.begin("a")
    run.finished("score", "a", elapsed_s=1.0)
    assert main(["--output", run.storage.location]) == 0


def test_the_status_is_that_of_the_call_that_began_last_also_where_the_clock_was_set_back(run, capsys):
    run.begin("a")
    run.finished("score", "a", elapsed_s=1.0)
    run.now -= timedelta(hours=2)
    run.begin("b")
    assert read_status(run.storage).trainings == ("b",)
    assert main(["--output", run.storage.location]) == 1


def test_a_driver_on_another_machine_is_watched_and_that_is_said_apart_from_the_status(run, capsys, monkeypatch):
    run.begin("a")
    elsewhere = replace(DriverRecord.of_this_process(run.storage), host="another", processes="another", pid=7)
    run.storage.write_bytes(run_paths.driver(1), json.dumps(asdict(elsewhere)).encode())
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert main(["--output", run.storage.location]) == 1
    captured = capsys.readouterr()
    assert captured.err == "waiting up to 15 s for a sign of life of the driver (process 7 on another)\n"
    assert "the latest driver is dead (process 7 on another)" in captured.out


def test_a_copy_of_a_run_is_not_said_to_be_at_work_as_the_run_is(run, tmp_path, capsys, monkeypatch):
    run.begin("a")
    with Lease(run.storage):
        copy = shutil.copytree(run.storage.location, tmp_path.parent / f"{tmp_path.name}-copy")
        monkeypatch.setattr("time.sleep", lambda _: None)
        assert main(["--output", str(copy)]) == 1
        assert "the latest driver is dead" in capsys.readouterr().out
        assert main(["--output", run.storage.location]) == 1
        assert "the driver is at work" in capsys.readouterr().out


def test_a_status_in_a_pipe_has_its_counts_on_one_line(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    run.begin("a")
    main(["--output", run.storage.location])
    assert capsys.readouterr().out.splitlines()[0] == (
        "0 of 1 trainings done, 0 interrupted, 1 waiting, 0 stages failed; 0 s of training, prediction and scoring"
    )


def test_ctrl_c_ends_the_command_with_one_line(run, capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    run.begin("a")
    monkeypatch.setattr("orchestrator.cli.status.read_status", interrupt)
    assert main(["--output", run.storage.location]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_gpu_hours_are_counted_until_the_last_event_of_each_driver_and_priced(run, capsys):
    run.begin("a", "b")
    for name in ("a", "b"):
        stage = f"train {name}"
        run.events.append("stage_started", stage=stage, stage_kind="train", attempt=1, gpu_kind="L40S", gpus=0.5)
    run.now += timedelta(hours=4)
    run.finished("train", "a", elapsed_s=4 * 3600)
    run.now += timedelta(days=3)
    run.begin("b")
    assert read_status(run.storage).gpu_hours == {"L40S": 4.0}
    aws = str(Path(__file__).resolve().parents[2] / "clusters" / "aws.yaml")
    main(["--output", run.storage.location, "--cluster", aws])
    assert "GPU hours so far: 4.0, 4.00 to 8.96 USD with the prices of 2025-06-01" in capsys.readouterr().out


def test_a_stage_whose_node_was_broken_has_not_failed(run):
    run.begin("a")
    run.failed("train", "a", final=True)
    run.events.append("stage_revived", stage="train a", stage_kind="train")
    assert not read_status(run.storage).failed


def test_a_member_of_an_ensemble_that_nobody_asked_for_is_trained_and_then_over(run):
    run.begin("both-fold0")
    run.started("train", "a-fold0")
    assert [(one.id, one.stage) for one in read_status(run.storage).under_way] == [("a-fold0", "train")]
    run.finished("train", "a-fold0", elapsed_s=9.0)
    assert read_status(run.storage).under_way == ()
    run.started("ensemble", "both-fold0")
    run.finished("ensemble", "both-fold0", elapsed_s=0.1)
    status = read_status(run.storage)
    assert [(one.id, one.stage) for one in status.under_way] == [("both-fold0", "predict")]
    assert status.waiting == ()
