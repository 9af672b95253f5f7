"""What is told to batch systems, and what is made of their answers."""

import subprocess
import time
from pathlib import Path

import pytest
import yaml
from batch_phantoms import end_jobs, played_slurm

from orchestrator.cluster.batch.starts import Starts
from orchestrator.cluster.batch.system import Job, load_batch_system
from orchestrator.cluster.batch.workers import BatchWorkers, Orders, decide
from orchestrator.cluster.gpu_kinds import kind_named
from orchestrator.cluster.node_pool import NodePool, Resources
from orchestrator.errors import ClusterError, ConfigError

BESIDE = Path("cluster.yaml")
GPU, BIG = Resources(cpus=8, gpus=1), Resources(cpus=16, gpus=1)
SLURM = """\
12_1|PENDING|Priority|orchestrator-ab-gpu
12_2|RUNNING|None|orchestrator-ab-gpu
13|COMPLETING|None|orchestrator-ab-gpu
14|PENDING|ReqNodeNotAvail, UnavailableNodes:n[1-4]|orchestrator-ab-cpu
15|SUSPENDED|None|orchestrator-ab-gpu
"""
LSF = """\
215|RUN|-|orchestrator-ab-gpu
216|PEND|Job slot limit reached: 2 hosts;|orchestrator-ab-gpu
217|EXIT|-|orchestrator-ab-cpu
"""
PBS = """\
Job Id: 1234.pbs01
    Job_Name = orchestrator-ab-gpu
    Job_Owner = me@login
    resources_used.cput = 00:00:02
    job_state = R
    queue = workq
    comment = Job run at Mon Nov 23 at 10:00 on (node1:ncpus=8)

Job Id: 1235.pbs01
    Job_Name = orchestrator-ab-gpu
    Job_Owner = me@login
    job_state = Q
    queue = workq
    comment = Not Running: Insufficient amount of resource: ngpus
    etime = Mon Nov 23 10:00:00 2026

Job Id: 1236.pbs01
    Job_Name = orchestrator-ab-cpu
    job_state = Q
    queue = workq

Job Id: 1237.pbs01
    Job_Name = orchestrator-ab-cpu
    job_state = F
"""


def job(job_id, name="gpu", *, waits=None):
    return Job(id=job_id, name=f"orchestrator-ab-{name}", reason=waits or "", is_waiting=waits is not None)


@pytest.mark.parametrize(
    ("system", "answer", "jobs"),
    [
        (
            "slurm",
            SLURM,
            [
                job("12_1", waits="Priority"),
                job("12_2"),
                job("14", "cpu", waits="ReqNodeNotAvail, UnavailableNodes:n[1-4]"),
                Job(id="15", name="orchestrator-ab-gpu", reason="SUSPENDED", is_waiting=False),
            ],
        ),
        ("lsf", LSF, [job("215"), job("216", waits="Job slot limit reached: 2 hosts;")]),
        (
            "pbs",
            PBS,
            [
                job("1234.pbs01"),
                job("1235.pbs01", waits="Not Running: Insufficient amount of resource: ngpus"),
                job("1236.pbs01", "cpu", waits=""),
            ],
        ),
    ],
)
def test_the_jobs_of_a_list_are_those_that_wait_and_run_with_the_reasons(system, answer, jobs):
    assert load_batch_system(system, beside=BESIDE).understand(answer) == jobs


@pytest.mark.parametrize(
    ("answer", "job_id"),
    [
        ("8841234\n", "8841234"),
        ("8841234;hpc\n", "8841234"),
        ("2 jobs of 50 used in project p123\n8841234\n", "8841234"),
        ("2026-11-30: maintenance on 12-05\n8841234;hpc\n", "8841234"),
    ],
)
def test_a_job_is_told_from_what_a_site_says_beside_it(tmp_path, monkeypatch, answer, job_id):
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\nprintf '{answer}'\n")
    (tmp_path / "sbatch").chmod(0o755)
    (tmp_path / "x.sh").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert load_batch_system("slurm", beside=BESIDE).submit_job(tmp_path / "x.sh") == job_id


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        (
            "slurm",
            [
                "#SBATCH --job-name=a",
                '#SBATCH --output="/runs/x y/worker-%j.log" --open-mode=append',
                "#SBATCH --cpus-per-task=8",
                "#SBATCH --gpus-per-node=1",
                "#SBATCH --mem=2048M",
                "#SBATCH --time=90",
            ],
        ),
        (
            "lsf",
            [
                '#BSUB -J "a"',
                '#BSUB -o "/runs/x y/worker-%J.log"',
                '#BSUB -n 8 -R "span[hosts=1]"',
                '#BSUB -gpu "num=1"',
                '#BSUB -M 2048MB -R "rusage[mem=2048MB]"',
                "#BSUB -W 90",
            ],
        ),
        (
            "pbs",
            [
                "#PBS -N a",
                '#PBS -j oe -o "/runs/x y/worker.log"',
                "#PBS -l select=1:ncpus=8:mem=2048mb:ngpus=1",
                "#PBS -l walltime=90:00",
                "exec > '/runs/x y/worker'-\"$PBS_JOBID\".log 2>&1",
            ],
        ),
    ],
)
def test_a_script_says_what_is_asked_for_in_the_words_of_its_system(system, lines):
    values = {"name": "a", "log": "/runs/x y/worker", "cpus": 8, "gpus": 1, "memory_mib": 2048}
    text = load_batch_system(system, beside=BESIDE).script_text(
        values | {"time_limit_minutes": 90, "account": None},
        setup=["module load cuda"],
        commands=["exec work"],
        where="x",
    )
    assert text.splitlines() == ["#!/bin/bash", *lines, "module load cuda", "exec work"]


@pytest.mark.parametrize(
    ("asked", "chunk"),
    [
        ({}, "ncpus=8"),
        ({"memory_mib": 512}, "ncpus=8:mem=512mb"),
        ({"gres": "ngpus=1:gpu_model=A100"}, "ncpus=8:ngpus=1:gpu_model=A100"),
    ],
)
def test_pbs_is_asked_for_one_chunk_of_what_is_said(asked, chunk):
    values = {"cpus": 8, "memory_mib": None, "gpus": None, "gres": None} | asked
    text = load_batch_system("pbs", beside=BESIDE).script_text(values, setup=[], commands=[], where="x")
    assert text.splitlines() == ["#!/bin/bash", f"#PBS -l select=1:{chunk}"]


def test_the_log_of_a_pbs_job_is_found_by_its_id(tmp_path):
    script = tmp_path / "job.sh"
    values = {"log": tmp_path / "worker-gpu"}
    text = load_batch_system("pbs", beside=BESIDE).script_text(values, setup=[], commands=["echo words"], where="x")
    script.write_text(text)
    subprocess.run(["bash", str(script)], env={"PBS_JOBID": "1234.pbs01"}, check=True)
    assert Starts(logs=tmp_path)._last_words("1234.pbs01") == "words"


def test_a_value_without_an_option_is_refused_instead_of_forgotten():
    with pytest.raises(ConfigError, match=r"x: qos is 'high'; this batch system has no option for it"):
        load_batch_system("pbs", beside=BESIDE).script_text({"qos": "high"}, setup=[], commands=[], where="x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(?P<id", "answer is '(?P<id' (str); expected a regular expression"),
        ("(.*)", "answer is '(.*)' (str); expected a group (?P<id>...)"),
    ],
)
def test_a_pattern_that_says_too_little_is_refused_when_it_is_read(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    own = load_batch_system("slurm", beside=BESIDE).model_dump()
    own["submit"]["answer"] = text
    path.write_text(yaml.safe_dump(own))
    with pytest.raises(ConfigError) as caught:
        load_batch_system("own.yaml", beside=tmp_path / "cluster.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        (
            "cancel",
            "command",
            ["kill", "{v}"],
            "command is ['kill', '{v}'] (list); expected no placeholder but {id}, and",
        ),
        ("query", "command", ["list", "{usr}"], "expected no placeholder but {user}, and {{ for a brace, in '{usr}'"),
        (
            "script",
            "options",
            {"log": "-o %j{x}"},
            "expected no placeholder but {value}, and {{ for a brace, in '-o %j{x}'",
        ),
        ("script", "everywhere", ["{}"], "expected no placeholder but {nodes}, {cpus}, {gpus}, and"),
        ("submit", "command", ["sub", "{"], "expected no placeholder but {script}, and"),
    ],
)
def test_a_placeholder_that_stands_for_nothing_is_refused_when_it_is_read(tmp_path, part, key, value, message):
    own = load_batch_system("slurm", beside=BESIDE).model_dump()
    own[part][key] = value
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(ConfigError) as caught:
        load_batch_system("own.yaml", beside=tmp_path / "cluster.yaml")
    assert message in str(caught.value)


def test_a_log_lies_in_a_folder_of_any_name(tmp_path, monkeypatch):
    jobs = played_slurm(tmp_path, monkeypatch)
    folder = tmp_path / "my 100%j runs"
    folder.mkdir()
    workers = start(folder)
    try:
        workers.ask({GPU: 1}, present={})
        wait_until((folder / "log-1.log").exists)
    finally:
        workers.close()
        end_jobs(jobs)


def pool(name, number, *, gpu="A100", cpus=8):
    return NodePool(name=name, max_nodes=number, cpus=cpus, gpus=1, gpu=kind_named(gpu))


POOLS = (pool("slow", 4, gpu="T4"), pool("fast", 2), pool("big", 1, cpus=16))


def jobs_of(name, *, waiting=0, running=0):
    waits = [job(f"{name}-w{i}", name, waits="Priority") for i in range(waiting)]
    return [*(job(f"{name}-r{i}", name) for i in range(running)), *waits]


@pytest.mark.parametrize(
    ("missing", "jobs", "present", "submit", "cancel"),
    [
        ({}, {}, {}, {}, ()),
        ({GPU: 3}, {}, {}, {"fast": 2, "slow": 1}, ()),
        ({GPU: 99, BIG: 2}, {}, {}, {"fast": 2, "slow": 4, "big": 1}, ()),
        # Two are there already, one waits and one has not joined yet: of three that are missing one is to be asked for.
        ({GPU: 3}, {"fast": (0, 2), "slow": (1, 1)}, {GPU: 2}, {"slow": 1}, ()),
        # One is missing, three wait: the two that have waited for the least are cancelled, of the slowest first.
        ({GPU: 1}, {"fast": (1, 0), "slow": (2, 0)}, {}, {}, ("slow-w0", "slow-w1")),
        ({}, {"fast": (0, 2)}, {GPU: 1}, {}, ()),
    ],
)
def test_the_queue_holds_what_is_missing_and_no_more(missing, jobs, present, submit, cancel):
    found = {name: jobs_of(name, waiting=waiting, running=running) for name, (waiting, running) in jobs.items()}
    assert decide(POOLS, found, missing=missing, present=present) == Orders(submit=submit, cancel=cancel)


def test_what_a_pool_does_not_take_is_for_another_of_its_size():
    found = {"fast": jobs_of("fast", waiting=1)}
    orders = decide(POOLS, found, missing={GPU: 4}, present={}, refused={"fast"})
    assert orders == Orders(submit={"slow": 3}, cancel=())


def start(folder, *, partition="gpu", command="exec sleep 600", look_every_s=0.1):
    script = write_script(folder / "worker.sh", partition=partition, command=command)
    return workers_of([pool("gpu", 3)], {"gpu": script}, look_every_s=look_every_s)


def write_script(path, *, name="gpu", partition="gpu", command="exec sleep 600", **more):
    values = {"name": f"run-{name}", "log": path.parent / "log", "partition": partition} | more
    system = load_batch_system("slurm", beside=BESIDE)
    path.write_text(system.script_text(values, setup=[], commands=[command], where="x"))
    return path


def workers_of(pools, scripts, *, arrays=None, look_every_s=0.1):
    return BatchWorkers(
        load_batch_system("slurm", beside=BESIDE),
        pools=pools,
        scripts=scripts,
        arrays=arrays or {},
        prefix="run-",
        look_every_s=look_every_s,
    )


def wait_until(condition):
    until_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_jobs_wait_with_their_reason_and_end_with_the_run(tmp_path, monkeypatch):
    jobs = played_slurm(tmp_path, monkeypatch)
    (jobs / "full").touch()
    workers = start(tmp_path)
    try:
        workers.ask({GPU: 2}, present={})
        wait_until(lambda: workers.waiting() == {"gpu: Resources": 2})
        workers.ask({GPU: 1}, present={})
        wait_until(lambda: workers.waiting() == {"gpu: Resources": 1})
        (jobs / "full").unlink()
        (jobs / "1.waits").unlink()
        workers.ask({GPU: 2}, present={})
        # The first has gone: two are missing again.
        wait_until((jobs / "4.pid").exists)
        wait_until(lambda: workers.waiting() == {})
    finally:
        workers.close()
        end_jobs(jobs)
    assert sorted(path.name for path in jobs.glob("*.cancelled")) == ["2.cancelled", "3.cancelled", "4.cancelled"]


def test_a_queue_that_takes_nothing_is_told_once_nothing_else_will_come(tmp_path, monkeypatch):
    played_slurm(tmp_path, monkeypatch)
    workers = start(tmp_path, partition="nowhere")
    refusals = []

    def is_told():
        try:
            workers.ask({GPU: 1}, present={})
        except ClusterError as error:
            refusals.append(str(error))
        return refusals

    wait_until(is_told)
    workers.close()
    assert "invalid partition specified: nowhere" in refusals[0]


def test_the_job_of_the_driver_that_ends_its_machines_is_none_of_them(tmp_path, monkeypatch):
    jobs = played_slurm(tmp_path, monkeypatch)
    workers = start(tmp_path)
    try:
        workers.ask({GPU: 1}, present={})
        wait_until((jobs / "1.pid").exists)
        options = f"--job-name=run-driver --output={tmp_path / 'driver.log'}"
        (tmp_path / "driver.sh").write_text(f"#SBATCH {options}\nsleep 60\n")
        workers._system.submit_job(tmp_path / "driver.sh")
    finally:
        workers.close()
        left = [job.name for job in workers._system.jobs("run-")]
        end_jobs(jobs)
    assert [path.name for path in jobs.glob("*.cancelled")] == ["1.cancelled"]
    assert left == ["run-driver"]


def test_a_run_ends_although_its_batch_system_does_not_answer(tmp_path, monkeypatch):
    played_slurm(tmp_path, monkeypatch)
    workers = start(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    workers.close()


def test_a_command_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="squeue: not found; expected on this machine, as on every login node"):
        load_batch_system("slurm", beside=BESIDE).jobs("x")
