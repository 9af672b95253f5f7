"""The driver as a Ray job on the head of a cluster: submitted once under its own id, followed from anywhere."""

import asyncio
import hashlib
import json
import shlex
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cluster.environment import token_headers
from orchestrator.cluster.log_lines import LogLines
from orchestrator.errors import ClusterError

MAX_LOST = 20
"""Attempts in a row to reach the head again before following is given up."""
RECONNECT_S = 15.0
"""Pause between two of them: five minutes in all."""
CONNECT_LIMIT_S = 180.0
"""Longest wait for the tunnel and the dashboard of a fresh head."""
CONNECT_PAUSE_S = 2.0
"""Pause between two attempts to connect."""


class DriverLostError(ClusterError):
    """The head cannot be reached any more; the driver on it may well go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobState:
    """What a cluster says of a job."""

    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status in {"SUCCEEDED", "FAILED", "STOPPED"}


class RayJobs:
    """The jobs of a cluster behind the address of its dashboard.

    Every method may raise OSError, RuntimeError or aiohttp.ClientError.
    """

    def __init__(self, address: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Connect as soon as the dashboard answers.

        Parameters
        ----------
        address
            `http://127.0.0.1:<port>`; the token is that of this process's environment.
        sleep
            Waits some seconds between two attempts.

        Raises
        ------
        ClusterError
            If it does not answer for three minutes, or not to this token.
        """
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        headers = token_headers()
        for _ in range(int(CONNECT_LIMIT_S / CONNECT_PAUSE_S)):
            try:
                self._client = JobSubmissionClient(address, headers=headers)
                self._client.list_jobs()
            except OSError as error:
                reason = error
            except (AuthenticationError, RuntimeError) as error:
                raise ClusterError(f"{address}: the dashboard refuses: {error}") from error
            else:
                return
            sleep(CONNECT_PAUSE_S)
        raise ClusterError(f"{address}: no dashboard after {CONNECT_LIMIT_S:g} s ({reason})")

    def find(self, job_id: str) -> JobState | None:
        """Return the state of a job, or None if there is none of that id."""
        for job in self._client.list_jobs():
            if job.submission_id == job_id:
                return JobState(status=str(job.status.value))
        return None

    def running(self) -> frozenset[str]:
        """Return the ids of all that were submitted and have not ended."""
        states = {job.submission_id: JobState(status=str(job.status.value)) for job in self._client.list_jobs()}
        return frozenset(job_id for job_id, state in states.items() if job_id is not None and not state.has_ended)

    def submit(self, job_id: str, *, entrypoint: str, environment: Mapping[str, str]) -> None:
        """Start a job."""
        self._client.submit_job(
            entrypoint=entrypoint, submission_id=job_id, runtime_env={"env_vars": dict(environment)}
        )

    def forget(self, job_id: str) -> None:
        """Remove a job that has ended, so that its id can be used again."""
        self._client.delete_job(job_id)

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        """Yield the log from its beginning until the job ends."""
        async for text in self._client.tail_job_logs(job_id):
            yield text


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverJob:
    """A driver to be run."""

    id: str
    """Its job's name, the same for the same work."""
    entrypoint: str
    """Its command line."""
    environment: Mapping[str, str]
    """Its environment variables."""


def submission_id(driver_arguments: Sequence[str]) -> str:
    """Return the id of a driver: the same output, preset and choice of trainings give the same one."""
    digest = hashlib.sha256(json.dumps(list(driver_arguments)).encode()).hexdigest()
    return f"run-{digest[:16]}"


def shell_entrypoint(script: str) -> str:
    """Return a job's entry point for a line of shell: Ray takes no quoted compound commands as they are."""
    return f"bash -c {shlex.quote(script)}"


def submit_or_attach(jobs: RayJobs, submission: DriverJob) -> bool:
    """Start the driver unless it is running; a job of that id that has ended is started anew and resumes.

    Returns
    -------
    bool
        Whether it was running already.
    """
    job = jobs.find(submission.id)
    if job is not None and job.has_ended:
        jobs.forget(submission.id)
    elif job is not None:
        return True
    try:
        jobs.submit(submission.id, entrypoint=submission.entrypoint, environment=submission.environment)
    except RuntimeError as error:
        if jobs.find(submission.id) is None:
            raise ClusterError(f"driver {submission.id}: the cluster does not take the job: {error}") from error
        # Another call was faster with the same work.
        return True
    return False


def follow(
    jobs: RayJobs,
    job_id: str,
    *,
    show: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Show the log of a driver line by line until it has ended.

    Parameters
    ----------
    jobs
        Of the cluster.
    job_id
        The driver's job.
    show
        Takes each line once, however often the connection breaks.
    sleep
        Waits some seconds before the next attempt to reach the head.

    Returns
    -------
    bool
        Whether the driver ended with exit code 0.

    Raises
    ------
    DriverLostError
        If the head could not be reached for five minutes.
    """
    import aiohttp

    lines = LogLines(show=show)
    num_lost = 0
    while True:
        num_seen = lines.num_shown
        try:
            asyncio.run(_tail(jobs, job_id, lines=lines))
            job = _known(jobs, job_id)
            if job.has_ended:
                lines.finish()
                return job.status == "SUCCEEDED"
            num_lost = 0
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            num_lost = 1 if lines.num_shown > num_seen else num_lost + 1
            if num_lost > MAX_LOST:
                raise DriverLostError(
                    f"driver {job_id}: its head does not answer any more ({error}); the same command attaches again"
                ) from error
        sleep(RECONNECT_S if num_lost else 1.0)


def _known(jobs: RayJobs, job_id: str) -> JobState:
    """Return a job; raises ClusterError if the cluster does not know it any more."""
    job = jobs.find(job_id)
    if job is None:
        raise ClusterError(f"driver {job_id}: the cluster does not know it any more; was its head restarted?")
    return job


async def _tail(jobs: RayJobs, job_id: str, *, lines: LogLines) -> None:
    lines.rewind()
    async for text in jobs.tail(job_id):
        lines.add(text)
