"""What is wrong with a file of somebody else, in parts that can be listed, whatever its reader throws."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.errors import ConfigError, DataError, OrchestratorError, is_out_of_memory

_NO_WORD = "This says nothing about the file: "


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


@contextmanager
def reading(name: object) -> Iterator[None]:
    """Turn what a reader throws at an odd file into a SourceError that names it.

    Readers of zip, tar, gzip, NIfTI and DICOM throw what their authors did not foresee as well: NotImplementedError,
    struct.error, RecursionError, UnicodeDecodeError, RuntimeError. Errors of ours pass, and so do those that say
    nothing about the file and may be tried again: memory that is short, disks and networks.
    """
    try:
        yield
    except (OrchestratorError, OSError, ImportError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise SourceError.of(
            name,
            found=f"what its reader cannot read ({_in_short(error)})",
            expected="a readable file of this kind",
            advice="Get it again from its owner; if it stays like this, write it anew with another tool.",
        ) from error


@contextmanager
def collecting(problems: list[Problem], name: object) -> Iterator[None]:
    """Append what goes wrong inside with a file to `problems` and go on after the block, so that all is told at once.

    Only a ConfigError passes: it is a mistake of the caller.
    """
    try:
        with reading(name):
            yield
    except ConfigError:
        raise
    except Exception as error:
        problems.append(_problem(error, name=str(name)))


def _problem(error: Exception, *, name: str) -> Problem:
    if isinstance(error, SourceError):
        return error.problem
    found, expected = f"no way to read it ({_in_short(error)})", "a file that can be read"
    if is_out_of_memory(error):
        advice = f"{_NO_WORD}memory was short. Look again with less at a time or with more memory."
    elif isinstance(error, DataError):
        advice = "Get it again from its owner; if it stays like this, write it anew with another tool."
    else:
        advice = f"{_NO_WORD}mend what is named, and look again."
    return Problem(path=name, found=found, expected=expected, advice=advice)


def _in_short(error: Exception) -> str:
    """Return an error in one line; ITK's reason is in the last of many."""
    lines = str(error).strip().splitlines() or [""]
    words = lines[-1].strip()[:300]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
