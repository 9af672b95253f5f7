"""Which jobs become machines: told from their logs and from how many are there."""

import re

from batch_phantoms import end_jobs, played_slurm
from test_batch_system import GPU, pool, wait_until, workers_of, write_script

from orchestrator.cluster.batch import starts
from orchestrator.cluster.batch.system import Job
from orchestrator.cluster.ray_head import JOINED

HOUR_S = 3600.0


def runs(number, *, reason=""):
    return Job(id=str(number), name="run-gpu", reason=reason, is_waiting=False)


def test_whose_machines_have_come_is_not_held_up_when_they_end(tmp_path):
    running = [runs(number) for number in range(12)]
    seen = starts.Starts(logs=tmp_path)
    assert seen.see(running[:8], num_present=8, now_s=0.0) == ""
    # All at once, at their time limit.
    assert seen.see([], num_present=8, now_s=10.0) == ""
    assert not seen.holds(10.0)
    for number in (8, 9, 10):
        assert seen.see(running[number : number + 1], num_present=0, now_s=20.0) == ""
    assert "3 jobs in a row have run and ended" in seen.see([], num_present=0, now_s=30.0)
    assert (seen.holds(89.0), seen.holds(90.0)) == (True, False)
    seen.see(running[11:], num_present=1, now_s=40.0)
    assert not seen.holds(50.0)


def test_one_that_hangs_is_told_once_and_makes_no_failures_of_those_that_work(tmp_path):
    """Only one of the two that run is there at any time, and the others end at their time limits."""
    seen, now_s, told = starts.Starts(logs=tmp_path), 0.0, []
    (tmp_path / "worker-gpu-1.log").write_text("loading the module\nmounting /scratch\n")
    for number in (2, 3, 4, 5):
        (tmp_path / f"worker-gpu-{number}.log").write_text(f"12:00:00 {JOINED}\n")
        for _ in range(5):
            now_s += HOUR_S
            told.append(seen.see([runs(1), runs(number)], num_present=1, now_s=now_s))
        now_s += 60
        told.append(seen.see([runs(1)], num_present=0, now_s=now_s))
        assert not seen.holds(now_s)
    (late,) = filter(None, told)
    assert late.startswith("jobs 1: run for more than 300 s without a machine; expected that each starts Ray")
    assert "The first one, 1: loading the module / mounting /scratch (logs: " in late


def test_a_job_that_is_suspended_is_not_told_as_late(tmp_path):
    seen = starts.Starts(logs=tmp_path)
    assert [seen.see([runs(1, reason="SUSPENDED")], num_present=0, now_s=now_s) for now_s in (0, 400)] == ["", ""]
    assert seen.see([runs(1)], num_present=0, now_s=800) != ""


def test_one_that_works_all_the_time_hides_no_others_that_fail(tmp_path):
    seen = starts.Starts(logs=tmp_path)
    (tmp_path / "worker-gpu-1.log").write_text(f"{JOINED}\n")
    told = ""
    for number in (2, 3, 4):
        seen.see([runs(1), runs(number)], num_present=1, now_s=60.0 * number)
        told = seen.see([runs(1)], num_present=1, now_s=60.0 * number + 30)
    assert told.startswith("3 jobs in a row have run and ended without a machine")


def test_the_parts_of_an_array_are_told_with_the_last_lines_of_their_logs(tmp_path, monkeypatch, caplog):
    jobs = played_slurm(tmp_path, monkeypatch)
    monkeypatch.setattr(starts, "MAX_IN_A_ROW", 1)
    fails = "sleep 1; printf 'one\\ntwo\\nTraceback:\\n\\nValueError: 2 GPUs\\n'; exit 1"
    (tmp_path / "100%j").mkdir()
    script, _ = (write_script(tmp_path / "100%j" / f"{n}.sh", command=fails, array=n) for n in (None, 2))
    workers = workers_of([pool("gpu", 2)], {"gpu": script}, arrays={"gpu": script.parent}, look_every_s=0.3)
    try:
        workers.ask({GPU: 2}, present={})
        wait_until(lambda: "in a row have run and ended without a machine" in caplog.text)
    finally:
        workers.close()
        end_jobs(jobs)
    assert re.search(r"The last one, 1_[12]: two / Traceback: / ValueError: 2 GPUs \(logs: ", caplog.text), caplog.text
