"""Jobs that have run and ended without a machine: where several do in a row, the next is not submitted at once."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.cluster.batch.system import Job

MAX_IN_A_ROW = 3
"""So many may be bad luck: a node that was lost, a job that was cancelled while it started."""
HOLD_S, LONGEST_HOLD_S = 60.0, 600.0
"""Time until the next is submitted, twice as long each time, and the longest."""


class Starts:
    """Whether jobs become machines."""

    def __init__(self, *, logs: Path) -> None:
        """Begin with none; `logs` is the folder of their logs."""
        self._logs = logs
        self._joined: set[str] = set()
        self._starting: set[str] = set()
        self._num_in_vain = 0
        self._hold_until_s = float("-inf")

    def see(self, listed: Sequence[Job], *, num_present: int, now_s: float) -> str:
        """Take note of jobs of a list and of how many machines are there; returns what is wrong if that is new."""
        running = {job.id for job in listed if not job.is_waiting}
        ended = sorted(self._starting.difference(job.id for job in listed))
        self._num_in_vain += len(ended)
        # As long as fewer machines are there it is not known whose are missing.
        if running and num_present >= len(running):
            self._joined, self._num_in_vain = running, 0
        self._starting = running - self._joined
        if not ended or self._num_in_vain < MAX_IN_A_ROW:
            return ""
        hold_s = min(LONGEST_HOLD_S, HOLD_S * 2 ** (self._num_in_vain - MAX_IN_A_ROW))
        self._hold_until_s = now_s + hold_s
        return (
            f"{self._num_in_vain} jobs in a row have run and ended without a machine; expected that each starts Ray "
            f"and joins the run. The last one, {ended[-1]}: {self._last_words(ended[-1])} (logs: {self._logs}). The "
            f"next is submitted in {hold_s:.0f} s"
        )

    def holds(self, now_s: float) -> bool:
        """Whether nothing should be submitted now."""
        return self._num_in_vain >= MAX_IN_A_ROW and now_s < self._hold_until_s

    def _last_words(self, job_id: str) -> str:
        for path in self._logs.glob(f"*-{job_id}.log"):
            lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return lines[-1][:300] if lines else "says nothing"
        return "has left no log"
