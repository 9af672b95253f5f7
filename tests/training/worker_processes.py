"""Processes that fit one model together, for tests, without any Ray."""

import itertools
import multiprocessing
import os
import signal
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tiny_training import Run
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from orchestrator.errors import LostWorkerError, PreemptedError
from orchestrator.training.workers import Worker

PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one worker has told."""

    lines: list
    reports: list
    outcome: object
    error: str


def train_as(worker, folder, setting, *, stop_after=None, changes=()):
    """Train as one worker, which is asked to stop after so many iterations."""
    torch.set_num_threads(1)
    asked = itertools.count()
    run = Run(
        folder,
        setting,
        worker=worker,
        stop_reason=lambda: "somebody asks" if stop_after is not None and next(asked) >= stop_after else "",
        **dict(changes),
    )
    error = ""
    try:
        run.go()
    except PreemptedError as caught:
        # A real worker ends with its process.
        distributed.destroy_process_group()
        error = str(caught)
    return Told(lines=run.lines, reports=run.reports, outcome=run.outcome, error=error)


class Ticks:
    """A clock that goes on by a second whenever it is asked, in whatever process."""

    def __init__(self):
        self._now_s = 0.0

    def __call__(self):
        self._now_s += 1.0
        return self._now_s


class Together:
    """Trains with two workers, in processes that are kept for the next training."""

    def __init__(self):
        self._pool = ProcessPoolExecutor(2, mp_context=PROCESSES)

    def train(self, folder, setting, *, stop_second_after=None, **changes):
        """What both workers have told."""
        with tempfile.TemporaryDirectory() as meeting:
            workers = [Worker(rank=rank, number=2, meeting=Path(meeting)) for rank in range(2)]
            running = [
                self._pool.submit(
                    train_as,
                    worker,
                    folder,
                    setting,
                    stop_after=None if worker.is_first else stop_second_after,
                    changes=changes,
                )
                for worker in workers
            ]
            return [one.result() for one in running]

    def close(self):
        self._pool.shutdown()


def train_and_be_killed(worker, folder, setting, told):
    """Train as one of two workers, of which the second is killed after four iterations."""
    torch.set_num_threads(1)
    asked = itertools.count()

    def stop_reason():
        if not worker.is_first and next(asked) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return ""

    try:
        Run(folder, setting, worker=worker, stop_reason=stop_reason).go()
    except LostWorkerError as error:
        Path(told).write_text(str(error))


def meet_often(rank, folder, times):
    """Be one of two workers a number of times; networks are let go at once, while the last call is under way."""
    torch.set_num_threads(1)
    for time in range(times):
        meeting = Path(folder) / str(time)
        meeting.mkdir(exist_ok=True)
        worker = Worker(rank=rank, number=2, meeting=meeting)
        with worker.together(device="cpu"):
            network = DistributedDataParallel(torch.nn.Linear(3, 3))
            network(torch.ones(2, 3)).sum().backward()
            worker.any_rank(False)
        del network


def meet_often_in_two_processes(folder, times):
    """Return how the two processes have ended; None for one that has not."""
    running = [PROCESSES.Process(target=meet_often, args=(rank, folder, times)) for rank in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=60)
    ends = [process.exitcode for process in running]
    for process in running:
        process.kill()
    return ends


def kill_second_of_two(folder, setting, told):
    """Let two workers train until one is killed; what the other says of it is in the file `told`."""
    with tempfile.TemporaryDirectory() as meeting:
        workers = [Worker(rank=rank, number=2, meeting=Path(meeting)) for rank in range(2)]
        running = [PROCESSES.Process(target=train_and_be_killed, args=(one, folder, setting, told)) for one in workers]
        for process in running:
            process.start()
        for process in running:
            process.join(timeout=300)
        return [process.exitcode for process in running]
