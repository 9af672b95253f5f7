"""Which files a training reads: patch files where all cases have been converted, else nnU-Net's own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from orchestrator.errors import ConfigError
from orchestrator.patches.reader import PatchFile
from orchestrator.storage.json_values import JsonObject
from orchestrator.storage.local import file_sha256
from orchestrator.training.feed.case_folders import FILE_ENDING, CaseFolder, PatchFolder
from orchestrator.training.feed.nnunet_folder import NnunetFolder
from orchestrator.training.feed.patch_dataset import ArrowDataset, register_arrow_dataset

PATCHES = FILE_ENDING
"""Folder of patch files within that of nnU-Net's files: nnU-Net looks at files alone, and removes both together."""
SOURCES = (".b2nd", "_seg.b2nd", ".pkl")
"""Of a case, what follows its identifier in the names of nnU-Net's files."""
_SOURCES_BEFORE = (".npz",)
"""Of releases that had no blosc2."""
_CONVERT = "orchestrator convert-preprocessed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Preprocessed cases of one configuration."""

    folder: Path
    """Of files that a data set class of nnU-Net's reads."""
    kind: str
    """What is in it, in words."""

    @classmethod
    def of(cls, stock: Path) -> "Prepared":
        """Choose for a folder that nnU-Net has preprocessed; raises ConfigError if it holds nothing to read."""
        register_arrow_dataset()
        converted = set(ArrowDataset.get_identifiers(str(stock / PATCHES)))
        own = set(own_identifiers(stock))
        if not (converted or own):
            raise ConfigError(f"{stock}: no preprocessed cases; expected those of nnUNetv2_preprocess")
        if not converted >= own:
            return cls(folder=stock, kind="nnU-Net's own files")
        _refuse_stale(stock, converted)
        return cls(folder=stock / PATCHES, kind="patch files")

    def identifiers(self) -> Iterable[str]:
        """Return the names of the cases."""
        if self.kind == "patch files":
            return ArrowDataset.get_identifiers(str(self.folder))
        return own_identifiers(self.folder)

    def cases(self) -> CaseFolder:
        """Return the cases for a loader."""
        if self.kind == "patch files":
            return PatchFolder(self.folder)
        return NnunetFolder(infer_dataset_class(str(self.folder))(str(self.folder)))

    @property
    def text(self) -> str:
        """For the log."""
        return f"Batches from {self.kind} in {self.folder}"


def own_identifiers(stock: Path) -> Iterable[str]:
    """Return the cases that nnU-Net finds in a folder; none if there are none, or it is not there.

    Raises ConfigError where nnU-Net cannot tell which files are cases.
    """
    if not stock.is_dir() or not any(path.is_file() and path.suffix != ".pkl" for path in stock.iterdir()):
        return ()
    try:
        kind = infer_dataset_class(str(stock))
    except (AssertionError, KeyError) as error:
        endings = ", ".join(sorted({path.suffix or path.name for path in stock.iterdir() if path.is_file()}))
        raise ConfigError(
            f"{stock}: files that end in {endings}, by which nnU-Net cannot tell how to read it; expected those of "
            "nnUNetv2_preprocess alone. Remove the others"
        ) from error
    found: Iterable[str] = kind.get_identifiers(str(stock))
    return found


def source_files(stock: Path, identifier: str) -> list[Path]:
    """Return nnU-Net's files of a case that are there."""
    endings = (*SOURCES, *_SOURCES_BEFORE)
    return [path for ending in endings if (path := stock / f"{identifier}{ending}").is_file()]


def origin_of(sources: Iterable[Path]) -> JsonObject:
    """Return what a patch file says of the files that it is made of: bytes, time (ns) and digest of each."""
    # The time first: what is changed while it is read has another one afterwards.
    return {"sources": {path.name: [*_size_and_time(path), file_sha256(path)] for path in sources}}


def is_of_sources(case: PatchFile, sources: Iterable[Path]) -> bool:
    """Whether a patch file was made of these files, as they are now.

    A file of the same size and time is taken for the same; one of another time is read, since copies may get new ones.
    """
    recorded = case.origin.get("sources", {})
    return all(_is_as_recorded(path, recorded.get(path.name)) for path in sources)


def _is_as_recorded(path: Path, recorded: Sequence[object] | None) -> bool:
    if recorded is None:
        return False
    num_bytes, time_ns, sha256 = recorded
    found_bytes, found_ns = _size_and_time(path)
    return found_bytes == num_bytes and (found_ns == time_ns or file_sha256(path) == sha256)


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _refuse_stale(stock: Path, converted: Iterable[str]) -> None:
    for identifier in sorted(converted):
        path = stock / PATCHES / f"{identifier}.{FILE_ENDING}"
        if not is_of_sources(PatchFile.open(path), source_files(stock, identifier)):
            raise ConfigError(
                f"{path}: made of other files than {stock} holds now; run {_CONVERT} again, or remove {path.parent}"
            )
