"""Machines of a run that are jobs of a batch system: submitted as they are missing, and no more of them."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.batch.starts import Starts
from orchestrator.cluster.batch.submissions import Submissions
from orchestrator.cluster.batch.system import BatchSystem, Job
from orchestrator.cluster.node_pool import NodePool, Resources
from orchestrator.errors import ClusterError

logger = logging.getLogger(__name__)

MAX_ARRAY = 32
"""Most machines that are asked for with one array job."""
MAX_REFUSALS = 3
"""Looks in a row at which nothing could be submitted, and nothing waits or runs: then nothing will come of the run."""
UNANSWERED_S = 3600.0
"""A batch system that has answered may be away for so long: its controller is restarted, or moved, now and then."""
UNLISTED_S = 300.0
"""After so long, a job that was submitted is expected to have been in the list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """What is to be done so that a queue holds what is missing."""

    submit: Mapping[str, int]
    """Pool to the number of jobs."""
    cancel: tuple[str, ...]
    """Ids of jobs that wait and are not needed any more."""


def decide(
    pools: Sequence[NodePool],
    jobs: Mapping[str, Sequence[Job]],
    *,
    missing: Mapping[Resources, int],
    present: Mapping[Resources, int],
    refused: Collection[str] = (),
) -> Orders:
    """Return which jobs to submit and to cancel.

    Parameters
    ----------
    pools
        What may be asked for.
    jobs
        Those of each pool that wait or run.
    missing
        Machines of each size that the run could use beside those that are there.
    present
        Machines of each size that are there: each is a job that runs.
    refused
        Pools that take no more jobs now: others of their size get what they would.
    """
    submit: Counter[str] = Counter()
    cancel: list[str] = []
    for size in dict.fromkeys(pool.offered for pool in pools):
        # Of one size, the fastest first.
        of_size = sorted((pool for pool in pools if pool.offered == size), key=lambda pool: -pool.gpu.speed)
        to_come = sum(len(jobs.get(pool.name, ())) for pool in of_size) - present.get(size, 0)
        lacking = missing.get(size, 0) - max(0, to_come)
        for pool in of_size:
            free = 0 if pool.name in refused else pool.max_nodes - len(jobs.get(pool.name, ()))
            number = min(lacking, free)
            if number > 0:
                submit[pool.name] += number
                lacking -= number
        # The latest of the slowest pool has waited for the least.
        waiting = [job.id for pool in of_size for job in jobs.get(pool.name, ()) if job.is_waiting]
        surplus = min(len(waiting), -lacking)
        cancel += waiting[len(waiting) - surplus :] if surplus > 0 else []
    return Orders(submit=+submit, cancel=tuple(cancel))


class BatchWorkers:
    """Looks at the queue now and then, in a thread of its own: a batch system may take long to answer."""

    def __init__(
        self,
        system: BatchSystem,
        *,
        pools: Sequence[NodePool],
        scripts: Mapping[str, Path],
        arrays: Mapping[str, Path],
        prefix: str,
        look_every_s: float,
    ) -> None:
        """Begin with nothing that is missing.

        Parameters
        ----------
        system
            Where jobs are submitted.
        pools
            What may be asked for.
        scripts
            Pool to the script of one of its machines.
        arrays
            Pool to the folder of scripts that start several at once, each named by their number; for pools that may.
        prefix
            Of the names of all jobs of the run; the name of the pool follows.
        look_every_s
            Time between two looks.
        """
        self._system = system
        self._pools = tuple(pools)
        self._scripts = dict(scripts)
        self._arrays = dict(arrays)
        self._prefix = prefix
        self._look_every_s = look_every_s
        self._lock = threading.Lock()
        self._missing: dict[Resources, int] = {}
        self._present: dict[Resources, int] = {}
        self._waiting: dict[str, int] = {}
        self._submitted = Submissions()
        self._starts = Starts(logs=next(iter(self._scripts.values())).parent)
        self._answered_s: float | None = None
        self._num_refusals = 0
        self._refusal = ""
        self._warned = ""
        self._ended = threading.Event()
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="batch-workers", daemon=True)
        self._thread.start()

    def ask(self, missing: Mapping[Resources, int], *, present: Mapping[Resources, int]) -> None:
        """Say how many machines of each size are missing now beside those that are there.

        Raises
        ------
        ClusterError
            If the batch system takes no job or lists none that it took, or is away, and there is no machine either.
        """
        with self._lock:
            self._missing, self._present = dict(missing), dict(present)
            refusal = self._refusal if self._num_refusals >= MAX_REFUSALS and not any(present.values()) else ""
        self._asked.set()
        if refusal:
            raise ClusterError(refusal)

    def waiting(self) -> Mapping[str, int]:
        """Return how many jobs wait, by their pool and the reason that the batch system gives."""
        with self._lock:
            return dict(self._waiting)

    def close(self) -> None:
        """Cancel what is left of the run's machines; the driver may be a job of the run as well."""
        self._ended.set()
        self._asked.set()
        self._thread.join()
        left = self._submitted.waiting()
        try:
            names = {f"{self._prefix}{pool.name}" for pool in self._pools}
            left += [job for job in self._system.jobs(self._prefix) if job.name in names]
        except ClusterError as error:
            # They end by themselves, since their head does.
            logger.warning("%s", error)
        cancel_all(self._system, left)

    def _keep_up(self) -> None:
        self._asked.wait()
        while not self._ended.is_set():
            now_s = time.monotonic()
            try:
                refusal = self._poll(now_s)
            except ClusterError as error:
                self._warn(str(error))
                is_away = self._answered_s is not None and now_s - self._answered_s < UNANSWERED_S
                refusal = "" if is_away else str(error)
            except Exception as error:
                # Without this thread the run would wait for machines without an end and without a word.
                logger.exception("the batch system could not be looked at")
                refusal = f"{type(error).__name__}: {error}"
            with self._lock:
                self._num_refusals, self._refusal = (self._num_refusals + 1 if refusal else 0), refusal
            self._ended.wait(self._look_every_s)

    def _poll(self, now_s: float) -> str:
        """Submit and cancel what is to be; returns why nothing will come of it, and raises if there is no list."""
        jobs = self._system.jobs(self._prefix)
        self._answered_s = now_s
        listed = [job for job in jobs if job.name in {f"{self._prefix}{pool.name}" for pool in self._pools}]
        with self._lock:
            num_present = sum(self._present.values())
        unlisted = self._without_late(listed, num_present=num_present, now_s=now_s)
        if told := self._starts.see(listed, num_present=num_present, now_s=now_s):
            self._warn(told)
        by_pool = self._by_pool(listed)
        orders = self._orders(listed)
        known = [job for found in by_pool.values() for job in found]
        reasons = Counter(
            f"{name}: {job.reason or 'waiting'}"
            for name, found in by_pool.items()
            for job in found
            if (job.is_waiting or job.reason) and job.id not in orders.cancel
        )
        with self._lock:
            self._waiting = dict(reasons)
        cancel_all(self._system, [job for job in known if job.id in orders.cancel])
        self._submitted.forget(orders.cancel)
        refusals = {} if self._starts.holds(now_s) else self._submit_orders(orders, listed, now_s=now_s)
        if not refusals:
            return unlisted
        told = "; ".join(dict.fromkeys(refusals.values()))
        self._warn(told)
        # A limit of jobs that wait: as one of them ends, another is taken.
        return unlisted or ("" if known or self._submitted.waiting() else told)

    def _by_pool(self, listed: Sequence[Job]) -> dict[str, list[Job]]:
        """Return the jobs of each pool: those of a list, and those that no list has shown yet."""
        known = [*listed, *self._submitted.waiting()]
        return {pool.name: [job for job in known if job.name == f"{self._prefix}{pool.name}"] for pool in self._pools}

    def _orders(self, listed: Sequence[Job], *, refused: Collection[str] = ()) -> Orders:
        with self._lock:
            missing, present = self._missing, self._present
        return decide(self._pools, self._by_pool(listed), missing=missing, present=present, refused=refused)

    def _without_late(self, listed: Sequence[Job], *, num_present: int, now_s: float) -> str:
        """Give up jobs that should have been listed, so that others come; returns what is wrong where none is listed.

        There are never more than were asked for: what cannot be seen is cancelled before others are submitted, and is
        left where it may be a machine that works.
        """
        self._submitted.see(listed)
        late = self._submitted.waiting(since_s=now_s - UNLISTED_S)
        if not late:
            return ""
        ids = ", ".join(dict.fromkeys(job.id for job in late))
        command, logs = self._system.query.command[0], next(iter(self._scripts.values())).parent
        told = (
            f"jobs {ids}: submitted more than {UNLISTED_S:g} s ago and never listed by {command}, "
            f"where they were expected. Look whether they have ended at once (logs: {logs}); if they wait or run, have "
            "query.command of a batch_system file list them"
        )
        self._warn(told)
        if not listed or num_present > sum(not job.is_waiting for job in listed):
            return told
        cancel_all(self._system, late)
        self._submitted.forget([job.id for job in late])
        return ""

    def _warn(self, told: str) -> None:
        # A limit stays for hours, and is met at every look.
        if told != self._warned:
            logger.warning("%s", told)
        self._warned = told

    def _submit_orders(self, orders: Orders, listed: Sequence[Job], *, now_s: float) -> dict[str, str]:
        """Submit what is missing; returns the pools that did not take all of theirs, with what was said."""
        refusals: dict[str, str] = {}
        while refused := self._submit_all(orders.submit, now_s=now_s):
            refusals |= refused
            # At once: the next look asks anew, since a limit may have gone by then.
            orders = self._orders(listed, refused=refusals)
        return refusals

    def _submit_all(self, numbers: Mapping[str, int], *, now_s: float) -> dict[str, str]:
        """Submit jobs; returns the pools that did not take all of them, with what was said."""
        refusals = {}
        for name, number in numbers.items():
            try:
                self._submit(name, number, now_s=now_s)
            except ClusterError as error:
                refusals[name] = str(error)
        return refusals

    def _submit(self, name: str, number: int, *, now_s: float) -> None:
        most = MAX_ARRAY if name in self._arrays else 1
        while number:
            together = min(number, most)
            script = self._arrays[name] / f"{together}.sh" if together > 1 else self._scripts[name]
            try:
                job_id = self._system.submit_job(script)
            except ClusterError:
                if together == 1:
                    raise
                # An array is refused as a whole where a limit lets in some of it.
                most = 1
                continue
            self._submitted.add(job_id, name=f"{self._prefix}{name}", number=together, now_s=now_s)
            number -= together


def cancel_all(system: BatchSystem, jobs: Sequence[Job]) -> int:
    """Cancel jobs, of which some may have ended; returns how many could be."""
    num_cancelled = 0
    for job_id in dict.fromkeys(job.id for job in jobs):
        try:
            system.cancel_job(job_id)
            num_cancelled += 1
        except ClusterError as error:
            logger.warning("%s", error)
    return num_cancelled
