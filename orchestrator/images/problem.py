"""What is wrong with a file of somebody else, in parts that can be listed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.errors import DataError


def printable(text: str) -> str:
    """Return a text as one line that does nothing to a terminal: names in somebody's archive may hold anything."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong with a download."""

    path: str
    """File or folder; a member of an archive is written `archive.zip/member`."""
    found: str
    """What is there."""
    expected: str
    """What should be there."""
    advice: str
    """What to do about it, a sentence."""

    @property
    def line(self) -> str:
        """All of it in one line."""
        return printable(f"{self.path}: found {self.found}; expected {self.expected}. {self.advice}")


class SourceError(DataError):
    """A DataError that also carries its problem in parts; raise it with `SourceError.of`."""

    problem: Problem

    @classmethod
    def of(cls, path: object, *, found: str, expected: str, advice: str) -> "SourceError":
        """Build the error whose message is the line of the problem."""
        problem = Problem(path=str(path), found=found, expected=expected, advice=advice)
        error = cls(problem.line)
        error.problem = problem
        return error


class Fault(Exception):  # noqa: N818 - becomes a SourceError as soon as the file has a name
    """What is wrong with a file, said by a reader that does not know its name; `naming` adds it."""

    def __init__(self, found: str, *, expected: str, advice: str) -> None:
        super().__init__(found)
        self.found, self.expected, self.advice = found, expected, advice


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Raise the faults found inside as SourceErrors of a file."""
    try:
        yield
    except Fault as fault:
        raise SourceError.of(path, found=fault.found, expected=fault.expected, advice=fault.advice) from fault
