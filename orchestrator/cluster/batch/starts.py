"""Jobs that run without becoming machines: told where they hang or end, and the next is not submitted at once."""

import glob
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.cluster.batch.system import Job
from orchestrator.cluster.ray_head import JOINED

MAX_IN_A_ROW = 3
"""So many may be bad luck: a node that was lost, a job that was cancelled while it started."""
HOLD_S, LONGEST_HOLD_S = 60.0, 600.0
"""Time until the next is submitted, twice as long each time, and the longest."""
STARTS_WITHIN_S = 300.0
"""What a start takes at the most, from a slow shared folder as well."""


class Starts:
    """Whether jobs become machines: each says so in its log, and none is missing where as many are there as run."""

    def __init__(self, *, logs: Path) -> None:
        """Begin with none; `logs` is the folder of their logs."""
        self._logs = logs
        self._joined: set[str] = set()
        self._starting: dict[str, float] = {}
        self._told: set[str] = set()
        self._num_in_vain = 0
        self._hold_until_s = float("-inf")

    def see(self, listed: Sequence[Job], *, num_present: int, now_s: float) -> str:
        """Take note of jobs of a list and of how many machines are there; returns what is wrong if that is new."""
        running = [job.id for job in listed if not job.is_waiting]
        ended = sorted(self._starting.keys() - {job.id for job in listed})
        joined = {job_id for job_id in (*running, *ended) if job_id not in self._joined and self._has_joined(job_id)}
        if num_present >= len(running):
            joined.update(job_id for job_id in running if job_id not in self._joined)
        in_vain = [job_id for job_id in ended if job_id not in joined]
        self._num_in_vain = 0 if joined else self._num_in_vain + len(in_vain)
        self._joined = (self._joined | joined).intersection(running)
        self._starting = {job_id: self._starting.get(job_id, now_s) for job_id in running if job_id not in self._joined}
        suspended = {job.id for job in listed if not job.is_waiting and job.reason}
        told = (self._told_of_ended(in_vain, now_s=now_s), self._told_of_late(now_s=now_s, but_for=suspended))
        return ". ".join(filter(None, told))

    def holds(self, now_s: float) -> bool:
        """Whether nothing should be submitted now."""
        return self._num_in_vain >= MAX_IN_A_ROW and now_s < self._hold_until_s

    def _told_of_ended(self, in_vain: Sequence[str], *, now_s: float) -> str:
        if not in_vain or self._num_in_vain < MAX_IN_A_ROW:
            return ""
        hold_s = min(LONGEST_HOLD_S, HOLD_S * 2 ** (self._num_in_vain - MAX_IN_A_ROW))
        self._hold_until_s = now_s + hold_s
        return (
            f"{self._num_in_vain} jobs in a row have run and ended without a machine; expected that each starts Ray "
            f"and joins the run. The last one, {in_vain[-1]}: {self._last_words(in_vain[-1])} (logs: {self._logs}). "
            f"The next is submitted in {hold_s:.0f} s"
        )

    def _told_of_late(self, *, now_s: float, but_for: Collection[str]) -> str:
        """Return which jobs have run for too long without a machine, once of each."""
        since_s = now_s - STARTS_WITHIN_S
        late = [job_id for job_id, began_s in self._starting.items() if began_s <= since_s and job_id not in but_for]
        new = [job_id for job_id in late if job_id not in self._told]
        self._told = self._told.intersection(self._starting).union(new)
        if not new:
            return ""
        return (
            f"jobs {', '.join(new)}: run for more than {STARTS_WITHIN_S:.0f} s without a machine; expected that each "
            f"starts Ray and joins the run. The first one, {new[0]}: {self._last_words(new[0])} (logs: {self._logs}). "
            "Cancel those that hang: others are submitted"
        )

    def _has_joined(self, job_id: str) -> bool:
        return any(JOINED in line for line in self._log(job_id) or ())

    def _last_words(self, job_id: str) -> str:
        if (lines := self._log(job_id)) is None:
            return "has left no log"
        return " / ".join(line[:300] for line in lines[-3:]) or "says nothing"

    def _log(self, job_id: str) -> list[str] | None:
        """Return the lines of the log of a job; None if there is none that can be read."""
        # What another machine writes may vanish while it is read.
        with suppress(OSError):
            for path in self._logs.glob(f"*-{glob.escape(job_id)}.log"):
                text = path.read_text(encoding="utf-8", errors="replace")
                return [line.strip() for line in text.splitlines() if line.strip()]
        return None
