"""Cases of folders scored by several processes of this machine."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from orchestrator.errors import ConfigError
from orchestrator.scoring.folders import FolderComparison, FolderScore

CASES_A_PROCESS = 16
"""To start a process takes about as long as to score so many."""


def score_in_processes(
    comparison: FolderComparison, cases: Sequence[str], *, num_workers: int | None = None
) -> Iterator[list[FolderScore]]:
    """Yield the rows of each case as they come; unless given, as many processes work on them as are worth starting."""
    if num_workers is None:
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = min(num_cores, 1 + len(cases) // CASES_A_PROCESS)
    if num_workers < 1:
        raise ConfigError(f"--workers {num_workers}: expected at least 1")
    num_workers = min(num_workers, len(cases))
    if num_workers == 1:
        yield from map(comparison.score, cases)
        return
    left = dict.fromkeys(cases)
    try:
        for case, rows in _score_in_pool(comparison, cases, num_workers=num_workers):
            del left[case]
            yield rows
    except BrokenProcessPool:
        # The system kills one for want of memory, most likely. With a process each, the others are none the worse.
        for case in left:
            try:
                yield from (rows for _, rows in _score_in_pool(comparison, [case], num_workers=1))
            except BrokenProcessPool:
                yield comparison.unscored(case, message="the process that scored it died, perhaps for want of memory")


def _score_in_pool(
    comparison: FolderComparison, cases: Sequence[str], *, num_workers: int
) -> Iterator[tuple[str, list[FolderScore]]]:
    pool = ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_leave_ctrl_c_to_the_parent)
    with pool:
        futures = {pool.submit(comparison.score, case): case for case in cases}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
