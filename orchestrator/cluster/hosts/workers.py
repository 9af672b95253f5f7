"""Hosts that work for a run: each is asked and started in a thread of its own, and again once it is lost."""

import logging
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from orchestrator.cluster.hosts.facts import HostFacts
from orchestrator.cluster.log_lines import last_words
from orchestrator.cluster.node_pool import Resources

logger = logging.getLogger(__name__)

END_S = 20.0
"""Time that a host has to end its Ray after it was told so."""


class HostWorkers:
    """All hosts of a cluster file, as long as this."""

    def __init__(
        self,
        commands: Mapping[str, Callable[[HostFacts], list[str]]],
        *,
        ask: Callable[[str], HostFacts | str],
        first: Mapping[str, HostFacts | str],
        folder: Path,
        retry_s: float,
    ) -> None:
        """Start all that have answered.

        Parameters
        ----------
        commands
            Host to the command that is a machine of the run as long as its standard input is open.
        ask
            Asks a host that was lost once more.
        first
            What each has said already.
        folder
            For their logs.
        retry_s
            Time until a host that is lost, or does not answer, is asked again.
        """
        self._commands = dict(commands)
        self._ask = ask
        self._folder = folder
        self._retry_s = retry_s
        self._lost: dict[str, str] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep_up, args=(host, first[host]), name=f"host {host}", daemon=True)
            for host in self._commands
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, missing: Mapping[Resources, int], *, present: Mapping[Resources, int]) -> None:
        """Do nothing: all hosts are asked for all the time."""

    def waiting(self) -> Mapping[str, int]:
        """Return the hosts that are lost, and why."""
        with self._lock:
            return {f"{host}: {reason}": 1 for host, reason in self._lost.items()}

    def close(self) -> None:
        """End them."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _keep_up(self, host: str, facts: HostFacts | str) -> None:
        while not self._ended.is_set():
            if isinstance(facts, HostFacts):
                with self._lock:
                    self._lost.pop(host, None)
            else:
                logger.warning("host %s: %s", host, facts)
                with self._lock:
                    self._lost[host] = facts
                if self._ended.wait(self._retry_s):
                    return
            try:
                facts = self._work(host, facts) if isinstance(facts, HostFacts) else self._ask(host)
            except OSError as error:  # no process can be started here, or the folder of the logs is gone or full
                facts = f"cannot be looked after from this machine ({error})"

    def _work(self, host: str, facts: HostFacts) -> str:
        """Let a host work until it is lost or told to end; returns why it is lost."""
        path = self._folder / f"worker-{host}.log"
        with path.open("ab") as log:
            process = subprocess.Popen(
                self._commands[host](facts), stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        while process.poll() is None and not self._ended.wait(1.0):
            pass
        # Closes its standard input.
        with suppress(OSError, subprocess.TimeoutExpired):
            process.communicate(timeout=END_S)
        if process.poll() is None:
            process.kill()
            process.wait()
        return f"lost ({last_words(path, num_lines=1)[-200:]})"
