"""A driver that is a job of a batch system: its script, and how it is followed from elsewhere."""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.cluster.batch.system import Job
from orchestrator.errors import ClusterError

INTERRUPTED = 130
"""Exit code of a driver that was interrupted."""
LOOK_AT_LOG_S = 1.0
LATE_S = 60.0
"""Longest time until a file of another machine is seen in a shared folder."""


def driver_lines(command: str, *, submit_again: str, folder: Path) -> list[str]:
    """Return lines of shell that run a driver, hand warnings on to it, and keep its exit code in `exit-code`.

    One that was warned before its time limit has let trainings save their place: it is submitted again.
    """
    target = shlex.quote(str(folder / "exit-code"))
    return [
        f"{command} &",
        "driver=$!",
        "trap 'kill -TERM $driver 2> /dev/null' TERM INT",
        "trap 'warned=1; kill -TERM $driver 2> /dev/null' USR1",
        "wait $driver; code=$?",
        # A signal ends the waiting, not the driver.
        "while kill -0 $driver 2> /dev/null; do wait $driver; code=$?; done",
        f'if [ "$warned" ] && [ $code -eq {INTERRUPTED} ] && {submit_again}; then exit 0; fi',
        f"echo $code > {target}.part && mv {target}.part {target}",
        "exit $code",
    ]


def follow_job(
    jobs: Callable[[], Sequence[Job]], *, folder: Path, show: Callable[[str], None], look_every_s: float
) -> int:
    """Show the log of a driver until its job has ended, and why it waits before it begins; returns its exit code.

    Raises
    ------
    ClusterError
        If the job has ended and has left no exit code: it was cancelled, or its machine is gone.
    """
    log, code = folder / "driver.log", folder / "exit-code"
    shown, told, next_look_s, gone_s = 0, "", 0.0, float("inf")
    while True:
        shown = _show_new(log, shown, show=show)
        if code.exists():
            _show_new(log, shown, show=show)
            return int(code.read_text())
        now_s = time.monotonic()
        if now_s >= next_look_s:
            next_look_s = now_s + look_every_s
            try:
                found = jobs()
            except ClusterError as error:
                show(str(error))
            else:
                gone_s = float("inf") if found else min(gone_s, now_s + LATE_S)
                reason = found[0].reason if found and found[0].is_waiting else ""
                if reason and reason != told:
                    show(f"the driver waits in the queue: {reason}")
                told = reason
        if now_s > gone_s:
            raise ClusterError(
                f"{folder}: the job of the driver has ended without an exit code: cancelled, out of memory, or its "
                "machine is gone. The same command goes on from what is done"
            )
        time.sleep(LOOK_AT_LOG_S)


def _show_new(log: Path, shown: int, *, show: Callable[[str], None]) -> int:
    """Show the whole lines of a log beyond its first bytes; returns how many bytes have been shown."""
    try:
        with log.open("rb") as file:
            file.seek(shown)
            text = file.read()
    except FileNotFoundError:
        return shown
    whole = text[: text.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        show(line)
    return shown + len(whole)
