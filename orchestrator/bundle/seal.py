"""Packs a run into a bundle, and checks one without the run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from orchestrator.bundle import names
from orchestrator.bundle.archive import archive_of, read_archive
from orchestrator.bundle.collect import inputs_of
from orchestrator.bundle.crate import crate_metadata
from orchestrator.bundle.derived import Derived, derived_from
from orchestrator.bundle.differences import differences
from orchestrator.bundle.facts import made_with
from orchestrator.bundle.redaction import check_tells_nothing, telling_locations
from orchestrator.driver.request import RunRequest
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage

Derive = Callable[[Mapping[str, bytes]], Derived]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """A bundle that was written."""

    sha256: str
    """Of the file."""
    num_files: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What was found in a bundle."""

    sha256: str
    """Of the file: compare it with what was published."""
    problems: tuple[str, ...]
    """What is not as it was sealed, a line each; nothing if it is whole."""
    num_files: int
    num_compared: int
    """Files that were calculated anew."""
    notes: tuple[str, ...] = ()
    """What could not be compared, and why, and what is written otherwise with the same values."""


def write_bundle(request: RunRequest, storage: Storage, *, target: Path, license_url: str = "") -> Sealed:
    """Write the bundle of a run; equal runs give equal bytes.

    Parameters
    ----------
    request
        Of the run.
    storage
        Its output location.
    target
        The zip.
    license_url
        Address of the licence under which it is handed on.

    Raises
    ------
    ConfigError
        If nothing is scored yet, a file of the study holds a path or key, or the zip is a folder.
    StorageError
        If the zip cannot be written.
    """
    if target.is_dir():
        raise ConfigError(f"{target}: a folder; expected the name of a zip to write")
    inputs = inputs_of(request, storage, license_url=license_url)
    derived = derived_from(inputs)
    if derived.problems:
        raise ConfigError(f"{storage.location}: {derived.problems[0]}; expected a run whose parts fit together")
    files = {**inputs, **derived.files}
    files[names.CRATE] = _crate(files, derived)
    for name, content in files.items():
        check_tells_nothing(name, content, locations=telling_locations(storage.location, request.data or ""))
    content = archive_of(files)
    # Whole or not at all: the bundle of before stays if this one cannot be written.
    open_storage(target.parent).write_bytes(target.name, content)
    return Sealed(sha256=sha256(content).hexdigest(), num_files=len(files) + 1, num_bytes=len(content))


def check_bundle(path: Path, *, derive: Derive = derived_from) -> Checked:
    """Return what is not as it was sealed in a bundle: every byte, row, cell or file.

    Raises
    ------
    DataError
        For what is no zip, or one with names that lead elsewhere, links, or too many bytes.
    """
    archive = read_archive(path)
    inputs = {name: content for name, content in archive.files.items() if names.is_input(name)}
    problems = list(archive.problems)
    compared = 0
    notes: tuple[str, ...] = ()
    try:
        derived = derive(inputs)
        differing, rewritten = _compare(archive.files, derived)
        problems += [*derived.problems, *differing]
        compared = len(derived.files) + 1
        notes = tuple(_notes(derived, rewritten))
    except OrchestratorError as error:
        problems.append(f"cannot be calculated anew: {error}")
    except Exception as error:
        # Rows and studies of strangers contradict each other in more ways than are looked for.
        problems.append(
            f"cannot be calculated anew ({type(error).__name__}: {error}); expected parts that fit together"
        )
    return Checked(
        sha256=archive.sha256,
        problems=tuple(problems),
        num_files=len(archive.files),
        num_compared=compared,
        notes=notes,
    )


def _crate(files: Mapping[str, bytes], derived: Derived) -> bytes:
    return crate_metadata(files, facts=derived.facts, title=derived.title, trainings=derived.origins)


def _compare(files: Mapping[str, bytes], derived: Derived) -> tuple[list[str], list[str]]:
    """Return what is another in the files that follow from others, and which have other bytes for the same values."""
    found = {name: content for name, content in files.items() if not (names.is_input(name) or name == names.MANIFEST)}
    has_same_figures = not _other_versions(derived, "matplotlib", "jinja2")
    expected = {
        **derived.files,
        names.CRATE: _crate(files, derived),
    }
    problems: list[str] = []
    rewritten: list[str] = []
    for name in sorted({*found, *expected}):
        if name not in found:
            problems.append(f"{name}: missing; it follows from the rows")
        elif name not in expected:
            problems.append(f"{name}: added; nothing that is packed leads to it")
        elif found[name] != expected[name]:
            with_figures = has_same_figures or name != run_paths.REPORT_PAGE
            lines = differences(name, found[name], expected[name], with_figures=with_figures)
            problems += lines
            if with_figures and not lines:
                rewritten.append(name)
    return problems, rewritten


def _notes(derived: Derived, rewritten: list[str]) -> Iterator[str]:
    if other := _other_versions(derived, "matplotlib", "jinja2"):
        yield f"figures were compared by their digests alone: made with {', '.join(other)}"
    # Another build of pyarrow compresses otherwise, another processor sums in another order.
    for name in rewritten:
        yield f"{name}: other bytes, same values, as another build of numpy or pyarrow writes them"


def _other_versions(derived: Derived, *packages: str) -> list[str]:
    """Return which packages a bundle was made with in another version than there is here."""
    here, there = made_with(), derived.facts.made_with
    return [f"{name} {there.get(name)}" for name in packages if there.get(name) != here[name]]
