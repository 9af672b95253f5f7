"""The processes that fit one model together: which of them this is, and what they tell each other.

All are on one machine. They find each other by a file in a folder that no other user can enter, and talk over its
loopback interface: Gloo about everything that lies in the memory of the machine, NCCL about what is on GPUs.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import LostWorkerError

T = TypeVar("T")
Answer = TypeVar("Answer", bool, int)

PATIENCE = timedelta(minutes=30)
"""Longest wait of a worker for the others: one may have patch files to make again."""
_POLL_S = 0.1
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_groups: list[object] = []
"""Kept until the process ends. Whoever drops the last reference to a group of Gloo waits for its threads and holds
Python's lock, and one of them may be waiting for that lock, to let go of what the last call was about.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """One of the processes that fit one model; by default the only one, for which nothing here does anything."""

    rank: int = 0
    """From 0."""
    number: int = 1
    """Of all of them."""
    meeting: Path = Path()
    """Folder of theirs alone, new for each attempt, where they find each other."""

    @property
    def is_first(self) -> bool:
        """Whether it speaks for all: writes checkpoints, reports, the log."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """Return what this worker seeds its generators with, 32 bits; the first one with the seed itself."""
        import numpy as np

        return seed if self.is_first else int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0])

    def first_then_all(self, name: str, act: Callable[[], Answer]) -> Answer:
        """Let the first worker do something, and all go on with its answer; before they are `together`.

        Parameters
        ----------
        name
            Of the file that tells the others, in the meeting folder.
        act
            What is done.
        """
        if self.number == 1:
            return act()
        told = self.meeting / name
        if self.is_first:
            answer = act()
            told.with_suffix(".unfinished").write_text(json.dumps(answer))
            told.with_suffix(".unfinished").rename(told)
            return answer
        until_s = time.monotonic() + PATIENCE.total_seconds()
        while not told.exists():
            if time.monotonic() > until_s:
                raise LostWorkerError(f"worker {self.rank} has waited {PATIENCE} for the first one, in vain")
            time.sleep(_POLL_S)
        found: Answer = json.loads(told.read_text())
        return found

    @contextmanager
    def together(self, *, device: str) -> Iterator[None]:
        """Context in which the workers hear each other; all must enter it.

        Parameters
        ----------
        device
            `cpu` or `cuda`: where their networks are.

        Raises
        ------
        LostWorkerError
            Once another worker has ended.
        """
        if self.number == 1:
            yield
            return
        from torch import distributed

        for name in _INTERFACES:
            os.environ.setdefault(name, _loopback())
        try:
            distributed.init_process_group(
                _BACKENDS[device],
                store=distributed.FileStore(str(self.meeting / "store"), self.number),
                rank=self.rank,
                world_size=self.number,
                timeout=PATIENCE,
            )
            _groups.append(distributed.group.WORLD)
            yield
        except RuntimeError as error:
            # After an error of its own a worker does not leave: the others would tell of that, and sooner.
            if isinstance(error, distributed.DistError) or "gloo" in str(error).lower():
                raise LostWorkerError(f"worker {self.rank} of {self.number} hears another one no more") from error
            raise
        distributed.destroy_process_group()

    def all_gather(self, value: T) -> list[T]:
        """Return this value of every worker, by rank."""
        if self.number == 1:
            return [value]
        from torch import distributed

        values = [value] * self.number
        distributed.all_gather_object(values, value)
        return values

    def broadcast_from_first(self, value: T) -> T:
        """Return this value of the first worker."""
        if self.number == 1:
            return value
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def any_rank(self, flag: bool) -> bool:
        """Whether this is true of any worker; cheap enough for every iteration."""
        if self.number == 1:
            return flag
        import torch

        flags = torch.tensor(flag, dtype=torch.uint8)
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        return bool(flags)

    def first_reason(self, reason: str) -> str:
        """Return the reason of the first worker that has one; empty if none has."""
        return next(filter(None, self.all_gather(reason)), "") if self.any_rank(bool(reason)) else ""


ALONE = Worker()
"""The only worker of a training."""


def _loopback() -> str:
    """Return the name of the loopback interface: the first one, on all systems."""
    return min(socket.if_nameindex())[1]
