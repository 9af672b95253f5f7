"""Jobs that were submitted and that no list has shown yet: they count as well, or others would be submitted again."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.cluster.batch.system import Job

REASON = "submitted, not listed yet"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Submission:
    jobs: tuple[Job, ...]
    """Several with the id of all, if it was an array."""
    at_s: float


class Submissions:
    """What has been submitted and not yet been seen."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._by_number: dict[str, _Submission] = {}

    def add(self, job_id: str, *, name: str, number: int, now_s: float) -> None:
        """Take note of a job, or of an array of so many."""
        job = Job(id=job_id, name=name, reason=REASON, is_waiting=True)
        self._by_number[_number(job_id)] = _Submission(jobs=(job,) * number, at_s=now_s)

    def see(self, listed: Iterable[Job]) -> None:
        """Take note of jobs of a list."""
        self.forget([job.id for job in listed])

    def forget(self, ids: Iterable[str]) -> None:
        """Leave out jobs by their ids."""
        for job_id in ids:
            self._by_number.pop(_number(job_id), None)

    def waiting(self, *, since_s: float = float("inf")) -> list[Job]:
        """Return those that were submitted at a time or before."""
        return [job for one in self._by_number.values() if one.at_s <= since_s for job in one.jobs]


def _number(job_id: str) -> str:
    """Return what the parts of an array have in common: 12 of 12_1, and of 12[].server and 12[1].server."""
    found = re.match(r"\d+", job_id)
    return found[0] if found else job_id
