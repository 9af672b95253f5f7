"""The patch store against nnU-Net's own: bytes, CPU of writing and reading, and a patch from the disk."""

import gc
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from numpy.typing import NDArray

from bench.feed.cases import FeedCase, write_stock
from bench.instruments.rows import Row
from orchestrator.patches.reader import PatchFile
from orchestrator.patches.writer import write_patches

MAX_WRITES = 3
NUM_BOXES = 12
Size = tuple[int, int, int]
Patch = tuple[NDArray[np.float32], NDArray[np.int16]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stores:
    """One case in both stores."""

    folder: Path
    name: str
    patch_size: Size

    @property
    def ours(self) -> Path:
        """Our file."""
        return self.folder / f"{self.name}.arrow"

    @property
    def stock(self) -> tuple[Path, ...]:
        """Stock's three files."""
        return tuple(self.folder / f"{self.name}{ending}" for ending in (".b2nd", "_seg.b2nd", ".pkl"))

    def write_ours(self, case: FeedCase) -> None:
        """As preprocessing does."""
        write_patches(self.ours, data=case.data, seg=case.seg, properties=case.properties)

    def write_stock(self, case: FeedCase) -> None:
        """As `DefaultPreprocessor.run_case_save` does."""
        write_stock(case, self.folder / self.name, patch=self.patch_size)


def patch_size_of(case: FeedCase) -> Size:
    """Return what nnU-Net plans for such cases: a cube, or a slab where there are few slices."""
    return (128, 128, 128) if case.data.shape[1] >= 128 else (56, 192, 160)


def measure_store(case: FeedCase, *, folder: Path, rounds: int) -> list[Row]:
    """Write a case to both stores, compare what comes back, then measure; raises AssertionError if they differ."""
    stores = Stores(folder=folder, name=case.name, patch_size=patch_size_of(case))
    stores.write_ours(case)  # compiles
    writing = []
    for _ in range(min(rounds, MAX_WRITES)):
        for path in stores.stock:
            path.unlink(missing_ok=True)  # stock does not write over its files
        writing.append((cpu_s(lambda: stores.write_stock(case)), cpu_s(lambda: stores.write_ours(case))))
    starts = draw_starts(case, stores.patch_size)
    check(stores, case, starts)
    sizes = sum(path.stat().st_size for path in stores.stock), stores.ours.stat().st_size
    return [
        Row(
            measure="bytes on disk with class locations",
            values=[sizes[1] / sizes[0]],
            must=0.35 if case.name.startswith("wide") else 0.65,
            better=0.30 if case.name.startswith("wide") else 0.40,
            is_less_better=True,
            stock=f"{sizes[0] / 1e6:.1f} MB",
            ours=f"{sizes[1] / 1e6:.1f} MB",
        ),
        _speed("CPU of writing a case", writing, must=8, better=12),
        *_reading(stores, starts, rounds=rounds),
        _speed("cold patch, wall", _cold(stores, starts, rounds=rounds), must=3, better=4),
    ]


def draw_starts(case: FeedCase, patch_size: Size) -> list[Size]:
    """Draw boxes as nnU-Net's loader does: a third around voxels of a label, the others anywhere."""
    random = np.random.default_rng(5)
    shape = case.data.shape[1:]
    labels = [places for places in case.properties["class_locations"].values() if len(places)]
    starts = []
    for index in range(NUM_BOXES):
        upper = [max(0, size - patch) for size, patch in zip(shape, patch_size, strict=True)]
        start = [int(random.integers(0, last + 1)) for last in upper]
        if index % 3 == 0:
            places = labels[random.integers(len(labels))]
            voxel = places[random.integers(len(places)), 1:]
            start = [
                int(min(last, max(0, v - patch // 2))) for v, patch, last in zip(voxel, patch_size, upper, strict=True)
            ]
        starts.append((start[0], start[1], start[2]))
    return starts


def check(stores: Stores, case: FeedCase, starts: list[Size]) -> None:
    """Raise AssertionError unless both stores give the same boxes, also beyond the borders, and class locations."""
    beyond = [(-9, -20, -30), tuple(n - 40 for n in case.data.shape[1:])]
    arrays, buffers, patches = open_stock(stores), empty_patch(stores), PatchFile.open(stores.ours)
    for start in [*starts, *beyond]:
        image, labels = read_stock(arrays, start, stores.patch_size)  # type: ignore[arg-type]
        patches.read_into(*buffers, start=start)
        error = np.abs(buffers[0].astype(np.float64) - image).max()
        assert error <= 2**-10, f"{stores.ours}: box at {start} differs by {error}"
        np.testing.assert_array_equal(buffers[1], labels[0])
    for label, places in case.properties["class_locations"].items():
        np.testing.assert_array_equal(patches.class_locations(label), np.reshape(places, (-1, 4))[:, 1:])


def empty_patch(stores: Stores) -> Patch:
    """Return arrays for one patch of ours."""
    return np.zeros((1, *stores.patch_size), np.float32), np.zeros(stores.patch_size, np.int16)


def open_stock(stores: Stores) -> tuple[object, object]:
    """Open a case as stock's loader does for every sample, with its properties."""
    data, seg, _, _ = nnUNetDatasetBlosc2(str(stores.folder), [stores.name]).load_case(stores.name)
    return data, seg


def read_stock(arrays: tuple[object, object], start: Size, patch_size: Size) -> Patch:
    """Read one box as stock's loader does."""
    box = [[first, first + size] for first, size in zip(start, patch_size, strict=True)]
    return crop_and_pad_nd(arrays[0], box, 0), crop_and_pad_nd(arrays[1], box, -1, cast_cropped_to=np.int16)


def _reading(stores: Stores, starts: list[Size], *, rounds: int) -> list[Row]:
    """Measure warm boxes, of cases that are open and as each loader gets at them."""
    arrays, buffers, patches = open_stock(stores), empty_patch(stores), PatchFile.open(stores.ours)
    for start in starts:  # maps pages and, with ours, compares checksums: once a case, not once a sample
        read_stock(arrays, start, stores.patch_size)
        patches.read_into(*buffers, start=start)
    boxes, samples = [], []
    for _ in range(rounds):
        for start in starts:
            boxes.append(
                (
                    thread_s(lambda at=start: read_stock(arrays, at, stores.patch_size)),
                    thread_s(lambda at=start: patches.read_into(*buffers, start=at)),
                )
            )
            samples.append(
                (
                    thread_s(lambda at=start: read_stock(open_stock(stores), at, stores.patch_size)),
                    thread_s(lambda at=start: patches.read_into(*buffers, start=at)),
                )
            )
    return [
        _speed("patches per CPU second, same box", boxes, must=3, better=5),
        _speed("patches per CPU second, with what each loader opens for a sample", samples),
    ]


def _cold(stores: Stores, starts: list[Size], *, rounds: int) -> list[tuple[float, float]]:
    """Measure the wall time of opening a case and reading a box when nothing of it is in memory."""
    buffers = empty_patch(stores)
    times = []
    for _ in range(min(rounds, 3)):
        for start in starts:
            drop_from_memory(stores.stock)
            stock_s = wall_s(lambda at=start: read_stock(open_stock(stores), at, stores.patch_size))
            drop_from_memory([stores.ours])
            ours_s = wall_s(lambda at=start: PatchFile.open(stores.ours).read_into(*buffers, start=at))
            times.append((stock_s, ours_s))
    return times


def drop_from_memory(paths: object) -> None:
    """Write files back and drop them from the page cache; what is mapped would stay."""
    gc.collect()
    for path in paths:  # type: ignore[attr-defined]
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _speed(
    measure: str, times: list[tuple[float, float]], *, must: float = float("nan"), better: float = float("nan")
) -> Row:
    """Return the row of times (stock, ours) that were taken in turn: the ratio of their medians."""
    stock_s, ours_s = (statistics.median(column) for column in zip(*times, strict=True))
    return Row(
        measure=measure,
        values=[stock_s / ours_s],
        must=must,
        better=better,
        stock=f"{1e3 * stock_s:.2f} ms",
        ours=f"{1e3 * ours_s:.2f} ms",
    )


def cpu_s(action: Callable[[], object]) -> float:
    """CPU time of all threads: stock writes with four."""
    return _elapsed_s(action, time.process_time)


def thread_s(action: Callable[[], object]) -> float:
    """CPU time of this thread."""
    return _elapsed_s(action, time.thread_time)


def wall_s(action: Callable[[], object]) -> float:
    """Wall time."""
    return _elapsed_s(action, time.perf_counter)


def _elapsed_s(action: Callable[[], object], clock: Callable[[], float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began_s = clock()
        action()
        return clock() - began_s
