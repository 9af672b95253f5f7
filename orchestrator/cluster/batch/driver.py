"""A driver that is a job of a batch system: its script, and how it is followed from elsewhere."""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.cluster.batch.system import Job
from orchestrator.cluster.log_lines import GrowingFile
from orchestrator.errors import ClusterError

INTERRUPTED = 130
"""Exit code of a driver that was interrupted."""
SIGNALLED = 128
"""Larger exit codes are those of drivers that a signal has ended: one that is requeued gets one as well."""
PAUSES_S = (10, 10, 10, 10, 0)
"""After each try to submit a driver again: a controller that is busy refuses now and then. In all, they leave half of
the time between the warning and the end of a job to the driver."""
LOOK_AT_LOG_S = 1.0
LATE_S = 60.0
"""Longest time until a file of another machine is seen in a shared folder, or a job that is requeued in the list."""


def driver_lines(command: str, *, submit_again: str, folder: Path) -> list[str]:
    """Return lines of shell that run a driver, hand warnings on to it, and keep its exit code in `exit-code`.

    What it says is added to `driver.log`. One that was warned before its time limit has let trainings save their
    place: it is submitted again.
    """
    code, log = (shlex.quote(str(folder / name)) for name in ("exit-code", "driver.log"))
    return [
        # Of the same job, if it was requeued.
        f"rm -f {code}",
        f"{command} >> {log} 2>&1 &",
        "driver=$!",
        "trap 'ended=1; kill -TERM $driver 2> /dev/null' TERM INT",
        "trap 'warned=1; kill -TERM $driver 2> /dev/null' USR1",
        "wait $driver; code=$?",
        # A signal ends the waiting, not the driver.
        "while kill -0 $driver 2> /dev/null; do wait $driver; code=$?; done",
        f'if [ "$warned" ] && [ $code -eq {INTERRUPTED} ]; then',
        f"  for pause_s in {' '.join(map(str, PAUSES_S))}; do",
        f"    {submit_again} 2>> {log} && exit 0",
        '    [ "$ended" ] && break',
        "    sleep $pause_s",
        "  done",
        f"  echo 'The next job of the driver could not be submitted: the same command goes on' >> {log}",
        "fi",
        f"echo $code > {code}.part && mv {code}.part {code}",
        "exit $code",
    ]


def follow_job(
    jobs: Callable[[], Sequence[Job]], *, folder: Path, show: Callable[[str], None], look_every_s: float
) -> int:
    """Show the log of a driver until its job has ended, and why it waits before it begins; returns its exit code.

    A job that is requeued is followed on.

    Raises
    ------
    ClusterError
        If the job has ended and has left no exit code: it was cancelled, or its machine is gone.
    """
    queue = _Queue(jobs, show=show)
    log = GrowingFile(folder / "driver.log")
    told, next_look_s = False, 0.0
    while True:
        # In this order: what it says is in the log before its exit code is written.
        code = _exit_code(folder)
        for line in log.new_text().splitlines():
            show(line)
        if code is not None and code <= SIGNALLED:
            return code
        if code is not None and not told:
            show(
                f"the driver was stopped (exit code {code}): if its job was requeued it is followed on, otherwise this "
                f"ends in about {LATE_S:g} s"
            )
        told = code is not None
        now_s = time.monotonic()
        if now_s >= next_look_s:
            next_look_s = now_s + look_every_s
            queue.look(now_s)
        if now_s > queue.gone_s:
            if code is not None:
                return code
            raise ClusterError(
                f"{folder}: the job of the driver has ended without an exit code: cancelled, out of memory, or its "
                "machine is gone. The same command goes on from what is done"
            )
        time.sleep(LOOK_AT_LOG_S)


class _Queue:
    """Where the job of a driver is; what is new of it is shown."""

    def __init__(self, jobs: Callable[[], Sequence[Job]], *, show: Callable[[str], None]) -> None:
        self._jobs = jobs
        self._show = show
        self._reason = ""
        self._is_away = False
        self.gone_s = float("inf")
        """From then on nothing more is to be expected."""

    def look(self, now_s: float) -> None:
        try:
            found = self._jobs()
        except ClusterError as error:
            # Once: a controller may be away for hours.
            if not self._is_away:
                self._show(f"{error}; it is asked again until it answers")
            self._is_away = True
            return
        if self._is_away:
            self._show("the batch system answers again")
        self._is_away = False
        self.gone_s = float("inf") if found else min(self.gone_s, now_s + LATE_S)
        reason = found[0].reason if found and found[0].is_waiting else ""
        if reason and reason != self._reason:
            self._show(f"the driver waits in the queue: {reason}")
        self._reason = reason


def _exit_code(folder: Path) -> int | None:
    """Return what a driver has ended with; None as long as it has not."""
    try:
        return int((folder / "exit-code").read_text())
    except OSError:
        # A file that has gone from a shared folder may be seen for a while, but not read.
        return None
