"""`kind: slurm`: what its files mean, and runs of which every machine is a job, with commands that are played."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from batch_phantoms import end_jobs, played_slurm
from test_preemption import DRIVER

from orchestrator.cli.sweep import main as sweep
from orchestrator.cluster.batch import driver as batch_driver
from orchestrator.cluster.batch.system import load_batch_system
from orchestrator.cluster.config import RunName
from orchestrator.cluster.node_pool import Resources
from orchestrator.cluster.registry import load_cluster
from orchestrator.errors import ConfigError
from orchestrator.events import read_events
from orchestrator.run_all import main
from orchestrator.storage.filesystem import open_storage

ROOT = Path(__file__).resolve().parents[2]
POOL = {"number": 2, "cpus": 1, "time_limit_minutes": 60}


def write(folder, /, **values):
    content = {"kind": "slurm", "folder": str(folder / "shared"), "look_every_s": 1}
    content |= {"idle_s": 5, "pools": {"cores": POOL}} | values
    path = folder / "slurm.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_shipped_file_has_its_pools_and_the_driver_here():
    config = load_cluster(ROOT / "clusters" / "slurm.yaml")
    assert [(pool.name, pool.max_nodes, pool.gpus) for pool in config.node_pools()] == [("gpu", 8, 1), ("cpu", 2, 0)]
    assert not config.is_elsewhere


def test_only_workers_that_are_jobs_of_their_own_are_given_back_when_idle(tmp_path):
    """Machines of an allocation would not come again."""
    given = {form: load_cluster(write(tmp_path, form=form))._idle_limit_s for form in ("workers", "within")}
    assert given == {"workers": 5, "within": float("inf")}


def with_pool(**values):
    return {"pools": {"cores": POOL | values}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pool": {}}, "unknown key 'pool'; did you mean 'pools'?"),
        ({"pools": {}}, "pools is {} (dict); expected"),
        (with_pool(cpu=1), "pools.cores: unknown key 'cpu'; did you mean 'cpus'?"),
        (with_pool(time_limit_minutes="4:00:00"), "time_limit_minutes is '4:00:00' (str); expected integer"),
        (with_pool(number=0), "pools.cores: number is 0 (int); expected at least 1"),
        (with_pool(partition="a\n#SBATCH --uid=0"), "pools.cores: partition is"),
        (with_pool(setup=["a\nb"]), "pools.cores.setup: 0 is 'a\\nb' (str)"),
        (with_pool(time_limit_minutes=3), "pools.cores: drain_s is 120, time_limit_minutes 3; expected a limit of at"),
        ({"form": "allocation", "pools": {"a": POOL, "b": POOL}}, "form allocation: expected one pool and no head"),
        ({"head": {"time_limit_minutes": 60}, "address": "login1"}, "address: of a driver that is a job itself"),
        ({"address": "192.168.4.0/99"}, "expected an address, or a network such as 192.168.4.0/24"),
        ({"pools": {"driver": POOL}}, "pools.driver: jobs of that name are drivers; expected another name"),
        (
            {"folder": "s3://bucket/x"},
            "folder is 's3://bucket/x' (str); expected a folder that all machines see, and no",
        ),
        ({"batch_system": "/etc/slurm"}, "batch_system is '/etc/slurm'; expected one of lsf, pbs, slurm, or a YAML"),
        (with_pool(gres="gpu:a100:1"), "pools.cores: gres is 'gpu:a100:1', gpus is 0; expected their number beside it"),
        (with_pool(gpu="A100"), "pools.cores: gpu is 'A100', gpus is 0; expected their number beside it"),
        ({"form": "elastic"}, "form is 'elastic' (str); expected 'workers', 'allocation' or 'within'"),
        ({"batch_system": "slrum"}, "batch_system is 'slrum'; expected one of lsf, pbs, slurm, or a YAML file"),
        ({"batch_system": "own.yaml"}, "own.yaml: cannot be read"),
        ({"batch_system": "pbs"} | with_pool(qos="high"), "qos is 'high'; this batch system has no option for it"),
        ({"batch_system": "lsf", "form": "allocation"}, "form allocation: lsf says nothing of script.everywhere"),
        ({"batch_system": "pbs"} | with_pool(array=True), "pools.cores: array: pbs has no option for it"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path, values, message):
    with pytest.raises(ConfigError) as caught:
        load_cluster(write(tmp_path, **values))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_script_and_no_name_of_a_job_holds_a_secret_or_what_a_shell_would_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_cluster(write(tmp_path, **with_pool(setup=["module load x"], options=["--exclusive"], array=True)))
    run = RunName(output="/data/$(reboot) 'x'", study='a "study"; `id`')
    folder = tmp_path / "shared"
    folder.mkdir()
    workers = config._workers(run, folder)
    script, pair = (folder / "worker-cores.sh").read_text(), (folder / "arrays-cores" / "2.sh").read_text()
    assert '--comment="a _study__ _id_: /data/__reboot_ _x_"' in script
    assert script.index("#SBATCH --job-name=") < script.index("#SBATCH --exclusive\n") < script.index("module load x")
    assert "\nmodule load x\nexec " in script
    own = [line for line in pair.splitlines() if line not in script.splitlines()]
    assert own == [f'#SBATCH --output="{folder}/worker-cores-%A_%a.log" --open-mode=append', "#SBATCH --array=1-2"]
    workers._ended.set()
    workers._asked.set()


@pytest.mark.parametrize("form", ["workers", "within"])
def test_a_worker_starts_below_home_and_with_its_scratch_in_every_form(tmp_path, monkeypatch, form):
    """The Python of the jobs is played: it says where its temporary files are."""
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    monkeypatch.setenv("SCRATCH", "/local/17")
    python = tmp_path / "my home" / "my venv" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$TMPDIR $ORCHESTRATOR_CACHES $3" > "{tmp_path}/told"\n')
    python.chmod(0o755)
    own = load_batch_system("slurm", beside=tmp_path).model_dump()
    own["script"]["everywhere"] = ["env"]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    values = with_pool(scratch="$SCRATCH") | {"form": form, "batch_system": "own.yaml", "python": "~/my venv/python"}
    config = load_cluster(write(tmp_path, **values))
    if form == "within":
        config._within(tmp_path)._process.wait()
    else:
        script = config._worker_script("cores", "x-", where=tmp_path, comment="", number=None)
        subprocess.run(["bash", "-c", script], check=True)
    assert (tmp_path / "told").read_text() == "/local/17 /local/17 worker\n"


@pytest.mark.parametrize(("scratch", "is_told"), [("", True), ("/local/17", False)])
def test_a_scratch_that_is_empty_on_a_machine_is_told_in_its_log(tmp_path, scratch, is_told):
    config = load_cluster(write(tmp_path, **with_pool(scratch="$SCRATCH") | {"python": "true"}))
    script = config._worker_script("cores", "x-", where=tmp_path, comment="", number=None)
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "SCRATCH": scratch}, capture_output=True, text=True, check=True
    )
    told = "scratch: $SCRATCH: is empty here; /tmp is used for temporary files and patches\n"
    assert done.stderr == (told if is_told else "")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    folder = played_slurm(tmp_path, monkeypatch)
    yield folder
    end_jobs(folder)


def command(cluster, output, *more, epochs=2):
    driver = DRIVER.replace("num_epochs=80", f"num_epochs={epochs}")
    arguments = ["--preset", "tiny", "--cluster", str(cluster), "--only", "T1-lung-fold0", "--output", str(output)]
    return [sys.executable, "-c", driver, *arguments, *more]


def running(jobs):
    listed = subprocess.run(["squeue", "--all", "--states=all"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "|RUNNING|" in line]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_workers_are_jobs_that_come_when_they_are_missing_and_leave_with_the_run(tmp_path, jobs):
    cluster = write(tmp_path)
    ran = subprocess.run(command(cluster, tmp_path / "run"), capture_output=True, text=True, check=False, timeout=800)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    wait_until(lambda: running(jobs) == [], limit_s=60)
    assert {path.read_text() for path in jobs.glob("*.name")} == {next(jobs.glob("*.name")).read_text()}
    events = read_events(open_storage(str(tmp_path / "run")))
    assert next(event["machines"] for event in events if event["kind"] == "machines_missing") >= 1
    (folder,) = (tmp_path / "shared").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "auth_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_driver_that_is_killed_leaves_workers_that_end_by_themselves(tmp_path, jobs):
    cluster = write(tmp_path)
    with (tmp_path / "driver.log").open("wb") as log:
        driver = subprocess.Popen(command(cluster, tmp_path / "run", epochs=400), stdout=log, stderr=log)
    wait_until(lambda: running(jobs), limit_s=300, logs=tmp_path)
    wait_until(lambda: any((tmp_path / "run").glob("cases/*/*")), limit_s=300, logs=tmp_path)
    driver.kill()
    driver.wait()
    wait_until(lambda: running(jobs) == [], limit_s=90, logs=tmp_path)


def wait_until(condition, *, limit_s, logs=None):
    until_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until_s:
            told = [f"{path.name}: {path.read_text()[-3000:]}" for path in (logs.rglob("*.log") if logs else ())]
            pytest.fail("\n".join(told) or "in vain")
        time.sleep(0.5)


def test_what_is_left_of_a_run_is_cancelled_by_the_same_command(tmp_path, jobs, capsys):
    cluster = write(tmp_path)
    (jobs / "full").touch()
    config = load_cluster(cluster)
    run = RunName(output=str(tmp_path / "run"), study="x")
    folder = tmp_path / "shared"
    folder.mkdir()
    workers = config._workers(run, folder)
    workers.ask({Resources(cpus=1): 2}, present={})
    wait_until(workers.waiting, limit_s=30)
    # As if the driver had died.
    workers._ended.set()
    (jobs / "2.stays").touch()
    assert main(["--cluster", str(cluster), "--output", str(tmp_path / "run"), "--down"]) == 1
    told = capsys.readouterr()
    assert "1 jobs cancelled" in told.out
    assert "1 jobs could not be cancelled, as said above; expected all. Try the same command again" in told.err
    (jobs / "2.stays").unlink()
    assert main(["--cluster", str(cluster), "--output", str(tmp_path / "run"), "--down"]) == 0
    told = capsys.readouterr().out
    assert "1 jobs cancelled" in told
    assert "Where the command itself still runs, end it as well (Ctrl-C): it asks for machines again" in told
    assert main(["--cluster", str(cluster), "--output", str(tmp_path / "run"), "--down"]) == 0
    assert "0 jobs cancelled" in capsys.readouterr().out


def test_a_driver_job_is_followed_and_its_end_is_the_commands(tmp_path, jobs, capsys, monkeypatch):
    """The Python of the jobs is played: it says what it was asked for and ends with 1."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\nexit 1\n')
    python.chmod(0o755)
    head = {"time_limit_minutes": 60, "cpus": 2, "partition": "cpu"}
    cluster = write(tmp_path, head=head, python=str(python))
    assert main(["--cluster", str(cluster), "--output", str(tmp_path / "run"), "--only", "T1-lung"]) == 1
    shown = capsys.readouterr().out
    assert "job 1: submitted as orchestrator-" in shown
    assert f"-m orchestrator.run_all --output {tmp_path}/run --preset smoke --seed 0 --only T1-lung" in shown
    (folder,) = (tmp_path / "shared").iterdir()
    inner = load_cluster(folder / "driver.yaml")
    assert (inner.head, inner.form, inner.is_elsewhere) == (None, "workers", False)
    assert "#SBATCH --partition=cpu" in (folder / "driver.sh").read_text()
    assert "#SBATCH --signal=B:USR1@120" in (folder / "driver.sh").read_text()
    assert "#SBATCH --dependency=singleton" in (folder / "driver.sh").read_text()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("S3://bucket/x", "S3://bucket/x: not a storage location; expected a folder, or s3://"),
        ("s3://KEY:geheim@bucket/x", "s3://...: holds @ or ?, as locations with keys or signatures do"),
    ],
)
def test_an_output_that_can_be_none_is_refused_before_a_job_is_submitted(tmp_path, jobs, capsys, output, message):
    cluster = write(tmp_path, head={"time_limit_minutes": 60})
    assert main(["--cluster", str(cluster), "--output", output]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "geheim" not in told
    assert list(jobs.iterdir()) == []


def test_a_sweep_is_a_driver_job_as_well_and_is_ended_by_its_own_command(tmp_path, jobs, capsys):
    python, space = tmp_path / "python", tmp_path / "rates.yaml"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    space.write_text("initial_learning_rate: {loguniform: [1e-4, 1e-1]}\n")
    cluster = write(tmp_path, head={"time_limit_minutes": 60}, python=str(python))
    asked = ["--only", "T1-lung-fold0", "--space", str(space), "--trials", "3", "--max-hours", "2"]
    asked += ["--cluster", str(cluster), "--output", str(tmp_path / "run")]
    assert sweep([*asked, "--down"]) == 0
    assert "0 jobs cancelled" in capsys.readouterr().out
    assert sweep(asked) == 0
    shown = capsys.readouterr().out
    assert f"-m orchestrator sweep --output {tmp_path}/run --preset smoke --seed 0 --only T1-lung-fold0" in shown
    assert f"--space {space} --name rates --max-hours 2.0 --trials 3 --sampler random --stopping asha" in shown
    # A folder, and so jobs, of its own: a run with this output is another one.
    assert main(["--cluster", str(cluster), "--output", str(tmp_path / "run"), "--only", "T1-lung"]) == 0
    assert len(list((tmp_path / "shared").iterdir())) == 2


def test_a_driver_job_that_is_there_is_attached_to(tmp_path, jobs, capsys):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho begun\nsleep 20\n")
    python.chmod(0o755)
    cluster = write(tmp_path, head={"time_limit_minutes": 60}, python=str(python))
    arguments = ["--cluster", str(cluster), "--output", str(tmp_path / "run")]
    first = [sys.executable, "-m", "orchestrator.run_all", *arguments]
    with subprocess.Popen(first, stdout=subprocess.DEVNULL) as watcher:
        wait_until(lambda: running(jobs), limit_s=60)
        assert main([*arguments, "--preset", "quick", "--seed", "5"]) == 2
        refused = capsys.readouterr().err
        assert main(arguments) == 0
        assert watcher.wait(timeout=60) == 0
    shown = capsys.readouterr().out
    asked = f"orchestrator.run_all --output {tmp_path}/run --preset"
    assert f"job 1: {tmp_path}/run is at work with: {asked} smoke --seed 0; expected the same, to attach" in refused
    assert f"and found: {asked} quick --seed 5. Wait until it has ended, end it with --down, or give another" in refused
    assert "job 1: there already, attached" in shown
    assert "begun\n" in shown
    assert len(list(jobs.glob("*.sh"))) == 1


def test_a_driver_job_that_vanishes_is_told(tmp_path, jobs, capsys, monkeypatch):
    monkeypatch.setattr(batch_driver, "LATE_S", 1.0)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -9 $PPID\n")
    python.chmod(0o755)
    cluster = write(tmp_path, head={"time_limit_minutes": 60}, python=str(python))
    assert main(["--cluster", str(cluster), "--output", str(tmp_path / "run")]) == 1
    assert "the job of the driver has ended without an exit code" in capsys.readouterr().err
