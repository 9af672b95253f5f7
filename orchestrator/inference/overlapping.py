"""Cases that overlap on one machine: while one is predicted, the next is read and the one before is written."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import zip_longest
from typing import Generic, TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""A case that is read, predicted and written: it pauses after the first two, and may end at any with its result."""


def carried_out(steps: Steps[Result]) -> Result:
    """Carry out all steps of a case and return its result."""
    case = _Case(steps)
    while not case.results:
        case.go_on()
    return case.results[0]


def overlapped(cases: Sequence[Steps[Result]], *, may_overlap: Callable[[int], bool]) -> Iterator[Result]:
    """Yield the results of cases in their order.

    Reading and writing have a thread each; predicting is done by the thread that asks for results, which interrupts
    reach.

    Parameters
    ----------
    cases
        What they take; nothing of it is done yet.
    may_overlap
        Whether the case of this number may be predicted while the next is read and the one before is written.
    """
    with ExitStack() as stack:
        for steps in cases:
            stack.callback(steps.close)
        reader, writer = (stack.enter_context(ThreadPoolExecutor(1)) for _ in range(2))
        yield from _overlapped([_Case(steps) for steps in cases], may_overlap, reader=reader, writer=writer)


def _overlapped(
    cases: "Sequence[_Case[Result]]", may_overlap: Callable[[int], bool], *, reader: Executor, writer: Executor
) -> Iterator[Result]:
    is_read: Future[None] | None = None
    written: Future[Result] | None = None
    for number, (case, following) in enumerate(zip_longest(cases, cases[1:])):
        overlaps = may_overlap(number)
        if written is not None and not overlaps:
            yield written.result()
            written = None
        (is_read or reader.submit(case.go_on)).result()
        is_read = reader.submit(following.go_on) if following is not None and overlaps else None
        case.go_on()
        if written is not None:
            yield written.result()
        written = writer.submit(case.finish)
    if written is not None:
        yield written.result()


class _Case(Generic[Result]):
    """A case, and how far it is."""

    def __init__(self, steps: Steps[Result]) -> None:
        self._steps = steps
        self.results: list[Result] = []

    def go_on(self) -> None:
        """Carry out the next step, if there is one."""
        if not self.results:
            try:
                next(self._steps)
            except StopIteration as end:
                self.results.append(end.value)

    def finish(self) -> Result:
        """Carry out the last step."""
        self.go_on()
        return self.results[0]
