"""What is wrong with a file of somebody else, in parts that can be listed."""

from dataclasses import dataclass

from orchestrator.errors import DataError


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
        return f"{self.path}: found {self.found}; expected {self.expected}. {self.advice}"


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
