"""Submissions: label maps of other methods, each a folder with a name, and whether they are complete."""

import os.path
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.configuration import is_folder, listing
from orchestrator.errors import ConfigError, DataError, StorageError
from orchestrator.images.label_maps import SUFFIXES
from orchestrator.scoring.folders import is_label_map
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that spreadsheets calculate."""
_TEXT = "'"
"""Before it, it is a text to them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """The label maps of one method."""

    name: str
    """As tables show it; strangers choose it."""
    folder: Storage

    @classmethod
    def named(cls, name: str, folder: Storage) -> "Submission":
        """Return the label maps of a folder, under a name that no spreadsheet calculates."""
        return cls(name=f"{_TEXT}{name}" if name.startswith(_FORMULA) else name, folder=folder)


def submissions_of(texts: Sequence[str]) -> tuple[Submission, ...]:
    """Return what a command line names: METHOD=FOLDER, or a folder in which every folder is a method.

    Raises ConfigError for a folder that is not there, one without folders, and two methods of one name.
    """
    found = [submission for text in texts for submission in _submissions(text)]
    by_name: dict[str, Submission] = {}
    for one in found:
        other = by_name.setdefault(one.name, one)
        if other is not one:
            raise ConfigError(
                f"{one.name}: found twice, {other.folder.location} and {one.folder.location}; expected names of their "
                "own. Give one with METHOD=FOLDER"
            )
    if not found:
        raise ConfigError("found no submission; expected METHOD=FOLDER, or a folder in which every folder is a method")
    return tuple(found)


def _submissions(text: str) -> Iterator[Submission]:
    name, is_named, location = text.partition("=")
    if is_named and not is_folder(text) and not name.count("/"):
        if not name.strip() or not location:
            raise ConfigError(f"{text}: expected METHOD=FOLDER")
        if "://" not in location and not is_folder(location):
            raise ConfigError(f"{location}: no such folder; expected one with the label maps of {name}")
        yield Submission.named(name.strip(), _storage(location))
        return
    names = _folders_in(text)
    if not names:
        raise ConfigError(f"{text}: found no folder in it; expected one for each method, or METHOD=FOLDER")
    for one in names:
        # A name that is no UTF-8 is shown as far as it is.
        name = one.encode(errors="surrogateescape").decode(errors="replace")
        yield Submission.named(name, _storage(f"{text.rstrip('/')}/{one}"))


def _storage(location: str) -> Storage:
    # It is named in a record, which may be read from another folder.
    return open_storage(location if "://" in location else str(Path(location).absolute()))


def _folders_in(location: str) -> list[str]:
    if "://" in location:
        keys = open_storage(location).list_keys()
        names = {key.partition("/")[0] for key in keys if "/" in key}
    elif is_folder(location):
        names = {path.name for path in Path(location).iterdir() if path.is_dir()}
    else:
        raise ConfigError(f"{location}: no such folder; expected METHOD=FOLDER, or a folder with one for each method")
    # What macOS and tools leave behind.
    return sorted(name for name in names if not name.startswith((".", "__MACOSX")))


def what_lacks(submission: Submission, *, keys_of_cases: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a sentence on cases that a submission lacks, one on label maps that are of no case, and what else is odd.

    `keys_of_cases` are the names that the label map of each case may have.
    """
    if submission.name.removeprefix(_TEXT).startswith(_FORMULA):
        yield f"shown with {_TEXT} before its name, which a spreadsheet would take for a formula in leaderboard.csv"
    try:
        keys = {key for key in submission.folder.list_keys() if is_label_map(key)}
    except (DataError, StorageError, OSError) as error:
        yield f"cannot be listed: {error}"
        return
    lacking = [case for case, names in keys_of_cases.items() if keys.isdisjoint(names)]
    others = sorted(keys.difference(*keys_of_cases.values()))
    if lacking:
        hint = f"; found {others[0]}: name the folder that holds the label maps" if _is_deeper(others, lacking) else ""
        yield f"{len(lacking)} of {len(keys_of_cases)} cases have no label map ({listing(lacking)}){hint}"
    if others:
        yield f"{len(others)} label maps have the name of no case ({listing(others)}); expected one of a reference"
    if elsewhere := [key for key in sorted(keys) if _leads_elsewhere(submission.folder.location, key)]:
        yield f"{len(elsewhere)} label maps are links to files outside of the folder ({listing(elsewhere)})"
    if not keys:
        yield f"no label map in {submission.folder.location}; expected {', '.join(SUFFIXES)}"


def _leads_elsewhere(location: str, key: str) -> bool:
    """Whether a file of a folder is a link out of it, perhaps to a reference."""
    if "://" in location:
        return False
    # A link that leads in a circle ends at itself here; other ways to follow links raise.
    folder, file = (Path(os.path.realpath(path)) for path in (location, f"{location}/{key}"))
    return not file.is_relative_to(folder)


def _is_deeper(others: Sequence[str], lacking: Sequence[str]) -> bool:
    """Whether the files that lack are in a folder of the folder."""
    return bool({key.rpartition("/")[2] for key in others if "/" in key}.intersection(lacking))
