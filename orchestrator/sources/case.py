"""The carriers of this room: what is asked for, what a converted case holds, what is wrong with a download."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import SimpleITK as sitk

from orchestrator.benchmark.definition import Case, Dataset
from orchestrator.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseRequest:
    """One case with the label sets that are needed of it."""

    dataset: Dataset
    """Data set that the case belongs to."""
    case_name: str
    """Name of the case within the data set."""
    label_sets: tuple[str, ...]
    """Names of the label sets, at least one."""

    @property
    def case(self) -> Case:
        """The case itself."""
        return Case(dataset=self.dataset.name, name=self.case_name)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertedCase:
    """One case as the benchmark uses it, in memory."""

    case: Case
    """Which case it is."""
    image: sitk.Image
    """CT volume in LPS orientation, int16 (float32 where the source has fractions)."""
    labels: Mapping[str, sitk.Image]
    """Label set to label map, uint8, in the geometry of the image."""
    source_sha256: Mapping[str, str]
    """`image` and each label set to the SHA-256 of the source file (of the slices' digests for a DICOM series)."""
    notes: tuple[str, ...]
    """What was changed or tolerated on the way, one sentence each."""


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


@contextmanager
def collecting(problems: list[Problem]) -> Iterator[None]:
    """Append the problem of a SourceError raised inside to `problems` and go on after the block."""
    try:
        yield
    except SourceError as error:
        problems.append(error.problem)
