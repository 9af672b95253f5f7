"""The head of a run's Ray on this machine, for machines that join it: it ends with the driver, however that ends."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.cluster.environment import create_token, token_path
from orchestrator.errors import ClusterError, ConfigError

HEAD_FILE, TOKEN_FILE, LOG_FILE = "head.json", "auth_token", "head.log"
"""In the folder of a run that all of its machines see."""
AGENT = "orchestrator.ray_backend.node_agent"
START_LIMIT_S = 120.0
STOP_S = 30.0


def private_folder(path: Path) -> Path:
    """Make a folder for this user alone; raises ConfigError if it cannot be, or belongs to somebody else."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.geteuid():
            raise ConfigError(f"{path}: belongs to user {status.st_uid}; expected a folder of this user")
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a folder that all machines of the run see") from error
    return path


def address_here() -> str:
    """Return the address of this machine on the way to others; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address


@contextmanager
def serving_head(folder: Path, *, address: str | None) -> Iterator[str]:
    """Context with a Ray whose head is this machine; yields HOST:PORT.

    Parameters
    ----------
    folder
        Of the run, seen by all machines: what they need to join is there.
    address
        Of this machine, for the others; None for the one on its usual way to them.

    Raises
    ------
    ClusterError
        If Ray does not start.
    """
    token = folder / TOKEN_FILE
    token.unlink(missing_ok=True)
    if token_path().exists():
        descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(token_path().read_bytes())
    else:
        create_token(token)
    (folder / HEAD_FILE).unlink(missing_ok=True)
    command = [sys.executable, "-m", AGENT, "head", "--folder", str(folder), "--address", address or address_here()]
    with (folder / LOG_FILE).open("wb") as log:
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


def _wait_for(agent: "subprocess.Popen[bytes]", folder: Path) -> str:
    until_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until_s and agent.poll() is None:
        with suppress(OSError, ValueError, KeyError):
            address = str(json.loads((folder / HEAD_FILE).read_text())["address"])
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=5):
                return address
        time.sleep(0.2)
    told = (folder / LOG_FILE).read_text(errors="replace").strip().splitlines()[-5:]
    raise ClusterError(f"Ray does not start on this machine: {' / '.join(told) or 'it says nothing'}")
