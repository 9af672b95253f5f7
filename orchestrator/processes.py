"""What processes start with: an environment, numbers of threads, no program of a caller; and how groups of them end."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from types import ModuleType
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

VARIABLES = ("OMP_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS", "NUMBA_NUM_THREADS")


def settle_thread_numbers(environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave a plain number, or nothing, in each variable.

    OpenMP takes a list such as `4,2`, a number for each level, and ignores what it does not understand; libraries that
    take its variable for themselves (numexpr) fail when they are imported.
    """
    for name in VARIABLES:
        if name in environment:
            first = environment[name].partition(",")[0].strip()
            if first.isascii() and first.isdigit() and len(first) < 10 and int(first) > 0:
                environment[name] = first
            else:
                del environment[name]


@contextmanager
def environment_with(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Context with these environment variables, without those that are None; all are as before when it ends."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def end_group(process: "subprocess.Popen[bytes]", *, within_s: float) -> None:
    """End a process that leads a session, and all that it has started there.

    It is asked to end, and what is left is killed: at once when the leader has ended, otherwise after `within_s`.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=within_s)


class SpawnedPool(ProcessPoolExecutor):
    """Processes that are started afresh: threads of libraries do not survive a fork.

    Python would run the program that calls us in each of them once more, from its top: a script that is not guarded by
    `if __name__ == "__main__"` would call us there again, and one that was read from the standard input is no file.
    """

    def __init__(self, num_workers: int, *, initializer: Callable[[], object] | None = None) -> None:
        """Start processes as they are needed; each calls `initializer` first."""
        super().__init__(num_workers, mp_context=get_context("spawn"), initializer=initializer)

    def submit(self, fn: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs) -> Future[Result]:
        """Have a process call a function of ours, and start one if none is free."""
        with _without_program():
            return super().submit(fn, *args, **kwargs)


_hiding = threading.Lock()


@contextmanager
def _without_program() -> Iterator[None]:
    """Context in which the program that runs looks like none."""
    with _hiding:
        program = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = program
