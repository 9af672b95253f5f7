"""What is in a folder of nnU-Net's raw layout, by its `dataset.json` and the names of its files: no image is opened."""

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

from orchestrator.benchmark.definition import NNUNET_RAW, Dataset
from orchestrator.benchmark.raw_dataset import RawDataset
from orchestrator.configuration import listing
from orchestrator.images.problem import SourceError
from orchestrator.images.source_file import what_is_instead
from orchestrator.sources.nnunet_raw.description import MAX_BYTES, Description, parse_description
from orchestrator.sources.nnunet_raw.files import TESTING, TRAINING, RawCases, find_cases, folder_of
from orchestrator.storage.copies import keeping_copies
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage

DESCRIPTION = "dataset.json"
_PLANE_VOXELS = 512 * 512
"""Of the slices in which the size of a typical case is counted."""
RAW_VARIABLE = "nnUNet_raw"
"""Environment variable in which users of nnU-Net keep the folder of their data sets."""


def raw_folder_of_environment() -> str | None:
    """Return the folder that nnU-Net's variable names; None if it is not set."""
    # On Windows, `set X="..."` keeps the quotes.
    return os.environ.get(RAW_VARIABLE, "").strip().strip("\"'") or None


def own_raw_folder(datasets: Iterable[Dataset]) -> str | None:
    """Return the folder that nnU-Net's variable names, if any of some data sets is in nnU-Net's layout; else None."""
    return raw_folder_of_environment() if any(one.source == NNUNET_RAW for one in datasets) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """A data set as far as names of files and its `dataset.json` show it."""

    folder: str
    """Its name below the data folder."""
    description: Description
    cases: RawCases
    typical_bytes: int
    """Of the file of one channel; 0 if there is none."""


def survey(location: str, folder: str) -> Survey:
    """Look at a data set of a data folder, local or on S3, and list what is wrong with its files.

    Parameters
    ----------
    location
        Data folder, or prefix of a bucket.
    folder
        Name of the data set's folder; its `DatasetNNN` alone is enough.

    Raises
    ------
    SourceError
        If there is no such folder, or its `dataset.json` cannot be understood.
    """
    storage = open_storage(location)
    name = find_folder(storage, folder)
    description = read_description(storage, name)
    sizes = {key.removeprefix(f"{name}/"): size for key, (size, _) in storage.sizes_and_times(name).items()}
    links = {} if storage.is_remote else _links_to_nothing(storage, name, sizes)
    images = [size for key, size in sizes.items() if key.endswith(description.file_ending) and "images" in key]
    return Survey(
        folder=name,
        description=description,
        cases=find_cases(description, sizes, links_to_nothing=links, folder=f"{location.rstrip('/')}/{name}"),
        typical_bytes=round(median(images)) if images else 0,
    )


def _links_to_nothing(storage: Storage, folder: str, there: Collection[str]) -> dict[str, str]:
    """Return the names of links in a local folder that lead nowhere, and in words where they lead."""
    root = Path(storage.location) / folder
    names = (key.removeprefix(f"{folder}/") for key in storage.list_keys(folder))
    return {name: what_is_instead(root / name) for name in names if name not in there and (root / name).is_symlink()}


class Describer:
    """Describes the data sets of a data folder to a study, and keeps what was seen of them."""

    def __init__(self, location: str, *, is_strict: bool = True) -> None:
        """Look at a data folder, or prefix on S3; unless `is_strict`, files that lack are no error but left out."""
        self._location = location
        self._is_strict = is_strict
        self.surveys: dict[str, Survey] = {}
        """By the name of the folder that a study gives."""

    def __call__(self, folder: str) -> RawDataset:
        """Return what a data set says of itself; errors as `survey`, and SourceError for files that lack."""
        seen = self.surveys[folder] = survey(self._location, folder)
        problems = seen.cases.problems
        if problems and self._is_strict:
            first = problems[0]
            more = f" (and {len(problems) - 1} more problems of this data set)" if len(problems) > 1 else ""
            raise SourceError.of(first.path, found=first.found + more, expected=first.expected, advice=first.advice)
        return described(seen)


def described(seen: Survey) -> RawDataset:
    """Return what a data set says of itself, as far as a study must know it."""
    return RawDataset(
        folder=seen.folder,
        channels=seen.description.channels,
        labels=seen.description.labels,
        regions_class_order=seen.description.regions_class_order,
        ignored_label=seen.description.ignored_label,
        cases=seen.cases.training,
        test_cases=seen.cases.testing,
        # A voxel of a compressed image takes about a byte.
        num_slices=-(-seen.typical_bytes // _PLANE_VOXELS),
        file_ending=seen.description.file_ending,
        reader=seen.description.nnunet_reader,
    )


def find_folder(storage: Storage, wanted: str) -> str:
    """Return the name of a data set's folder."""
    if storage.exists(f"{wanted}/{DESCRIPTION}"):
        return wanted
    if "://" in storage.location:
        there = sorted({key.split("/")[0] for key in storage.list_keys() if "/" in key})
    else:
        there = _folders_of(Path(storage.location))
    found = folder_of(wanted, there)
    if len(found) == 1 and storage.exists(f"{found[0]}/{DESCRIPTION}"):
        return found[0]
    raise SourceError.of(
        f"{storage.location.rstrip('/')}/{wanted}",
        found=_what_is_there(found, there=there),
        expected=f"the folder DatasetNNN_Name of a data set, with its {DESCRIPTION}",
        advice=_advice(storage, wanted),
    )


def _folders_of(root: Path) -> list[str]:
    try:
        return sorted(path.name for path in root.iterdir() if path.is_dir())
    except OSError as error:
        raise SourceError.of(
            root,
            found="no such folder"
            if isinstance(error, FileNotFoundError)
            else f"a folder that cannot be listed ({error.strerror})",
            expected="the folder with the data sets",
            advice=f"Correct --data, or {RAW_VARIABLE} where that says it.",
        ) from error


def _what_is_there(found: Sequence[str], *, there: Sequence[str]) -> str:
    if len(found) > 1:
        return f"{len(found)} folders of this number: {listing(list(found))}"
    if found:
        return f"no {DESCRIPTION} in {found[0]}"
    datasets = [name for name in there if name.startswith("Dataset")]
    others = datasets or list(there)
    return f"no such folder beside {listing(others)}" if others else "no such folder, and no other"


def _advice(storage: Storage, wanted: str) -> str:
    if wanted.startswith("Task"):
        return "Data sets of nnU-Net 1 are converted by nnUNetv2_convert_old_nnUNet_dataset."
    if storage.exists(DESCRIPTION):
        return "Pass the folder above as --data: this one is a data set itself."
    return "Pass the folder nnUNet_raw as --data."


@keeping_copies()
def read_description(storage: Storage, folder: str) -> Description:
    """Return what the `dataset.json` of a folder says; raises SourceError."""
    key = f"{folder}/{DESCRIPTION}"
    path, name = storage.fetch(key), f"{storage.location.rstrip('/')}/{key}"
    try:
        status = path.stat()
        return _parsed(path, (status.st_mtime_ns, status.st_size), name=name)
    except OSError as error:
        raise SourceError.of(
            name,
            found=f"a file that cannot be read ({error.strerror})",
            expected="nnU-Net's dataset.json",
            advice="Check its permissions.",
        ) from error


@lru_cache(maxsize=8)
def _parsed(path: Path, stamp: tuple[int, int], *, name: str) -> Description:
    """Read a description once, as long as its file looks the same: one that lists cases may be large."""
    del stamp
    with path.open("rb") as stream:
        return parse_description(stream.read(MAX_BYTES + 1), name=name)


def concerned_keys(keys: Sequence[str], *, storage: Storage, folder: str, case_name: str) -> list[str]:
    """Return which files of a data set are needed for a case, by their names below the data folder."""
    listed = read_description(storage, folder).listed if f"{folder}/{DESCRIPTION}" in keys else None
    if listed is not None:
        case = listed.get(case_name)
        wanted = {f"{folder}/{name}" for name in (DESCRIPTION, *((*case.images, case.label) if case else ()))}
        # The spacing of a stack is in a file beside it.
        beside = {name.rpartition(".")[0] for name in wanted} | {name.rpartition("_")[0] for name in wanted}
        return [key for key in keys if key in wanted or (key.endswith(".json") and key[:-5] in beside)]
    parts = {f"{folder}/{part}/" for part in (*TRAINING, *TESTING)}

    def concerns(key: str) -> bool:
        parent, _, last = key.rpartition("/")
        return key == f"{folder}/{DESCRIPTION}" or (
            f"{parent}/" in parts and last.startswith((f"{case_name}_", f"{case_name}."))
        )

    return [key for key in keys if concerns(key)]
