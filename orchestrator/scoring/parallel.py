"""Cases of folders scored by several processes of this machine."""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from numbers import Integral
from typing import Protocol, Self, TypeVar

from orchestrator.errors import ConfigError
from orchestrator.processes import SpawnedPool

CASES_A_PROCESS = 16
"""To start a process takes about as long as to score so many."""
DIED = "the process that scored it died, perhaps for want of memory"
"""Said of a case that has no scores for that."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Scorer(Protocol[T_co]):
    """What scores one case of several folders; it can be sent to other processes."""

    def score(self, case: str) -> Sequence[T_co]:
        """Return what is to be known of a case."""
        ...

    def of_each(self) -> Iterable[Self]:
        """Return the same for each folder by itself."""
        ...

    def unscored(self, case: str, *, message: str) -> Sequence[T_co]:
        """Return what is to be known of a case that cannot be scored, and why."""
        ...


def score_in_processes(
    scorer: Scorer[T], cases: Sequence[str], *, num_workers: int | None = None
) -> Iterator[Sequence[T]]:
    """Yield what is found of each case as it comes; unless given, as many processes work as are worth starting."""
    if num_workers is None:
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = min(num_cores, 1 + len(cases) // CASES_A_PROCESS)
    if not isinstance(num_workers, Integral) or num_workers < 1:
        raise ConfigError(f"--workers {num_workers!r}: expected a whole number of at least 1")
    num_workers = min(num_workers, len(cases))
    if num_workers == 1:
        yield from map(scorer.score, cases)
        return
    left = dict.fromkeys(cases)
    try:
        for case, found in _score_in_pool(scorer, cases, num_workers=num_workers):
            del left[case]
            yield found
    except BrokenProcessPool:
        # The system kills one for want of memory, most likely. With a process each, the others are none the worse.
        for case in left:
            yield _score_alone(scorer, case)


def _score_alone(scorer: Scorer[T], case: str) -> Sequence[T]:
    """Score a case in a process of its own, and if that dies each of its folders so."""
    try:
        ((_, found),) = _score_in_pool(scorer, [case], num_workers=1)
    except BrokenProcessPool:
        each = list(scorer.of_each())
        if len(each) > 1:
            return [row for one in each for row in _score_alone(one, case)]
        return scorer.unscored(case, message=DIED)
    return found


def _score_in_pool(scorer: Scorer[T], cases: Sequence[str], *, num_workers: int) -> Iterator[tuple[str, Sequence[T]]]:
    with SpawnedPool(num_workers, initializer=_leave_ctrl_c_to_the_parent) as pool:
        futures = {pool.submit(scorer.score, case): case for case in cases}
        try:
            for future in as_completed(futures):
                # What was handed on is not kept.
                yield futures.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
