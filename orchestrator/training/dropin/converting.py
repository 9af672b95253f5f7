"""From nnU-Net's preprocessed files to patch files, and back: each case is compared before it gets its name."""

import pickle
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, infer_dataset_class, nnUNetDatasetBlosc2
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from orchestrator.configuration import expect_known
from orchestrator.errors import ConfigError, DataError, IntegrityError, StorageError
from orchestrator.patches.reader import PatchFile
from orchestrator.patches.writer import Precision, write_patches, write_with_origin
from orchestrator.storage.json_values import JsonObject
from orchestrator.storage.local import STALE_AFTER_S, LocalStorage, storage_error
from orchestrator.training.dropin.prepared import (
    PATCHES,
    SOURCES,
    is_of_sources,
    origin_of,
    own_identifiers,
    source_files,
)
from orchestrator.training.feed.case_folders import FILE_ENDING
from orchestrator.training.feed.nnunet_folder import read_properties, reading_preprocessed
from orchestrator.training.feed.patch_dataset import ArrowDataset
from orchestrator.training.nnunet.environment import prints_to_log

Target = Literal["patches", "blosc2"]
Held = tuple[NDArray[np.generic], NDArray[np.generic], JsonObject]
"""Image, segmentation and properties of a case."""
_UNFINISHED = ".unfinished-"
_GO_ON = "Free space, and run the same command again"
_UNIT_SD = {"ZScoreNormalization", "CTNormalization"}
"""After which intensities are counted in standard deviations, so that 2^-10 is nothing; after others it may be much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """The cases of one configuration."""

    configuration: str
    folder: Path
    """Of nnU-Net's files; that of patch files lies in it."""
    precision: Precision
    """Of patch files."""
    patch_shape: tuple[int, ...]
    """Of the configuration, by which nnU-Net cuts its files into blocks."""
    target: Target
    """What is written."""

    @property
    def cases(self) -> tuple[str, ...]:
        """Identifiers of what there is to convert, sorted."""
        if self.target == "patches":
            return tuple(sorted(own_identifiers(self.folder)))
        return tuple(ArrowDataset.get_identifiers(str(self.folder / PATCHES)))

    def convert(self, identifier: str) -> bool:
        """Write one case; returns False if it was there already.

        Raises
        ------
        IntegrityError
            If a file is not whole, or what was written is not what was read.
        DataError
            If a case has what patch files cannot hold.
        """
        return self._to_patches(identifier) if self.target == "patches" else self._to_blosc2(identifier)

    def _to_patches(self, identifier: str) -> bool:
        name, folder = f"{identifier}.{FILE_ENDING}", self.folder / PATCHES
        sources = source_files(self.folder, identifier)
        if self._is_there(folder / name, sources):
            return False
        origin = origin_of(sources) | {"precision": self.precision}
        data, seg, properties = _read(self.folder, identifier)
        with LocalStorage(str(folder)).writing(name) as path:
            write_patches(path, data=data, seg=seg, properties=properties, origin=origin, precision=self.precision)
            written = PatchFile.open(path)
            _refuse_other(folder / name, (data, seg, properties), _held(written), tolerance=written.image.max_error)
        return True

    def _is_there(self, path: Path, sources: Iterable[Path]) -> bool:
        """Whether a patch file is whole, in the precision that is asked for, and of these files as they are now."""
        if not path.is_file():
            return False
        try:
            case = PatchFile.open(path)
            if case.origin.get("precision") != self.precision or not is_of_sources(case, sources):
                return False
            case.verify()
        except IntegrityError:
            return False
        return True

    def _to_blosc2(self, identifier: str) -> bool:
        case = PatchFile.open(self.folder / PATCHES / f"{identifier}.{FILE_ENDING}")
        held = _held(case)
        is_there = self._holds(identifier, held, tolerance=case.image.max_error)
        if not is_there:
            self._write_blosc2(identifier, held)
        if not is_of_sources(case, sources := source_files(self.folder, identifier)):
            # Else the trainer would take the patch file for one of other files.
            with LocalStorage(str(case.path.parent)).writing(case.path.name) as path:
                write_with_origin(path, of=case.path, origin=case.origin | origin_of(sources))
        return not is_there

    def _write_blosc2(self, identifier: str, held: Held) -> None:
        data, seg, properties = held
        with _unfinished(self.folder) as folder:
            blocks, chunks = comp_blosc2_params(data.shape, self.patch_shape, data.itemsize)
            blocks_seg, chunks_seg = comp_blosc2_params(seg.shape, self.patch_shape, seg.itemsize)
            nnUNetDatasetBlosc2.save_case(
                data,
                seg,
                properties,
                str(folder / identifier),
                chunks=chunks,
                blocks=blocks,
                chunks_seg=chunks_seg,
                blocks_seg=blocks_seg,
            )
            _refuse_other(self.folder / identifier, held, _read(folder, identifier), tolerance=0.0)
            # The last one is that by which nnU-Net finds cases.
            for ending in reversed(SOURCES):
                (folder / f"{identifier}{ending}").replace(self.folder / f"{identifier}{ending}")

    def _holds(self, identifier: str, held: Held, *, tolerance: float) -> bool:
        """Whether nnU-Net's files of a case are there and whole; raises IntegrityError if they hold something else."""
        if not all((self.folder / f"{identifier}{ending}").is_file() for ending in SOURCES):
            return False
        try:
            found = _read(self.folder, identifier)
        except IntegrityError:
            return False
        if other := _differences(found, held, tolerance=tolerance):
            raise IntegrityError(
                f"{self.folder / identifier}{SOURCES[0]}: another {other} than its patch file has; nothing was "
                "written. Remove the one that is out of date, and run this again"
            )
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """What became of the cases of one configuration."""

    num_written: int
    num_there: int
    """Were converted already."""
    failed: tuple[str, ...]
    """A line for each that could not be converted, sorted."""

    @classmethod
    def of(cls, outcomes: Sequence[bool | Exception]) -> "Converted":
        """Count what `Conversion.convert` has returned, or raised."""
        failed = sorted(_line(outcome) for outcome in outcomes if isinstance(outcome, Exception))
        num_written = sum(outcome is True for outcome in outcomes)
        return cls(num_written=num_written, num_there=len(outcomes) - num_written - len(failed), failed=tuple(failed))


def _line(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)


def find_conversions(
    dataset: str, *, configurations: Sequence[str], plans_name: str, target: Target, lossless: bool
) -> list[Conversion]:
    """Return what there is to convert of a data set; of all its configurations if none is named.

    Raises
    ------
    ConfigError
        If nnU-Net's variables are not set, or there is no such data set, plan or configuration.
    """
    base = _dataset_folder(dataset)
    path = base / f"{plans_name}.json"
    if not path.is_file():
        there = ", ".join(sorted(found.stem for found in base.glob("*lans*.json"))) or "none"
        raise ConfigError(f"{path}: no such plans; there are {there}. Name others with -p")
    try:
        planned = list(_planned(path, configurations, target=target, lossless=lossless))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not whole plans of nnU-Net ({type(error).__name__}: {error})") from error
    found: list[Conversion] = []
    for conversion in planned:
        # Configurations may share a folder, as the two last ones of a cascade do.
        if conversion.cases and conversion.folder not in {other.folder for other in found}:
            found.append(conversion)
        elif configurations and not conversion.cases:
            raise ConfigError(f"{conversion.folder}: no cases to convert; expected those of nnUNetv2_preprocess")
    if not found:
        raise ConfigError(f"{base}: no cases to convert; expected those of nnUNetv2_preprocess")
    return found


def _planned(path: Path, configurations: Sequence[str], *, target: Target, lossless: bool) -> Iterator[Conversion]:
    """Return configurations of plans, all if none is named, whether they were preprocessed or not."""
    plans = PlansManager(str(path))
    expect_known(configurations, plans.available_configurations, where=str(path), what="configuration")
    for name in configurations or plans.available_configurations:
        manager = plans.get_configuration(name)
        is_exact = lossless or not _UNIT_SD.issuperset(manager.normalization_schemes)
        yield Conversion(
            configuration=name,
            folder=path.parent / manager.data_identifier,
            precision="lossless" if is_exact else "quantised",
            patch_shape=tuple(map(int, manager.patch_size)),
            target=target,
        )


def convert_all(
    conversions: Sequence[Conversion], *, num_threads: int, on_case: Callable[[int, int], None]
) -> Mapping[str, Converted]:
    """Convert every case that is not converted yet; returns what became of them, by configuration.

    A case that cannot be converted does not keep the others from it.

    Parameters
    ----------
    conversions
        What there is to do.
    num_threads
        Cases at a time.
    on_case
        Called with the number of cases that are done and that of all.

    Raises
    ------
    StorageError
        If a disk is full or a folder cannot be written to: no other case would fare better.
    """
    for conversion in conversions:
        _sweep(conversion.folder)
    outcomes: dict[str, list[bool | Exception]] = {conversion.configuration: [] for conversion in conversions}
    with ThreadPoolExecutor(num_threads, thread_name_prefix="convert") as executor:
        futures = {
            executor.submit(conversion.convert, case): conversion.configuration
            for conversion in conversions
            for case in conversion.cases
        }
        try:
            for num_done, future in enumerate(as_completed(futures), 1):
                try:
                    outcome: bool | Exception = future.result()
                except (DataError, IntegrityError, OSError) as error:
                    outcome = error
                outcomes[futures[future]].append(outcome)
                on_case(num_done, len(futures))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    return {configuration: Converted.of(found) for configuration, found in outcomes.items()}


def _dataset_folder(dataset: str) -> Path:
    if not nnUNet_preprocessed.is_set():
        raise ConfigError("nnUNet_preprocessed is not set; expected the folder of preprocessed data sets")
    try:
        with prints_to_log():
            name = maybe_convert_to_dataset_name(int(dataset) if dataset.isdecimal() else dataset)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{dataset}: {' '.join(str(error).split())}") from error
    folder: Path = Path(nnUNet_preprocessed) / str(name)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected a data set of nnUNetv2_plan_and_preprocess")
    return folder


def _read(folder: Path, identifier: str) -> Held:
    """Return image, segmentation and properties of a case that nnU-Net has preprocessed."""
    kind = infer_dataset_class(str(folder))
    path = folder / f"{identifier}.pkl"
    properties = read_properties(path)
    try:
        with reading_preprocessed(folder / identifier):
            data, seg, *_ = kind(str(folder), [identifier]).load_case(identifier)
        return np.asarray(data[:]), np.asarray(seg[:]), properties
    except (KeyError, RuntimeError, ValueError) as error:
        raise IntegrityError(f"{folder / identifier}: cannot be read ({error}). Preprocess it again") from error
    except pickle.UnpicklingError as error:
        raise IntegrityError(f"{path}: cannot be read ({error}). Preprocess it again") from error


def _held(case: PatchFile) -> Held:
    """Return image, segmentation and properties of a patch file."""
    return np.asarray(case.image), np.asarray(case.segmentation), dict(case.properties)


def _refuse_other(path: Path, given: Held, found: Held, *, tolerance: float) -> None:
    """Raise IntegrityError unless what is read back is what was to be written."""
    if other := _differences(given, found, tolerance=tolerance):
        raise IntegrityError(f"{path}: another {other} than was to be written; nothing was left")


def _differences(given: Held, found: Held, *, tolerance: float) -> str:
    """Return which parts of a case differ, in words; nothing if none does."""
    is_same = {
        "image": given[0].dtype == found[0].dtype
        and given[0].shape == found[0].shape
        and _within(given[0], found[0], tolerance),
        "segmentation": given[1].dtype == found[1].dtype and np.array_equal(given[1], found[1]),
        "properties": _is_equal(given[2], found[2]),
    }
    return " and ".join(what for what, same in is_same.items() if not same)


def _within(given: NDArray[np.generic], found: NDArray[np.generic], tolerance: float) -> bool:
    """Whether numbers differ by no more than a tolerance; slice by slice, which needs little memory."""
    if not tolerance:
        return bool(np.array_equal(given, found, equal_nan=given.dtype.kind == "f"))
    return all(
        np.abs(one - other).max(initial=0) <= tolerance
        for channel, other_channel in zip(given, found, strict=True)
        for one, other in zip(channel, other_channel, strict=True)
    )


def _is_equal(given: object, found: Any) -> bool:
    """Whether properties are the same, numbers of numpy's being Python's."""
    match given:
        case Mapping():
            return given.keys() == found.keys() and all(_is_equal(value, found[key]) for key, value in given.items())
        case np.ndarray():
            return np.array_equal(given, found)
        case list() | tuple():
            is_alike = isinstance(found, list | tuple) and len(given) == len(found)
            return is_alike and all(_is_equal(one, other) for one, other in zip(given, found, strict=True))
    return bool(given == found or (given != given and found != found))  # noqa: PLR0124 - NaN


def _sweep(folder: Path) -> None:
    """Remove what a conversion that was killed has left, when it is so old that none still writes it."""
    LocalStorage(str(folder / PATCHES)).sweep()
    for left in folder.glob(f"{_UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > STALE_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """Context with a new folder within another, whose files nnU-Net does not see; removed at the end."""
    made = folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
    try:
        made.mkdir()
        yield made
    except OSError as error:
        raise storage_error(folder, "write into", error, advice=_GO_ON) from error
    except RuntimeError as error:
        # blosc2 has no other word for a disk that is full.
        free_mib = shutil.disk_usage(folder).free >> 20
        raise StorageError(f"{folder}: blosc2 cannot write ({error}); {free_mib} MiB are free. {_GO_ON}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
