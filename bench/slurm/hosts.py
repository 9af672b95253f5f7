"""Slurm's own daemons on hosts of one machine: a login host with the controller, and nodes with a slurmd each.

All hosts see the same files but for `/tmp`, as machines do that share a home. No packet finds a way out. It needs root,
and Debian's slurmctld, slurmd and slurm-client.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.chaos.cluster import kill, title
from bench.instruments.network_hosts import SUBNET, Host, Network, missing
from bench.smoke import descendants

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
LOGIN, NODES = "login", {"n1": 11, "n2": 12}
"""Names of hosts, and of nodes to the last part of their addresses."""
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={login}({subnet}.1)
SlurmUser=root
SlurmdUser=root
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
SlurmdParameters=config_overrides
KillWait=15
ReturnToService=2
SlurmdTimeout=20
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=short Nodes=ALL Default=YES MaxTime=3 State=UP
PartitionName=long Nodes=ALL MaxTime=120 State=UP
"""
NODE = "NodeName={name} NodeHostname={name} NodeAddr={subnet}.{number} CPUs=2 RealMemory=8000 State=UNKNOWN"
START_S = 60.0


def why_not() -> str:
    """Return why they cannot be started here; empty if they can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{absent[0]} is not installed (Debian's slurmctld, slurmd and slurm-client)"
    return missing()


class SlurmHosts:
    """A login host and nodes."""

    def __init__(self, base: Path) -> None:
        """Start them.

        Parameters
        ----------
        base
            An empty folder outside of `/tmp`.
        """
        self.base = base
        self.home = base / "home"
        self.home.mkdir()
        self._network = Network()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        folder = base / "slurm"
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (folder / name).mkdir(parents=True)
        nodes = "\n".join(NODE.format(name=name, number=number, subnet=SUBNET) for name, number in NODES.items())
        self._configuration = folder / "slurm.conf"
        self._configuration.write_text(
            CONFIGURATION.format(login=LOGIN, subnet=SUBNET, folder=folder, nodes=nodes), encoding="utf-8"
        )
        addresses = {"127.0.0.1": "localhost", f"{SUBNET}.1": LOGIN}
        addresses |= {f"{SUBNET}.{number}": name for name, number in NODES.items()}
        (base / "hosts").write_text("".join(f"{address} {name}\n" for address, name in addresses.items()))
        self.login = self._host(LOGIN, 1)
        self.nodes: dict[str, Host] = {}
        self._start_daemon(self.login, "slurmctld", "-D")
        for name in NODES:
            self.start_node(name)

    def close(self) -> None:
        """End every host, and with it all that runs there."""
        for host in (*self.nodes.values(), self.login):
            host.kill()
        for daemon in self._daemons.values():
            daemon.wait()
        self._network.close()

    def start_node(self, name: str) -> None:
        """Start a node, or what is missing of it: the host, and its slurmd."""
        if name not in self.nodes or not self.nodes[name].is_alive:
            self.nodes[name] = self._host(name, NODES[name])
        self._start_daemon(self.nodes[name], "slurmd", "-D", "-N", name)

    def kill_slurmd(self, name: str) -> None:
        """Kill the daemon of a node; its jobs go on until the controller gives the node up."""
        for pid in descendants(self._daemons[name].pid):
            if title(pid).startswith("slurmd"):
                kill(pid)

    def environment(self, **more: str) -> Mapping[str, str]:
        """Return that of a user on the login host."""
        kept = {name: os.environ[name] for name in ("LANG", "NUMBA_CACHE_DIR") if name in os.environ}
        paths = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        root = str(Path(__file__).resolve().parents[2])
        own = {"PATH": paths, "HOME": str(self.home), "PYTHONPATH": root, "USER": "root"}
        return {**kept, **own, "SLURM_CONF": str(self._configuration), **more}

    def call(self, *words: str) -> str:
        """Return what a command says on the login host."""
        command = self.login.inside(list(words))
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(self.environment()))
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def start(self, words: Sequence[str], *, log: Path, **more: str) -> subprocess.Popen[bytes]:
        """Start a command on the login host; its output is appended to a file."""
        with log.open("ab") as file:
            return self.login.start(list(words), environment=self.environment(**more), output=file)

    def jobs(self) -> list[tuple[str, str, str, str]]:
        """Return id, state, name and node of all jobs that wait or run."""
        lines = self.call("squeue", "-h", "-a", "-r", "-o", "%i|%T|%j|%N").splitlines()
        return [(job, state, name, node) for job, state, name, node in (line.split("|") for line in lines)]

    def wait_for_nodes(self) -> None:
        """Wait until the controller has heard of all nodes; raises RuntimeError if that takes too long."""
        until_s = time.monotonic() + START_S
        states: list[str] = []
        while time.monotonic() < until_s:
            try:
                states = self.call("sinfo", "-h", "-N", "-p", "long", "-o", "%T").split()
            except RuntimeError as error:
                states = [str(error)]
            if states == ["idle"] * len(NODES):
                return
            time.sleep(0.5)
        logs = "\n".join(path.read_text() for path in sorted((self.base / "slurm").glob("*.log")))
        raise RuntimeError(f"the nodes are {states}; expected idle ones. Their logs: {logs}")

    def _start_daemon(self, host: Host, *words: str) -> None:
        before = self._daemons.pop(host.name, None)
        if before is not None:
            before.wait()
        with (self.base / "slurm" / f"{host.name}.out").open("ab") as log:
            self._daemons[host.name] = host.start(list(words), environment=self.environment(), output=log)

    def _host(self, name: str, number: int) -> Host:
        mounted = self.base / "scratch"
        host = Host(self._network, name=name, number=number, folder=self.base / f"scratch-{name}", mounted_at=mounted)
        # By the route to others Ray learns its address; packets for them end at the bridge.
        host.call("ip", "route", "add", "default", "dev", "eth0")
        temporary = self.base / f"temporary-{name}"
        temporary.mkdir(exist_ok=True)
        temporary.chmod(0o1777)
        host.call("mount", "--bind", str(temporary), "/tmp")
        host.call("mount", "--bind", str(self.base / "hosts"), "/etc/hosts")
        return host


@contextmanager
def slurm_hosts(base: Path) -> Iterator[SlurmHosts]:
    """Context with hosts whose nodes are idle; nothing of them is left afterwards."""
    hosts = SlurmHosts(base)
    try:
        hosts.wait_for_nodes()
        yield hosts
    finally:
        hosts.close()
