"""Slurm's own daemons on this machine: a controller and two nodes on the loopback interface, with folders of a test."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
SlurmdPort={node_1}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/node-%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/node-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=15
ReturnToService=2
SlurmdTimeout=20
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_1} CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_2} CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=short Nodes=n1,n2 Default=YES MaxTime=3 State=UP
PartitionName=long Nodes=n1,n2 MaxTime=60 State=UP
"""


def why_not():
    """Return why they cannot be started here; empty if they can."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "squeue") if shutil.which(name) is None]
    if missing:
        return f"{missing[0]} is not installed (Debian's slurmctld, slurmd and slurm-client)"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root only"


def command(*words):
    """Return what a command of Slurm answers."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@contextmanager
def slurm(folder: Path, monkeypatch):
    """Start them, and let this process and its children use them; ends all that was started, jobs included."""
    ports = {name: _free_port() for name in ("controller", "node_1", "node_2")}
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir(parents=True)
    names = {"host": socket.gethostname(), "user": getpass.getuser(), "folder": folder}
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**ports, **names))
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    daemons = []
    try:
        for words in (["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            with (folder / f"{words[-1]}.out").open("wb") as log:
                daemons.append(subprocess.Popen([words[0], "-D", *words[1:]], stdout=log, stderr=log))
        _wait_for_nodes(folder)
        yield
    finally:
        for job in command("squeue", "-h", "-o", "%i").split():
            subprocess.run(["scancel", "--signal=KILL", "--full", job], check=False)
        time.sleep(2)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=60)


def _wait_for_nodes(folder):
    for _ in range(120):
        states = ["sinfo", "-h", "-N", "-p", "long", "-o", "%T"]
        if subprocess.run(states, capture_output=True, text=True, check=False).stdout.split() == ["idle", "idle"]:
            return
        time.sleep(0.5)
    raise AssertionError("\n".join(path.read_text() for path in folder.glob("*.log")))


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
