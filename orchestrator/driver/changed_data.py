"""Whether the downloads are still what a run has read of them: size and time of each file first, then its content."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from orchestrator.benchmark.definition import Case, Dataset
from orchestrator.errors import DataError
from orchestrator.images.problem import SourceError
from orchestrator.sources.stamps import FileStamp, SourceStamp, changed_files
from orchestrator.stages.local_download import LocalDownload, local_download, stamped
from orchestrator.stages.records.cases import NUM_THREADS, CaseRecord, read_case_record, write_case_record
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.workflow.keys import StageKey, StageKind

NUM_READERS = 4
"""That read cases at a time, of which some may be large."""
_IMAGE = PurePosixPath(run_paths.image_record(Case(dataset="d", name="n"))).stem


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """An image or a label map that a run has made of a download."""

    case: Case
    label_set: str | None
    """None for the image."""
    key: str
    """Of its record."""
    record: CaseRecord

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.case.id} {self.label_set or _IMAGE}"

    @property
    def stage(self) -> StageKey:
        """The stage that has made it."""
        if self.label_set:
            return StageKey(kind=StageKind.LABELS, case=self.case, label_set=self.label_set)
        return StageKey(kind=StageKind.INGEST, case=self.case)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedPart:
    """A part that would be made of other content now."""

    part: Part
    files: tuple[str, ...]
    """Names of what has changed, below the data folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What has become of the downloads since a run has read them."""

    changed: tuple[ChangedPart, ...]
    touched: tuple[tuple[Part, SourceStamp], ...]
    """Parts whose files look different and hold the same, with how they look now."""
    gone: tuple[Part, ...] = ()
    """Parts that were looked at closely, of which nothing can be found any more."""


def parts_of(storage: Storage) -> list[Part]:
    """Return every image and label map that a run has made, also of cases that were removed since."""
    there = run_paths.own_keys(storage, run_paths.CASES)
    kept = {run_paths.record_of_kept(key): key for key in run_paths.own_keys(storage, run_paths.SOURCES)}
    places = kept | {key: key for key in there}

    def read(key: str) -> Part:
        *_, dataset, name, part = PurePosixPath(key).with_suffix("").parts
        return Part(
            case=Case(dataset=dataset, name=name),
            label_set=None if part == _IMAGE else part,
            key=key,
            record=read_case_record(storage, places[key]),
        )

    with ThreadPoolExecutor(NUM_THREADS) as executor:
        return list(executor.map(read, sorted(places)))


def compare(parts: Sequence[Part], *, data: str, datasets: Mapping[str, Dataset], thorough: bool = False) -> Comparison:
    """Compare the downloads with what a run has read of them.

    A part is looked at closely, which may read its files, only if one of them looks different, or the file of another
    part of the same data set would be looked for elsewhere now, as where an archive was unpacked beside itself. What
    cannot be found any more is no change: nothing can be mixed with it.

    Parameters
    ----------
    parts
        What the run has made.
    data
        Location of the downloads.
    datasets
        By name.
    thorough
        Look closely at all parts.
    """
    known = [part for part in parts if part.case.dataset in datasets]
    suspects = known if thorough else _suspects(known, data=data, datasets=datasets)

    def examine(part: Part) -> tuple[Part, SourceStamp | None]:
        return part, _source_now(part, data=data, dataset=datasets[part.case.dataset])

    with ThreadPoolExecutor(NUM_READERS) as executor:
        examined = list(executor.map(examine, suspects))
    return _compared(examined)


def _suspects(parts: Sequence[Part], *, data: str, datasets: Mapping[str, Dataset]) -> list[Part]:
    """Return the parts that must be looked at closely."""
    look = _stamps_at(data, {datasets[part.case.dataset].folder for part in parts})
    differ = {part.name for part in parts if look(part.record.source.files) != part.record.source.files}
    moved = set(_moved(parts, data=data, datasets=datasets, is_clear=lambda part: part.name not in differ))
    return [part for part in parts if part.name in differ or _kind(part) in moved]


def _compared(examined: Sequence[tuple[Part, SourceStamp | None]]) -> Comparison:
    found = [(part, now) for part, now in examined if now is not None]
    changed = [(part, now) for part, now in found if now.sha256 != part.record.source.sha256]
    same = [(part, now) for part, now in found if now.sha256 == part.record.source.sha256]
    return Comparison(
        changed=tuple(ChangedPart(part=part, files=_what_changed(part.record.source, now)) for part, now in changed),
        touched=tuple((part, now) for part, now in same if now.files != part.record.source.files),
        gone=tuple(part for part, now in examined if now is None),
    )


def remember(storage: Storage, comparison: Comparison) -> None:
    """Keep how files look now that hold the same as before, so that they are not read again at the next call."""
    for part, now in comparison.touched:
        write_case_record(storage, part.key, replace(part.record, source=now))


def _kind(part: Part) -> tuple[str, str | None]:
    return part.case.dataset, part.label_set


def _what_changed(before: SourceStamp, now: SourceStamp) -> tuple[str, ...]:
    return changed_files(before.files, now.files) or tuple(file.name for file in now.files)


def _stamps_at(data: str, downloads: set[str]) -> Callable[[Sequence[FileStamp]], tuple[FileStamp, ...] | None]:
    """Return what tells how files of before look now; None if one of them is gone."""
    if "://" in data:
        storage = open_storage(data)
        there = {name: at for download in sorted(downloads) for name, at in storage.sizes_and_times(download).items()}

        def look_there(files: Sequence[FileStamp]) -> tuple[FileStamp, ...] | None:
            if any(file.name not in there for file in files):
                return None
            return tuple(stamped(file.name, there[file.name]) for file in files)

        return look_there
    seen: dict[str, tuple[int, int]] = {}

    def look_here(files: Sequence[FileStamp]) -> tuple[FileStamp, ...] | None:
        # An archive is the file of many parts.
        with suppress(OSError):
            for file in files:
                if file.name not in seen:
                    status = (Path(data) / file.name).stat()
                    seen[file.name] = status.st_size, status.st_mtime_ns
            return tuple(stamped(file.name, seen[file.name]) for file in files)
        return None

    return look_here


def _moved(
    parts: Sequence[Part], *, data: str, datasets: Mapping[str, Dataset], is_clear: Callable[[Part], bool]
) -> Iterator[tuple[str, str | None]]:
    """Yield the kinds of parts that would be looked for elsewhere now, as one of each shows."""
    from orchestrator.sources.convert import stamp_image_now, stamp_labels_now

    first: dict[tuple[str, str | None], Part] = {}
    for part in parts:
        if is_clear(part):
            first.setdefault(_kind(part), part)
    if "://" in data:
        return
    for kind, part in first.items():
        dataset = datasets[part.case.dataset]
        with suppress(SourceError):
            if part.label_set is None:
                now = stamp_image_now(part.case, dataset=dataset, label_sets=dataset.label_sets, downloads=Path(data))
            else:
                now = stamp_labels_now(part.case, dataset=dataset, label_set=part.label_set, downloads=Path(data))
            if now != part.record.source.files:
                yield kind


def _source_now(part: Part, *, data: str, dataset: Dataset) -> SourceStamp | None:
    """Return what a part would be made of now; None if that cannot be found."""
    with ExitStack() as stack:
        try:
            local = stack.enter_context(local_download(data, dataset.folder, case_name=part.case.name))
        except DataError:
            return None
        return _find(part, local=local, dataset=dataset)


def _find(part: Part, *, local: LocalDownload, dataset: Dataset) -> SourceStamp | None:
    # ITK takes a while to import, and a finished run does not need it.
    from orchestrator.sources.convert import source_of_image_now, source_of_labels_now

    try:
        if part.label_set is None:
            found = source_of_image_now(
                part.case, dataset=dataset, label_sets=dataset.label_sets, downloads=local.folder
            )
        else:
            found = source_of_labels_now(part.case, dataset=dataset, label_set=part.label_set, downloads=local.folder)
    except SourceError:
        return None
    return local.at_home(found)
