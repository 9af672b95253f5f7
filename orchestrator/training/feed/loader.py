"""Batches from patch files by threads: every batch follows from the seed and its index alone.

The samples of a batch are drawn from a counter-based generator whose counter is (batch, sample), so batch k is the same
for any number of threads, and of workers that share it, and whether or not the batches before it were ever made.
Threads are enough, since the kernels work without the GIL, and patch files are memory maps: all threads and all
trainings of a host share one page cache.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.augmentation.intensity_transforms import shrink_labels, write_labels
from orchestrator.training.feed.augmentation import (
    Augmentation,
    PatchSettings,
    Shape,
    change_intensities,
    draw_augmentation,
    finish_image,
    read_patch,
)
from orchestrator.training.feed.case_folders import CaseFolder, StoredCase

# A batch that was given out is filled again only after the next one was given out as well.
_BATCHES_IN_USE = 2
# More of them made ahead level out that they take unequal times, as what is drawn for them differs: within this memory.
_LEAST_AHEAD, _MOST_AHEAD, _BYTES_AHEAD = 2, 8, 384 * 2**20
MOST_OPEN = 256
"""Cases that a loader holds open: each takes a file descriptor, of which a process has 1024 by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSettings:
    """How batches are put together."""

    patches: PatchSettings
    batch_size: int
    """Samples of a batch, those included that other workers of the training make."""
    oversample_foreground: float
    """Share of the samples of a batch, its last ones, that are placed on a voxel of a label."""
    draws_foreground: bool
    """Whether each sample draws instead with that probability if it is one of those."""
    target_shapes: tuple[Shape, ...]
    """(z, y, x) of the labels at each resolution that the loss compares."""
    deep_supervision: bool
    """Whether the target of a batch is a list of these."""
    augment: bool
    """Whether patches are augmented."""
    regions: tuple[tuple[int, ...], ...] = ()
    """Labels of each channel of the target, where regions are learned; else the target has the labels themselves."""
    annotated: tuple[int, ...] | None = None
    """By what patch files name the voxels that somebody has annotated, where there are others: no patch is placed at
    these. None places patches anywhere."""
    own: range | None = None
    """Numbers of the samples that are made here; None for all of a batch."""

    @property
    def samples(self) -> range:
        """Numbers of the samples that are made here."""
        return range(self.batch_size) if self.own is None else self.own


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What was drawn for one sample."""

    case: str
    """Identifier."""
    start: Shape
    """First voxel (z, y, x) of the initial patch, which may lie outside of the case."""
    augmentation: Augmentation | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Batch:
    """Memory of a batch: tensors for torch and views of them, always with three spatial axes, for the kernels."""

    data: torch.Tensor
    targets: tuple[torch.Tensor, ...]
    images: NDArray[np.float32]
    labels: tuple[NDArray[np.int16], ...]
    regions: tuple[NDArray[np.bool_], ...]
    """Views of the targets, if these are regions."""

    @property
    def num_bytes(self) -> int:
        """Its memory."""
        return sum(int(tensor.nbytes) for tensor in (self.data, *self.targets))


class _Scratch(threading.local):
    """Memory for one box and one segmentation a thread, kept: fresh pages would cost as much as filling them."""

    def __init__(self) -> None:
        self._image = np.empty(0, np.float32)
        self._segmentation = np.empty(0, np.int16)
        self._patch = np.empty(0, np.int16)

    def box(self, num_channels: int, shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        size = shape[0] * shape[1] * shape[2]
        if self._segmentation.size < size:
            self._segmentation = np.empty(size, np.int16)
        if self._image.size < num_channels * size:
            self._image = np.empty(num_channels * size, np.float32)
        return self._image[: num_channels * size].reshape(num_channels, *shape), self._segmentation[:size].reshape(
            shape
        )

    def patch(self, shape: Shape) -> NDArray[np.int16]:
        size = shape[0] * shape[1] * shape[2]
        if self._patch.size < size:
            self._patch = np.empty(size, np.int16)
        return self._patch[:size].reshape(shape)


class BatchLoader:
    """Endless batches `{"data", "target", "keys"}` as nnU-Net's loader composes them.

    A batch that was given out stays as it is until the call after the next one, so a step that copies it to a GPU must
    have ended by then.
    """

    def __init__(
        self,
        folder: CaseFolder,
        cases: Sequence[str],
        *,
        settings: BatchSettings,
        seeds: tuple[int, int],
        num_threads: int,
        pinned: bool,
    ) -> None:
        """Remember what to load; nothing is read before the first batch.

        Parameters
        ----------
        folder
            Where the cases are.
        cases
            Identifiers; every sample draws one of them.
        settings
            How batches are put together.
        seeds
            Of the training and of this loader of it: loaders that differ in either give independent batches.
        num_threads
            Threads that work ahead; with 0 a batch is made when it is asked for.
        pinned
            Whether batches lie in memory from which a GPU copies by itself.
        """
        self._folder = folder
        self._cases = tuple(cases)
        self._settings = settings
        self._key = seeds
        self._num_threads = num_threads
        self._pinned = pinned
        self._position = 0
        self._opened: dict[str, StoredCase] = {}
        self._lock = threading.Lock()
        self._scratch = _Scratch()
        self._executor: ThreadPoolExecutor | None = None
        self._ahead: deque[tuple[Future[tuple[Sample, ...]], _Batch]] = deque()
        self._is_in_region = _membership(settings.regions)
        self._given: deque[_Batch] = deque()
        self._free: list[_Batch] = []
        self._more_ahead = _LEAST_AHEAD

    @property
    def position(self) -> int:
        """Index of the batch that is given out next; may be set at any time."""
        return self._position

    @position.setter
    def position(self, index: int) -> None:
        self._drop_ahead()
        self._position = index

    def __iter__(self) -> Iterator[dict[str, object]]:
        return self

    def __next__(self) -> dict[str, object]:
        return self.next_batch()

    def next_batch(self) -> dict[str, object]:
        """Return the next batch; raises IntegrityError if a patch file is missing or damaged."""
        if len(self._given) == _BATCHES_IN_USE:
            self._free.append(self._given.popleft())
        if self._num_threads:
            batch, samples = self._next_of_threads()
        else:
            batch, samples = self._take_batch(), self.draw(self._position)
            self._fill(batch, samples)
        self._position += 1
        self._given.append(batch)
        target = list(batch.targets) if self._settings.deep_supervision else batch.targets[0]
        return {"data": batch.data, "target": target, "keys": [sample.case for sample in samples]}

    def draw(self, index: int) -> tuple[Sample, ...]:
        """Draw the samples of one batch, or those of this worker: together, all workers draw what one would."""
        settings = self._settings
        first_oversampled = round(settings.batch_size * (1 - settings.oversample_foreground))
        samples = []
        for number in settings.samples:
            generator = np.random.Generator(np.random.Philox(key=self._key, counter=(0, 0, number, index)))
            name = self._cases[int(generator.integers(len(self._cases)))]
            case = self._open(name)
            if settings.draws_foreground:
                on_foreground = bool(generator.random() < settings.oversample_foreground)
            else:
                on_foreground = number >= first_oversampled
            start = draw_start(
                case,
                settings.patches,
                on_foreground=on_foreground,
                annotated=settings.annotated,
                generator=generator,
            )
            augmentation = None
            if settings.augment:
                augmentation = draw_augmentation(settings.patches, num_channels=case.shape[0], generator=generator)
            samples.append(Sample(case=name, start=start, augmentation=augmentation))
        return tuple(samples)

    def close(self) -> None:
        """End the threads; the loader can still be used and would start them again."""
        self._drop_ahead()
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _next_of_threads(self) -> tuple[_Batch, tuple[Sample, ...]]:
        """Return the oldest batch that is being made, and have one more made for every one that is missing."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._num_threads, thread_name_prefix="patches")
        # More than there are threads: none waits while a training step takes a batch.
        while len(self._ahead) < self._num_threads + self._more_ahead:
            batch = self._take_batch()
            index = self._position + len(self._ahead)
            self._ahead.append((self._executor.submit(self._make, index, batch), batch))
        future, batch = self._ahead.popleft()
        try:
            return batch, future.result()
        except BaseException:
            self._free.append(batch)
            self._drop_ahead()
            raise

    def _make(self, index: int, batch: _Batch) -> tuple[Sample, ...]:
        samples = self.draw(index)
        self._fill(batch, samples)
        return samples

    def _drop_ahead(self) -> None:
        for future, _ in self._ahead:
            future.cancel()
        while self._ahead:
            future, batch = self._ahead.popleft()
            if not future.cancelled():
                future.exception()
            self._free.append(batch)

    def _fill(self, batch: _Batch, samples: Sequence[Sample]) -> None:
        settings = self._settings.patches
        segmentation = self._scratch.patch(settings.patch_shape)
        for number, sample in enumerate(samples):
            image, augmentation = batch.images[number], sample.augmentation
            read_patch(
                self._open(sample.case),
                augmentation,
                settings=settings,
                start=sample.start,
                patch=(image, segmentation),
                take_memory=self._scratch.box,
            )
            if augmentation is not None:
                change_intensities(image, augmentation, settings=settings)
                finish_image(image, segmentation, augmentation, settings=settings)
            self._write_targets(batch, number, segmentation, augmentation.mirror_axes if augmentation else ())

    def _write_targets(
        self, batch: _Batch, number: int, segmentation: NDArray[np.int16], axes: tuple[int, ...]
    ) -> None:
        """Turn the labels around with the image and shrink them to the resolutions of the loss."""
        full = batch.labels[0][number]
        whole = full if full.shape == segmentation.shape else np.empty_like(segmentation)
        write_labels(segmentation, whole, axes=axes)
        for labels in batch.labels[0 if whole is not full else 1 :]:
            shrink_labels(whole, labels[number])
        for regions, labels in zip(batch.regions, batch.labels, strict=False):
            np.take(self._is_in_region, labels[number], axis=1, out=regions[number], mode="clip")

    def _open(self, identifier: str) -> StoredCase:
        with self._lock:
            opened = self._opened.pop(identifier, None)
            if opened is not None:
                self._opened[identifier] = opened  # as the last one: the first is closed when there are too many
                return opened
        # Two threads may open a case at the same time; either will do.
        opened = self._folder.open(identifier)
        with self._lock:
            self._opened[identifier] = opened
            if len(self._opened) > MOST_OPEN:
                del self._opened[next(iter(self._opened))]
        return opened

    def _take_batch(self) -> _Batch:
        if self._free:
            return self._free.pop()
        settings = self._settings
        num_channels = self._open(self._cases[0]).shape[0]
        size, flat = len(settings.samples), settings.patches.is_2d

        def tensor(channels: int, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
            return torch.empty((size, channels, *shape[flat:]), dtype=dtype, pin_memory=self._pinned)

        data = tensor(num_channels, settings.patches.patch_shape, torch.float32)
        shapes, num_regions = settings.target_shapes, len(settings.regions)
        labels = tuple(tensor(1, shape, torch.int16) for shape in shapes)
        regions = tuple(tensor(num_regions, shape, torch.bool) for shape in shapes if num_regions)
        batch = _Batch(
            data=data,
            targets=regions or labels,
            images=data.numpy().reshape(size, num_channels, *settings.patches.patch_shape),
            labels=tuple(one.numpy().reshape(size, *shape) for one, shape in zip(labels, shapes, strict=True)),
            regions=tuple(
                one.numpy().reshape(size, num_regions, *shape) for one, shape in zip(regions, shapes, strict=False)
            ),
        )
        self._more_ahead = max(_LEAST_AHEAD, min(_MOST_AHEAD, _BYTES_AHEAD // batch.num_bytes))
        return batch


def _membership(regions: Sequence[Sequence[int]]) -> NDArray[np.bool_]:
    """Return which labels each region has, shape (regions, highest label + 1)."""
    highest = max((label for region in regions for label in region), default=0)
    found = np.zeros((len(regions), highest + 2), np.bool_)  # whatever is higher is in none
    for number, region in enumerate(regions):
        found[number, list(region)] = True
    return found


def draw_start(
    case: StoredCase,
    settings: PatchSettings,
    *,
    on_foreground: bool,
    annotated: tuple[int, ...] | None = None,
    generator: np.random.Generator,
) -> Shape:
    """Draw the first voxel of an initial patch as nnU-Net's `get_bbox` does.

    On foreground, a label or region of the case is drawn, then one of its voxels, which becomes the middle. A case
    without any label, and every other sample, is placed anywhere, half of what the initial patch has more than the
    patch beyond the border; or in the same way on a voxel of those that are `annotated`, where some are not.
    """
    lowest, highest = [], []
    for size, initial, patch in zip(case.shape[1:], settings.initial_shape, settings.patch_shape, strict=True):
        padding = max(initial - patch, initial - size)
        lowest.append(-padding // 2)
        highest.append(size + padding // 2 + padding % 2 - initial)
    # Labels are not asked for where none is needed: of cases that nnU-Net has stored they are read at some length.
    labels = case.labels if on_foreground or annotated is not None else ()
    eligible = [label for label in labels if (label != annotated) == on_foreground] or [
        label for label in labels if label == annotated
    ]
    if eligible:
        label = eligible[int(generator.integers(len(eligible)))]
        places = case.class_locations(label)
        voxel = places[int(generator.integers(len(places)))].tolist()
        z, y, x = (
            max(low, at - initial // 2) for low, at, initial in zip(lowest, voxel, settings.initial_shape, strict=True)
        )
    else:
        z, y, x = (int(generator.integers(low, high, endpoint=True)) for low, high in zip(lowest, highest, strict=True))
    return z, y, x
