"""Processes that may have so much memory and no more: a control group where one can be made, else somebody watches."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_GROUPS = {
    # Version 2, and version 1 of its controller.
    Path("/sys/fs/cgroup"): ("memory.max", "memory.swap.max"),
    Path("/sys/fs/cgroup/memory"): ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
}
_PERIOD_S = 0.02


def run_within(command: Sequence[str], *, limit_bytes: int | None) -> tuple[str, str]:
    """Run a command and return what it prints, and how its memory was limited, in words.

    Raises subprocess.CalledProcessError if it fails, or is killed for having too much.
    """
    if limit_bytes is None:
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, "no limit"
    group = _new_group(limit_bytes)
    if group is None:
        return _watched(command, limit_bytes=limit_bytes), "watched from outside"
    joined = f'echo $$ > "{group}/cgroup.procs" && exec "$0" "$@"'
    try:
        done = subprocess.run(["sh", "-c", joined, *command], check=True, stdout=subprocess.PIPE, text=True)
    finally:
        for _ in range(100):
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(_PERIOD_S)
    return done.stdout, "a control group"


def _new_group(limit_bytes: int) -> Path | None:
    """Return the folder of a new control group with that limit; None where none can be made."""
    for top, (limit, swap) in _GROUPS.items():
        group = top / f"bench-{os.getpid()}-{time.monotonic_ns()}"
        try:
            group.mkdir()
        except OSError:
            continue
        # In a folder that is no control group these files would be plain ones.
        try:
            (group / limit).read_text(encoding="ascii")
            (group / limit).write_text(str(limit_bytes), encoding="ascii")
            if (group / swap).exists():  # not where swapping is not counted
                (group / swap).write_text("0" if swap.startswith("memory.swap") else str(limit_bytes), encoding="ascii")
        except OSError:
            group.rmdir()
            continue
        return group
    return None


def _watched(command: Sequence[str], *, limit_bytes: int) -> str:
    """Run a command and kill it as soon as it has more in memory."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_PERIOD_S):
            with suppress(OSError, IndexError, ValueError):
                pages = int(Path(f"/proc/{child.pid}/statm").read_text(encoding="ascii").split()[1])
                if pages * os.sysconf("SC_PAGE_SIZE") > limit_bytes:
                    child.send_signal(signal.SIGKILL)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    said, _ = child.communicate()
    ended.set()
    watcher.join()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, list(command))
    return said
