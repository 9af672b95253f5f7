"""The head of a run's Ray on this machine, for machines that join it: it ends with the driver, however that ends."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from orchestrator.cluster.environment import create_token, token_path
from orchestrator.cluster.log_lines import last_words
from orchestrator.errors import ClusterError, ConfigError

HEAD_FILE, TOKEN_FILE, LOG_FILE = "head.json", "auth_token", "head.log"
"""In the folder of a run that all of its machines see."""
JOINED = "has joined the head of the run"
"""In the log of a worker."""
AGENT = "orchestrator.ray_backend.node_agent"
ELSEWHERE = "10.255.255.254"
"""Of no machine in most networks, on the usual way to others; the last one of 10.0.0.0/8 would be for all of them."""
START_LIMIT_S = 120.0
STOP_S = 30.0


def private_folder(path: Path) -> Path:
    """Make a folder for this user alone; raises ConfigError if it cannot be, or belongs to somebody else."""
    with in_folder_of_all(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.geteuid():
            raise ConfigError(f"{path}: belongs to user {status.st_uid}; expected a folder of this user")
        path.chmod(0o700)
    return path


@contextmanager
def in_folder_of_all(path: Path) -> Iterator[None]:
    """Context that writes a file or folder which all machines see; raises ConfigError where that cannot be."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; expected a folder that all machines of the run see, with room for its files"
        ) from error


def own_address(said: str | None) -> str:
    """Return the address of this machine for others; nothing is sent.

    Parameters
    ----------
    said
        What the cluster file says: the address, or a network such as 192.168.4.0/24, in which this machine has one.
        None for the address on its usual way to others.

    Raises
    ------
    ConfigError
        If there is no way to others, or this machine has no address in the network.
    """
    if said is not None and "/" not in said:
        return said
    network = IPv4Network(said, strict=False) if said is not None else None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(network[1] if network and network.num_addresses > 1 else ELSEWHERE), 1))
        except OSError as error:
            raise ConfigError(
                f"this machine knows no way to others ({error.strerror}); expected `address` in the cluster file: that "
                "of this machine, or a network such as 192.168.4.0/24; 127.0.0.1 if there are no others"
            ) from error
        address: str = probe.getsockname()[0]
    if network and IPv4Address(address) not in network:
        raise ConfigError(f"address: {said}: this machine is {address} on the way there; expected one in that network")
    return address


@contextmanager
def serving_head(folder: Path, *, address: str | None) -> Iterator[str]:
    """Context with a Ray whose head is this machine; yields HOST:PORT.

    Parameters
    ----------
    folder
        Of the run, seen by all machines: what they need to join is there.
    address
        Of this machine, for the others, as `own_address` takes it.

    Raises
    ------
    ClusterError
        If Ray does not start.
    ConfigError
        If the folder cannot be written to, or this machine has no such address.
    """
    command = [sys.executable, "-m", AGENT, "head", "--folder", str(folder), "--address", own_address(address)]
    with in_folder_of_all(folder):
        _write_token(folder / TOKEN_FILE)
        (folder / HEAD_FILE).unlink(missing_ok=True)
        log = (folder / LOG_FILE).open("wb")
    with log:
        # The agent ends when this process does and with it the pipe. Ctrl-C is for the driver alone.
        agent = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield _wait_for(agent, folder)
    finally:
        (folder / HEAD_FILE).unlink(missing_ok=True)
        if agent.stdin:
            agent.stdin.close()
        try:
            agent.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


def head_address(folder: Path) -> str:
    """Return HOST:PORT of the head of a run; raises OSError, ValueError or KeyError as long as none has said it."""
    return str(json.loads((folder / HEAD_FILE).read_text())["address"])


def _write_token(path: Path) -> None:
    """Write a copy of this user's token, or a new one, which only this user can read."""
    path.unlink(missing_ok=True)
    if not token_path().exists():
        create_token(path)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(token_path().read_bytes())


def _wait_for(agent: "subprocess.Popen[bytes]", folder: Path) -> str:
    until_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until_s and agent.poll() is None:
        with suppress(OSError, ValueError, KeyError):
            address = head_address(folder)
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=5):
                return address
        time.sleep(0.2)
    raise ClusterError(f"Ray does not start on this machine: {last_words(folder / LOG_FILE, num_lines=5)}")
