"""What a bundle says of its run, in `run.json`."""

import json
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.configuration import first_problem
from orchestrator.errors import IntegrityError
from orchestrator.workflow.looks import LookPlan

FORMAT = 1
_PACKAGES = ("nnunet-orchestrator", "numpy", "scipy", "pandas", "pyarrow", "matplotlib", "jinja2")
"""That the files of a bundle are made with."""


class RunFacts(BaseModel):
    """A run, without anything of the machine that it ran on."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    format: int
    """Of the bundle."""
    study_sha256: str
    """As the run has recorded it."""
    preset: dict[str, object]
    """How much was trained: every field of it."""
    seed: int
    phantoms: bool
    """Whether any of the data were generated."""
    trainings: list[str]
    """Ids of all that were asked for."""
    failures: dict[str, str]
    """Stage that failed for good to what it said."""
    warnings: list[str]
    """What is hardly right about the data."""
    alike: list[dict[str, object]] = []
    """Cases whose images show the same, as their voxels told."""
    license: str
    """Address of the licence of the bundle; empty if none is stated."""
    made_with: dict[str, str]
    """Package to version."""
    until_decided: LookPlan | None = None
    """Its looks, if it ends once its questions are answered."""
    sealed: dict[str, str]
    """Digest of each other file from which the rest follows, by its path."""

    def to_bytes(self) -> bytes:
        """Return the file; bundles in which nothing is alike, or without looks, are as those of before."""
        optional = {"alike", "until_decided"}
        told = {name: value for name, value in self.model_dump().items() if name not in optional or value}
        return (json.dumps(told, indent=1) + "\n").encode()

    @staticmethod
    def from_bytes(content: bytes) -> "RunFacts":
        """Return what a file says; raises IntegrityError if it is not of that kind."""
        try:
            found = RunFacts.model_validate_json(content)
        except ValidationError as error:
            raise IntegrityError(f"run.json: {first_problem(error)}; expected what a bundle says of its run") from error
        if found.format != FORMAT:
            raise IntegrityError(f"run.json: a bundle of format {found.format}; expected {FORMAT}")
        return found


def made_with() -> dict[str, str]:
    """Return the versions of what makes the files of a bundle."""
    found = {"python": python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
