"""What a run does where its batch system hides jobs, refuses them, or does not answer."""

import subprocess
import threading
import time

import pytest
from batch_phantoms import end_jobs, played_slurm
from test_batch_system import BESIDE, BIG, GPU, pool, start, wait_until, workers_of, write_script

from orchestrator.cluster.batch import starts
from orchestrator.cluster.batch import workers as batch_workers
from orchestrator.cluster.batch.submissions import Submissions
from orchestrator.cluster.batch.system import Job, load_batch_system, user_name
from orchestrator.errors import ClusterError

NUM_LOOKS = 8


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    folder = played_slurm(tmp_path, monkeypatch)
    (folder / "full").touch()
    (folder / "latin").touch()
    yield folder
    end_jobs(folder)


@pytest.fixture
def looks(monkeypatch):
    """How often a queue was looked at."""
    seen = []
    poll = batch_workers.BatchWorkers._poll

    def counted(self, now_s):
        seen.append(now_s)
        return poll(self, now_s)

    monkeypatch.setattr(batch_workers.BatchWorkers, "_poll", counted)
    return seen


def after_looks(looks, number=NUM_LOOKS):
    until = len(looks) + number
    wait_until(lambda: len(looks) >= until)


def refusal_of(workers, *, present=()):
    found = []

    def is_told():
        try:
            workers.ask({GPU: 3}, present=dict(present))
        except ClusterError as error:
            found.append(str(error))
        return found

    wait_until(is_told)
    return found[0]


def test_jobs_that_no_list_shows_are_never_more_than_the_pool_has_and_are_named(tmp_path, jobs, looks, monkeypatch):
    (jobs / "hidden").touch()
    workers = start(tmp_path)
    try:
        workers.ask({GPU: 3}, present={})
        after_looks(looks)
        assert len(list(jobs.glob("*.name"))) == 3
        assert workers.waiting() == {"gpu: submitted, not listed yet": 3}
        monkeypatch.setattr(batch_workers, "UNLISTED_S", 0.1)
        assert "jobs 1, 2, 3: submitted more than 0.1 s ago and never listed by squeue" in refusal_of(workers)
    finally:
        workers.close()
    assert len(list(jobs.glob("*.name"))) == 3
    assert len(list(jobs.glob("*.cancelled"))) == 3


def test_a_job_that_ends_before_a_list_shows_it_is_replaced_where_others_are_listed(tmp_path, jobs, monkeypatch):
    monkeypatch.setattr(batch_workers, "UNLISTED_S", 0.1)
    workers = start(tmp_path)
    try:
        workers.ask({GPU: 2}, present={})
        wait_until(lambda: workers.waiting() == {"gpu: Resources": 2})
        workers._submitted.add("77", name="run-gpu", number=1, now_s=time.monotonic())
        workers.ask({GPU: 3}, present={})
        wait_until((jobs / "77.cancelled").exists)
        wait_until(lambda: workers.waiting() == {"gpu: Resources": 3})
    finally:
        workers.close()


def test_arrays_are_seen_by_any_of_their_parts():
    submitted = Submissions()
    for job_id in ("12", "123", "34[].pbs", "own"):
        submitted.add(job_id, name="run-gpu", number=2, now_s=0.0)
    submitted.see([Job(id=job_id, name="run-gpu", reason="", is_waiting=True) for job_id in ("12_1", "34[2].pbs.net")])
    assert [job.id for job in submitted.waiting()] == ["123", "123", "own", "own"]


def test_variables_for_other_lists_change_nothing_and_the_user_is_who_runs_us(tmp_path, jobs, monkeypatch):
    me = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    (tmp_path / "a.sh").write_text(f"#SBATCH --job-name=run-gpu --output={tmp_path / 'log'}\n")
    system = load_batch_system("slurm", beside=BESIDE)
    system.submit_job(tmp_path / "a.sh")
    assert [job.name for job in system.jobs("run-")] == ["run-gpu"]
    assert user_name() == me


def test_variables_of_the_user_do_not_go_before_what_a_pool_says_and_say_the_rest(tmp_path, jobs, monkeypatch):
    for name, value in {"JOB_NAME": "other", "PARTITION": "nowhere", "ACCOUNT": "mine"}.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    system = load_batch_system("slurm", beside=BESIDE)
    values = {"name": "run-gpu", "log": tmp_path / "log", "partition": "gpu"}
    script = tmp_path / "a.sh"
    script.write_text(system.script_text(values, setup=[], commands=["#  --account is none"], where="x"))
    system.submit_job(script)
    again = system.submit_line(script, lines=script.read_text())
    subprocess.run(["bash", "-c", again], check=True, capture_output=True)
    assert [job.name for job in system.jobs("run-")] == ["run-gpu", "run-gpu"]
    assert [(jobs / f"{number}.account").read_text() for number in (1, 2)] == ["mine", "mine"]
    script.write_text(script.read_text().replace("\n", "\n#SBATCH --account=theirs\n", 1))
    system.submit_job(script)
    assert (jobs / "3.account").read_text() == "theirs"


def test_a_run_goes_on_with_the_jobs_that_a_limit_lets_it_have_and_says_so_once(tmp_path, jobs, looks, caplog):
    (jobs / "limit").write_text("2")
    workers = start(tmp_path)
    try:
        workers.ask({GPU: 3}, present={})
        after_looks(looks)
        workers.ask({GPU: 3}, present={})
        assert workers.waiting() == {"gpu: Resources": 2}
        assert list(jobs.glob("*.cancelled")) == []
        assert caplog.text.count("QOSMaxSubmitJobPerUserLimit") == 1
    finally:
        workers.close()


@pytest.mark.parametrize("num_let_in", [1, 0])
def test_a_pool_that_is_refused_keeps_no_other_from_being_asked(tmp_path, jobs, looks, caplog, num_let_in):
    (jobs / "limit-gpu").write_text(str(num_let_in))
    pools = [pool("gpu", 3), pool("same", 2, gpu="T4"), pool("big", 2, cpus=16)]
    scripts = {one.name: write_script(tmp_path / f"{one.name}.sh", name=one.name, partition=one.name) for one in pools}
    workers = workers_of(pools, scripts)
    try:
        workers.ask({GPU: 3, BIG: 2}, present={})
        after_looks(looks)
        workers.ask({GPU: 3, BIG: 2}, present={})
        expected = {"gpu: Resources": num_let_in, "same: Resources": 2, "big: Resources": 2}
        assert workers.waiting() == {name: number for name, number in expected.items() if number}
        assert list(jobs.glob("*.cancelled")) == []
        assert caplog.text.count("QOSMaxSubmitJobPerUserLimit") == 1
    finally:
        workers.close()


def test_of_an_array_that_is_refused_a_limit_lets_in_what_it_may(tmp_path, jobs, looks):
    (jobs / "limit").write_text("4")
    for number in range(2, 9):
        write_script(tmp_path / f"{number}.sh", array=number)
    script = write_script(tmp_path / "worker.sh")
    workers = workers_of([pool("gpu", 8)], {"gpu": script}, arrays={"gpu": tmp_path})
    try:
        workers.ask({GPU: 3}, present={})
        wait_until(lambda: workers.waiting() == {"gpu: Resources": 3})
        workers.ask({GPU: 8}, present={})
        after_looks(looks)
        workers.ask({GPU: 8}, present={})
        assert workers.waiting() == {"gpu: Resources": 4}
        assert len(list(jobs.glob("*_?.waits"))) == 3
    finally:
        workers.close()


def test_more_than_an_array_may_hold_are_several(tmp_path, jobs, monkeypatch):
    monkeypatch.setattr(batch_workers, "MAX_ARRAY", 2)
    script, _ = write_script(tmp_path / "worker.sh"), write_script(tmp_path / "2.sh", array=2)
    workers = workers_of([pool("gpu", 5)], {"gpu": script}, arrays={"gpu": tmp_path})
    try:
        workers.ask({GPU: 5}, present={})
        wait_until(lambda: workers.waiting() == {"gpu: Resources": 5})
        assert sorted(path.stem for path in jobs.glob("*.waits")) == ["1_1", "1_2", "2_1", "2_2", "3"]
    finally:
        workers.close()


def test_jobs_that_are_suspended_are_among_those_that_wait(tmp_path, jobs):
    (jobs / "full").unlink()
    (jobs / "suspended").touch()
    workers = start(tmp_path)
    try:
        workers.ask({GPU: 1}, present={})
        wait_until(lambda: workers.waiting() == {"gpu: SUSPENDED": 1})
    finally:
        workers.close()


def test_a_run_goes_on_while_a_controller_that_has_answered_is_away_and_not_for_ever(
    tmp_path, jobs, looks, monkeypatch
):
    workers = start(tmp_path)
    try:
        workers.ask({GPU: 3}, present={})
        wait_until(lambda: workers.waiting() == {"gpu: Resources": 3})
        (jobs / "away").touch()
        after_looks(looks)
        workers.ask({GPU: 3}, present={})
        monkeypatch.setattr(batch_workers, "UNANSWERED_S", 0.1)
        assert "Unable to contact slurm controller" in refusal_of(workers)
        (jobs / "away").unlink()
        after_looks(looks, 2)
        workers.ask({GPU: 3}, present={})
    finally:
        workers.close()


def test_an_error_that_nobody_expected_ends_the_run_and_not_the_thread_alone(tmp_path, jobs, monkeypatch):
    def fail(*_given):
        raise ZeroDivisionError("unforeseen")

    workers = start(tmp_path)
    monkeypatch.setattr(workers._system.__class__, "understand", fail)
    assert refusal_of(workers) == "ZeroDivisionError: unforeseen"
    assert any(thread.name == "batch-workers" for thread in threading.enumerate())
    monkeypatch.undo()
    workers.close()


def test_jobs_that_end_without_a_machine_are_told_with_their_last_words_and_no_others_follow_at_once(
    tmp_path, jobs, looks, caplog
):
    (jobs / "full").unlink()
    workers = start(tmp_path, command="sleep 1; echo No module named ray; exit 1", look_every_s=0.3)
    try:
        workers.ask({GPU: 1}, present={})
        wait_until(lambda: "jobs in a row have run and ended without a machine" in caplog.text)
        num_submitted = len(list(jobs.glob("*.name")))
        after_looks(looks, 5)
        assert len(list(jobs.glob("*.name"))) == num_submitted == starts.MAX_IN_A_ROW
        assert "The last one, 3: No module named ray (logs: " in caplog.text
    finally:
        workers.close()
