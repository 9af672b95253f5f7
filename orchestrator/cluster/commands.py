"""Commands that are run on this machine."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import ClusterError
from orchestrator.processes import end_group

STOP_S = 10
"""Time that a background command has to end before it is killed."""
RESTART_PAUSE_S = 5.0
"""Before a background command that has ended by itself is started again."""


class ShellCommands:
    """Runs commands as processes of this machine."""

    def call(self, command: Sequence[str]) -> None:
        """Run to the end, its output on the terminal; raises ClusterError if it fails."""
        try:
            result = subprocess.run(command, check=False)
        except OSError as error:
            raise ClusterError(f"{' '.join(command)}: could not be started ({error})") from error
        if result.returncode != 0:
            raise ClusterError(f"{' '.join(command)}: failed with exit code {result.returncode}; its output is above")

    @contextmanager
    def background(self, command: Sequence[str]) -> Iterator[None]:
        """Run as long as the context lasts; its children (the SSH of a tunnel) end with it.

        SSH gives up where a network is away for a while; once it has ended, the command is started again.
        """
        has_ended = threading.Event()
        process = _start(command)

        def keep_up() -> None:
            nonlocal process
            while not has_ended.wait(RESTART_PAUSE_S):
                if process.poll() is not None:
                    process = _start(command)

        keeper = threading.Thread(target=keep_up, daemon=True)
        keeper.start()
        try:
            yield
        finally:
            has_ended.set()
            keeper.join()
            end_group(process, within_s=STOP_S)


def ray_command(*arguments: str) -> tuple[str, ...]:
    """Return the command line of the `ray` that belongs to this Python."""
    return (str(Path(sys.executable).with_name("ray")), *arguments)


def free_port() -> int:
    """Return a port of this machine's loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
