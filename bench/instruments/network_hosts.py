"""Hosts on one machine that share nothing but its files: each has namespaces of its own for network and processes.

A host is an init process in fresh network, PID, mount and UTS namespaces. Its cable is a pair of virtual network cards,
the other end of which is plugged into a bridge; the bridge is in a network namespace of its own, so that no packet
finds a way out. Nothing outlives the process that has made a network: every namespace ends with its last process, and
those are killed when their parent dies.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.smoke import descendants

PROGRAMS = ("ip", "unshare", "nsenter", "setpriv")
SUBNET = "10.77.0"
WAIT_S = 30.0
"""Longest time for a namespace to be there."""
_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
_UNSHARE_HOST = ("--net", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "--kill-child=KILL")
# Shared memory of its own ends with the host; the shell takes in orphans, which would stay zombies otherwise.
_INIT = """
set -e
hostname "$1"
mount --bind "$2" "$3"
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
echo ready
exec > /dev/null
while :; do sleep 1000 & wait $! || :; done
"""


def missing() -> str:
    """Return why this machine cannot have such hosts; empty if it can."""
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"network namespaces need the programs {', '.join(PROGRAMS)}; {', '.join(absent)} not found"
    tried = subprocess.run(["unshare", *_UNSHARE_HOST, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces need root: {tried.stderr.strip() or 'unshare failed'}"
    return ""


class Network:
    """A bridge and what is plugged into it."""

    def __init__(self) -> None:
        shell = ["sh", "-c", "echo ready; exec sleep infinity"]
        self._process = _started([*_WITH_PARENT, "unshare", "--net", *shell])
        self._num_ports = 0
        self.call("ip", "link", "add", "bridge", "type", "bridge")
        self.call("ip", "link", "set", "bridge", "up")

    def plug(self, pid: int) -> str:
        """Give the network namespace of a process a card `eth0`; returns the name of the port that it hangs on."""
        self._num_ports += 1
        port = f"port{self._num_ports}"
        self.call("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self.call("ip", "link", "set", port, "master", "bridge", "up")
        return port

    def call(self, *command: str) -> None:
        """Call a program beside the bridge."""
        _call(["nsenter", "--net", "--target", str(self._process.pid), *command])

    def close(self) -> None:
        """Take the bridge away."""
        self._process.kill()
        self._process.wait()


class Host:
    """One host of a network."""

    def __init__(self, network: Network, *, name: str, number: int, folder: Path, mounted_at: Path) -> None:
        """Start it.

        Parameters
        ----------
        network
            Where it is plugged in.
        name
            Its host name.
        number
            Last part of its address, 1 to 254; a later host of the same number takes the place of this one.
        folder
            Folder of its own, which it sees at `mounted_at`, as every host sees its own one there.
        """
        self.name = name
        self.address = f"{SUBNET}.{number}"
        self.is_cut = False
        self._network = network
        folder.mkdir(parents=True, exist_ok=True)
        mounted_at.mkdir(parents=True, exist_ok=True)
        init = ["bash", "-c", _INIT, "init", name, str(folder), str(mounted_at)]
        self._process = _started([*_WITH_PARENT, "unshare", *_UNSHARE_HOST, *init])
        self._init = descendants(self._process.pid)[1]
        self._port = network.plug(self._init)
        # The same for every host of this address, so that nobody has to learn it anew.
        self.call("ip", "link", "set", "eth0", "address", f"02:00:00:00:00:{number:02x}", "up")
        self.call("ip", "address", "add", f"{self.address}/24", "dev", "eth0")

    @property
    def is_alive(self) -> bool:
        """Whether it has not been killed."""
        return self._process.poll() is None

    def pids(self) -> list[int]:
        """Return the processes of the host but for its init, as this machine numbers them."""
        return [pid for pid in descendants(self._init) if pid != self._init] if self.is_alive else []

    def inside(self, command: list[str]) -> list[str]:
        """Return the command that carries this one out on the host, in the working directory of the caller."""
        namespaces = ["--net", "--mount", "--pid", "--uts"]
        return ["nsenter", *namespaces, f"--wd={Path.cwd()}", "--target", str(self._init), *command]

    def call(self, *command: str) -> None:
        """Call a program on the host and wait for its end."""
        _call(self.inside(list(command)))

    def start(self, command: list[str], *, environment: Mapping[str, str], output: Any) -> subprocess.Popen[bytes]:
        """Start a program on the host; the process that is returned is outside and waits for it."""
        return subprocess.Popen(self.inside(command), env=environment, stdout=output, stderr=subprocess.STDOUT)

    def cut(self) -> None:
        """Pull the cable out."""
        self._network.call("ip", "link", "set", self._port, "down")
        self.is_cut = True

    def mend(self) -> None:
        """Put the cable in again."""
        self._network.call("ip", "link", "set", self._port, "up")
        self.is_cut = False

    def end_processes(self) -> None:
        """Kill all that runs on the host; the host itself stays."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill the host: its init, and with it the kernel kills all that runs on it."""
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)
        self._process.wait()


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a process that says when it is ready; raises RuntimeError if it ends before."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    with process.stdout as said:
        if said.readline().strip() != b"ready":
            process.kill()
            raise RuntimeError(f"{' '.join(command)} ended with exit code {process.wait()}; expected a namespace")
    return process


def _call(command: list[str]) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ran.stderr.strip()}")


def wait_until_gone(pids: list[int]) -> None:
    """Wait until none of these processes is there any more; raises RuntimeError if that takes too long."""
    until_s = time.monotonic() + WAIT_S
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > until_s:
            raise RuntimeError(f"processes {alive} are still there {WAIT_S:g} s after they were killed")
        time.sleep(0.05)
