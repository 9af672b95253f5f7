"""A batch system that is played: three commands on the path, which start the scripts as processes of this machine."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

COMMANDS = {
    "sbatch": """
number = len(list(JOBS.glob("*.sh"))) + 1
text = Path(sys.argv[-1]).read_text()
(JOBS / f"{number}.sh").write_text(text)
def option(name, default=""):
    if told := os.environ.get("SBATCH_" + name.upper().replace("-", "_")):
        return told
    return next((word.partition("=")[2].strip('"') for line in text.splitlines() if line.startswith("#SBATCH")
                 for word in shlex.split(line)[1:] if word.startswith(f"--{name}=")), default)
if option("partition") == "nowhere":
    sys.exit("sbatch: error: invalid partition specified: nowhere")
(JOBS / f"{number}.account").write_text(option("account"))
parts = [f"{number}_{part + 1}" for part in range(int(option("array", "1-0").partition("-")[2]))] or [str(number)]
partition = f"--partition={option('partition')}\\n"
for limit, counted in ((JOBS / "limit", ""), (JOBS / f"limit-{option('partition')}", partition)):
    scripts = [(JOBS / f"{path.stem.partition('_')[0]}.sh").read_text() for path in JOBS.glob("*.name")]
    taken = [script for script in scripts if counted in script]
    if limit.exists() and len(taken) + len(parts) > int(limit.read_text()):
        sys.exit("sbatch: error: QOSMaxSubmitJobPerUserLimit")
for count, part in enumerate(parts):
    (JOBS / f"{part}.name").write_text(option("job-name"))
    # Of an array, each has a number of its own as well.
    values = {"j": str(number + 100 * count), "A": str(number), "a": part.partition("_")[2], "%": "%"}
    log = re.sub("%(.)", lambda found: values[found[1]], option("output"))
    if (JOBS / "full").exists():
        (JOBS / f"{part}.waits").write_text(log)
    else:
        start(part, log)
print(number)
""",
    "squeue": """
if (JOBS / "away").exists():
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
if (JOBS / "hidden").exists() or os.environ.get("SQUEUE_PARTITION") or not {"--all", "--states=all"} <= set(sys.argv):
    sys.exit()
if (JOBS / "latin").exists():
    sys.stdout.buffer.write(b"999|RUNNING|None|Pr\\xfcfung\\n")
    sys.stdout.flush()
for path in sorted(JOBS.glob("*.name"), key=lambda path: [int(one) for one in path.stem.split("_")]):
    number = path.stem
    if (JOBS / f"{number}.waits").exists():
        print(f"{number}|PENDING|Resources|{path.read_text()}")
    elif is_running(number):
        state = "SUSPENDED" if (JOBS / "suspended").exists() else "RUNNING"
        print(f"{number}|{state}|None|{path.read_text()}")
""",
    "scancel": """
if (JOBS / f"{sys.argv[1]}.stays").exists():
    sys.exit("scancel: error: Kill job error: Access/permission denied")
(JOBS / f"{sys.argv[1]}.cancelled").touch()
for number in [path.stem for path in JOBS.glob("*.name") if sys.argv[1] in (path.stem, path.stem.partition("_")[0])]:
    (JOBS / f"{number}.waits").unlink(missing_ok=True)
    if is_running(number):
        os.kill(int((JOBS / f"{number}.pid").read_text()), signal.SIGTERM)
""",
}

COMMON = """#!{python}
import os, re, shlex, signal, subprocess, sys
from pathlib import Path
JOBS = Path({jobs!r})

def start(number, log):
    script = str(JOBS / f"{{number.partition('_')[0]}}.sh")
    with open(log, "ab") as file:
        job = subprocess.Popen(["bash", script], stdin=subprocess.DEVNULL, stdout=file,
                               stderr=subprocess.STDOUT, start_new_session=True)
    (JOBS / f"{{number}}.pid").write_text(str(job.pid))

def is_running(number):
    try:
        pid = int((JOBS / f"{{number}}.pid").read_text())
        return Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
"""


def played_slurm(folder: Path, monkeypatch) -> Path:
    """Put the commands on the path; returns the folder of their jobs. A file `full` in it keeps new ones waiting.

    Variables such as SBATCH_ACCOUNT go before what a script says, as in Slurm.
    With a file `limit` no more jobs are taken than it says, with `limit-PARTITION` no more for that one, with `hidden`
    none is listed, with `suspended` none runs, with `away` there is no list, and with `latin` a job is in it whose name
    is not UTF-8.
    """
    jobs, programs = folder / "jobs", folder / "bin"
    jobs.mkdir()
    programs.mkdir()
    for name, text in COMMANDS.items():
        path = programs / name
        path.write_text(COMMON.format(python=sys.executable, jobs=str(jobs)) + text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return jobs


def end_jobs(jobs: Path) -> None:
    """End what still runs."""
    for path in jobs.glob("*.pid"):
        with suppress(ProcessLookupError, ValueError):
            os.killpg(int(path.read_text()), signal.SIGKILL)
