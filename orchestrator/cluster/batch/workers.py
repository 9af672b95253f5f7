"""Machines of a run that are jobs of a batch system: submitted as they are missing, and no more of them."""

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.batch.system import BatchSystem, Job
from orchestrator.cluster.node_pool import NodePool
from orchestrator.errors import ClusterError

logger = logging.getLogger(__name__)

Size = tuple[float, float]
"""CPUs and GPUs of a machine."""
MAX_REFUSALS = 3
"""Submissions in a row that may fail while there is no machine: then nothing will come of the run."""


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
    missing: Mapping[Size, int],
    present: Mapping[Size, int],
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
    """
    submit: Counter[str] = Counter()
    cancel: list[str] = []
    for size in dict.fromkeys((pool.cpus, pool.gpus) for pool in pools):
        # Of one size, the fastest first.
        of_size = sorted((pool for pool in pools if (pool.cpus, pool.gpus) == size), key=lambda pool: -pool.gpu.speed)
        to_come = sum(len(jobs.get(pool.name, ())) for pool in of_size) - present.get(size, 0)
        lacking = missing.get(size, 0) - max(0, to_come)
        for pool in of_size:
            number = min(lacking, pool.max_nodes - len(jobs.get(pool.name, ())))
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
        self._missing: dict[Size, int] = {}
        self._present: dict[Size, int] = {}
        self._waiting: dict[str, int] = {}
        self._num_refusals = 0
        self._refusal = ""
        self._ended = threading.Event()
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="batch-workers", daemon=True)
        self._thread.start()

    def ask(self, missing: Mapping[Size, int], *, present: Mapping[Size, int]) -> None:
        """Say how many machines of each size are missing now beside those that are there.

        Raises
        ------
        ClusterError
            If the batch system takes no job, and there is no machine either.
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
        try:
            names = {f"{self._prefix}{pool.name}" for pool in self._pools}
            cancel_all(self._system, [job for job in self._system.jobs(self._prefix) if job.name in names])
        except ClusterError as error:
            # They end by themselves, since their head does.
            logger.warning("%s", error)

    def _keep_up(self) -> None:
        self._asked.wait()
        while not self._ended.is_set():
            try:
                self._look()
            except ClusterError as error:
                # The controller of a batch system is restarted now and then.
                logger.warning("%s", error)
                with self._lock:
                    self._num_refusals, self._refusal = self._num_refusals + 1, str(error)
            self._ended.wait(self._look_every_s)

    def _look(self) -> None:
        jobs = self._system.jobs(self._prefix)
        by_pool = {pool.name: [job for job in jobs if job.name == f"{self._prefix}{pool.name}"] for pool in self._pools}
        with self._lock:
            missing, present = self._missing, self._present
        orders = decide(self._pools, by_pool, missing=missing, present=present)
        for job_id in orders.cancel:
            self._system.cancel_job(job_id)
        for name, number in orders.submit.items():
            self._submit(name, number)
        reasons = Counter(
            f"{name}: {job.reason or 'waiting'}"
            for name, found in by_pool.items()
            for job in found
            if job.is_waiting and job.id not in orders.cancel
        )
        with self._lock:
            self._waiting, self._num_refusals = dict(reasons), 0

    def _submit(self, name: str, number: int) -> None:
        if name in self._arrays and number > 1:
            self._system.submit_job(self._arrays[name] / f"{number}.sh")
            return
        for _ in range(number):
            self._system.submit_job(self._scripts[name])


def cancel_all(system: BatchSystem, jobs: Sequence[Job]) -> None:
    """Cancel jobs, of which some may have ended."""
    for job in jobs:
        try:
            system.cancel_job(job.id)
        except ClusterError as error:
            logger.warning("%s", error)
