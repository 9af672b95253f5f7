"""One machine of a run's Ray from its start to its end, below a batch system: part of the one door to Ray.

The head serves as long as the driver holds its standard input open. A worker joins the head, is drained before its time
is up or when it is warned, and ends by itself once it is drained or the head is gone.
"""

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.cluster.commands import free_port, ray_command
from orchestrator.cluster.environment import AUTH_TOKEN, FOR_WORKERS, RAY_TEMPORARY, TEMPORARY, use_token
from orchestrator.cluster.ray_head import HEAD_FILE, JOINED, TOKEN_FILE, head_address
from orchestrator.processes import end_group
from orchestrator.ray_backend.embedded import (
    LONGEST_SOCKET,
    OBJECT_STORE_BYTES,
    RAY_FOLDER,
    read_authentication_again,
)
from orchestrator.ray_backend.nodes import DRAINED_AT
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json
from orchestrator.storage.json_values import JsonMapping
from orchestrator.storage.private_folder import CACHES, run_folder

LOOK_EVERY_S, FIRST_LOOKS_EVERY_S = 2.0, 0.5
"""Time between two looks at Ray, and until a head is there."""
HEAD_WITHIN_S = 60.0
"""Longest wait of a worker for a head: the files of a shared folder may be seen late."""
HEAD_LOST_S = 20.0
"""Time without an answer after which the head is gone."""
START_TRIES = 3
"""Ray gives up where its own processes are not there within 15 s. Their files come from a slow shared folder, or the
machine is busy: the next time the files are in its memory."""
END_S = 5.0
"""Time that Ray's processes have to end before they are killed."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.ray_backend.node_agent", description=__doc__)
    add = parser.add_argument
    add("role", choices=("head", "worker"))
    add("--folder", type=Path, required=True, help="folder of the run")
    add("--while-input", action="store_true", help="end with the standard input, as a head does")
    add("--address", help="of this machine, for the others; unless given, what Ray finds")
    add("--num-cpus", type=int, default=0, help="for stages")
    add("--num-gpus", type=int, default=0, help="likewise")
    add("--memory-gib", type=float, help="for stages; unless given, that of the machine")
    add("--limit-s", type=float, default=float("inf"), help="time from the start of the job until its end")
    add("--spent-s", type=float, default=0.0, help="part of it that has passed")
    add("--drain-s", type=float, default=120.0, help="time before the end, or after a warning, to save what runs")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Be a machine until there is no reason to be one any more; returns 0, or 1 if Ray has failed."""
    options = build_parser().parse_args(arguments)
    warned = threading.Event()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: warned.set())
    os.environ.pop(AUTH_TOKEN, None)
    if options.while_input or options.role == "head":
        threading.Thread(target=_wait_for_end_of_input, args=(warned,), daemon=True).start()
    use_token(options.folder / TOKEN_FILE)
    read_authentication_again()
    return _head(options, warned) if options.role == "head" else _worker(options, warned)


def _head(options: argparse.Namespace, warned: threading.Event) -> int:
    for num_left in reversed(range(START_TRIES)):
        address = f"{options.address or '127.0.0.1'}:{free_port()}"
        with _ray(_head_arguments(address)) as process:
            if _becomes_head(process, address, warned):
                told = {"address": address, "pid": os.getpid()}
                write_json(open_storage(str(options.folder)), HEAD_FILE, told)
                while process.poll() is None and not warned.wait(LOOK_EVERY_S):
                    pass
                break
        if warned.is_set():
            break
        # What Ray said is its reason, and remains the last that is said.
        if num_left:
            _say("Ray has ended before it was a head: it is started once more")
    return 0 if warned.is_set() else 1


def _head_arguments(address: str) -> list[str]:
    host, _, port = address.rpartition(":")
    arguments = ["--head", f"--port={port}", f"--node-ip-address={host}", "--num-cpus=0", "--num-gpus=0"]
    arguments += ["--dashboard-host=127.0.0.1", f"--dashboard-port={free_port()}"]
    return [*arguments, f"--ray-client-server-port={free_port()}"]


def _becomes_head(process: "subprocess.Popen[bytes]", address: str, warned: threading.Event) -> bool:
    while process.poll() is None and not warned.wait(FIRST_LOOKS_EVERY_S):
        with suppress(Exception):  # Ray's own are of any class
            if _ask_head(address):
                return True
    return False


def _ask_head(address: str) -> bool:
    """Return whether a head has a machine by now, at first its own; raises what tells why it does not answer."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    host, _, port = address.rpartition(":")
    # Says why it cannot be reached, which Ray keeps to itself.
    with socket.create_connection((host, int(port)), timeout=5):
        return bool(GcsClient(address=address).get_all_node_info(timeout=5))


def _wait_for_end_of_input(warned: threading.Event) -> None:
    with suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    warned.set()


def _worker(options: argparse.Namespace, warned: threading.Event) -> int:
    until_s = time.monotonic() + options.limit_s - options.spent_s
    head = _find_head(options.folder, warned)
    if head is None:
        return 0
    mark = f"machine-{secrets.token_hex(8)}"
    command = [f"--address={head}", f"--num-cpus={options.num_cpus}", f"--num-gpus={options.num_gpus}"]
    command += [f"--node-ip-address={options.address}"] if options.address else []
    command += [f"--resources={json.dumps({mark: 1})}"]
    if options.limit_s < float("inf"):
        drained_in_s = until_s - time.monotonic() - options.drain_s
        command.append(f"--labels={DRAINED_AT}={time.time() + drained_in_s:.0f}")
    if options.memory_gib:
        command.append(f"--memory={max(1, int(options.memory_gib * 2**30) - OBJECT_STORE_BYTES)}")
    for num_left in reversed(range(START_TRIES)):
        with _ray(command) as process:
            member = _Membership(head, mark=mark, drain_s=options.drain_s, until_s=until_s, warned=warned)
            if (code := member.last(process)) == 0 or warned.is_set():
                return code
        # What Ray said is its reason, and remains the last that is said.
        if num_left:
            _say("Ray has ended before it has joined the head: it is started once more")
    return 1


def _find_head(folder: Path, warned: threading.Event) -> str | None:
    """Return the address of the head; None, and why is said, if none answers."""
    until_s = time.monotonic() + HEAD_WITHIN_S
    told = "the head of the run is gone: nothing to do"
    while time.monotonic() < until_s and not warned.is_set():
        with suppress(OSError, ValueError, KeyError):
            address = head_address(folder)
            try:
                if _ask_head(address):
                    return address
            except Exception as error:  # Ray's own are of any class
                told = (
                    f"no head answers at {address} within {HEAD_WITHIN_S:g} s ({str(error)[:100]}). It has ended just "
                    "now, a firewall is between, or `address` of the cluster file must say by which address of the "
                    "driver's machine others reach it"
                )
        warned.wait(LOOK_EVERY_S)
    _say(told)
    return None


class _Membership:
    """A machine of a cluster, which it leaves in time."""

    def __init__(self, head: str, *, mark: str, drain_s: float, until_s: float, warned: threading.Event) -> None:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        self._client = GcsClient(address=head)
        self._mark = mark
        self._drain_s = drain_s
        self._until_s = until_s
        self._warned = warned
        self._heard_s = time.monotonic()
        self._drained = False

    def last(self, process: "subprocess.Popen[bytes]") -> int:
        """Stay until there is no reason to; returns the exit code."""
        has_joined = False
        while process.poll() is None:
            now_s = time.monotonic()
            node = self._node()
            if node is not None and not has_joined:
                _say(JOINED)
                has_joined = True
            if node is not None and node[1]:
                _say("Ray has left the cluster")
                return 0
            if now_s - self._heard_s > (LOOK_EVERY_S if self._warned.is_set() else HEAD_LOST_S):
                _say("the head does not answer any more")
                return 0
            if now_s > self._until_s:
                _say("the time is up")
                return 0
            must_go = self._warned.is_set() or now_s > self._until_s - self._drain_s
            if node is not None and must_go and not self._drained:
                self._drain(node[0])
            if self._warned.is_set():
                time.sleep(LOOK_EVERY_S)
            else:
                self._warned.wait(LOOK_EVERY_S)
        return 0 if has_joined else 1

    def _node(self) -> tuple[str, bool] | None:
        """Return the id of this machine and whether it is dead; None if the head does not know it or is silent."""
        try:
            found = self._client.get_all_node_info(timeout=5)
        except Exception:
            return None
        self._heard_s = time.monotonic()
        for node_id, node in found.items():
            if self._mark in node.resources_total:
                return node_id.hex(), node.state != 0
        return None

    def _drain(self, node_id: str) -> None:
        from orchestrator.ray_backend.draining import announce_end

        left_s = min(self._drain_s, self._until_s - time.monotonic())
        self._until_s = time.monotonic() + left_s
        reason = "its job was warned" if self._warned.is_set() else "the time limit of its job is near"
        _say(f"drained: {reason}; {left_s:.0f} s are left")
        self._drained = announce_end(self._client, node_id, reason=reason, within_s=left_s)  # or it is tried again


@contextmanager
def _ray(arguments: Sequence[str]) -> "Iterator[subprocess.Popen[bytes]]":
    """Context with a Ray of this machine, in a folder that only this user can enter."""
    with run_folder(num_below_bytes=len(LONGEST_SOCKET), prefer=os.environ.get(RAY_TEMPORARY)) as folder:
        command = [*ray_command("start", "--block", "--disable-usage-stats"), *arguments]
        command += [f"--temp-dir={folder.path / RAY_FOLDER}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        # Several of one machine do without a range of ports, and without each other's.
        command += ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_port()}"]
        variables: JsonMapping = {
            **FOR_WORKERS,
            TEMPORARY: str(folder.temporary),
            CACHES: str(folder.caches),
        }
        environment = os.environ | variables
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
        try:
            yield process
        finally:
            end_group(process, within_s=END_S)


def _say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
