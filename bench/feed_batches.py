"""Batches: nnU-Net's own store, loader and transforms against ours, in CPU seconds of the whole process.

Both read the same case, warm, and take turns batch by batch. Before anything is timed, patches are compared with what
the stock transforms make of the same draws.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from bench.feed_cases import FeedCase
from bench.rows import Row
from bench.stock_augmentation import augment_with_stock
from orchestrator.patches.reader import PatchFile
from orchestrator.training.augmentation import (
    PatchSettings,
    Shape,
    change_intensities,
    draw_augmentation,
    finish_image,
    plan_read,
    read_patch,
)
from orchestrator.training.loader import BatchLoader, BatchSettings, draw_start
from orchestrator.training.patch_dataset import ArrowDataset

SCALES = [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25], [0.125, 0.125, 0.125], [0.0625, 0.0625, 0.0625]]
ROTATION_RAD = (-np.pi / 6, np.pi / 6)
PATCH = (128, 128, 128)
NUM_COMPARED = 8
BATCHES_A_ROUND = 24
"""Most samples are plain crops and some cost ten times as much: a round must hold enough of both kinds."""
SAMPLES_A_ROUND = 60


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contest:
    """The same cases in both stores, and both loaders."""

    folder: Path
    names: tuple[str, ...]
    settings: BatchSettings
    stock: nnUNetDataLoader
    ours: BatchLoader


def batch_settings(patch: Shape) -> BatchSettings:
    """Return nnU-Net's settings for patches of about equal sides."""
    initial = get_patch_size(patch, *(ROTATION_RAD,) * 3, (0.85, 1.25)).tolist()
    return BatchSettings(
        patches=PatchSettings(
            patch_shape=patch,
            initial_shape=(initial[0], initial[1], initial[2]),
            is_2d=False,
            in_plane=False,
            rotation_rad=ROTATION_RAD,
            mirror_axes=(0, 1, 2),
        ),
        batch_size=2,
        oversample_foreground=0.33,
        draws_foreground=False,
        target_shapes=tuple(
            tuple(round(size * share) for size, share in zip(patch, scale, strict=True)) for scale in SCALES
        ),
        deep_supervision=True,
        augment=True,
    )


def prepare(case: FeedCase, folder: Path) -> Contest:
    """Write a case into both stores and build both loaders."""
    blocks, chunks = comp_blosc2_params(case.data.shape, PATCH, 4)
    blocks_seg, chunks_seg = comp_blosc2_params(case.seg.shape, PATCH, 2)
    target = folder / f"batches_{case.name}"
    nnUNetDatasetBlosc2.save_case(
        case.data,
        case.seg.astype(np.int16),
        case.properties,
        str(target),
        chunks=chunks,
        blocks=blocks,
        chunks_seg=chunks_seg,
        blocks_seg=blocks_seg,
    )
    ArrowDataset.save_case(case.data, case.seg, case.properties, str(target))
    names, patch, num_labels = [target.name], PATCH, len(case.properties["class_locations"])
    settings = batch_settings(patch)
    transforms = nnUNetTrainer.get_training_transforms(
        patch, ROTATION_RAD, SCALES, (0, 1, 2), False, use_mask_for_norm=[False]
    )
    stock = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(folder), names),
        settings.batch_size,
        settings.patches.initial_shape,
        patch,
        SimpleNamespace(all_labels=list(range(num_labels + 1)), has_ignore_label=False),
        oversample_foreground_percent=settings.oversample_foreground,
        transforms=transforms,
    )
    ours = BatchLoader(folder, names, settings=settings, seed=1, stream=0, num_threads=0, pinned=False)
    return Contest(folder=folder, names=tuple(names), settings=settings, stock=stock, ours=ours)


def check_equality(contest: Contest) -> tuple[float, float]:
    """Return the largest difference of an image, and the share of labels that differ, from stock for the same draws.

    Stock's transforms are given the values of our store: that is exact to half a quantisation step, which the store's
    own benchmark checks.
    """
    settings = contest.settings.patches
    largest, num_other, num_labels = 0.0, 0, 0
    for index in range(NUM_COMPARED):
        generator = np.random.default_rng([9, index])
        case = PatchFile.open(contest.folder / f"{contest.names[index % len(contest.names)]}.arrow")
        start = draw_start(case, settings, on_foreground=True, generator=generator)
        drawn = draw_augmentation(settings, num_channels=1, generator=generator)
        whole = np.empty((1, *settings.initial_shape), np.float32), np.empty(settings.initial_shape, np.int16)
        case.read_into(*whole, start=start)
        image, labels = augment_with_stock(*whole, drawn, settings=settings)
        found = np.empty((1, *settings.patch_shape), np.float32), np.empty(settings.patch_shape, np.int16)
        read_patch(
            case, drawn, settings=settings, start=start, image=found[0], segmentation=found[1], take_memory=_memory
        )
        change_intensities(found[0], drawn, settings=settings)
        finish_image(*found, drawn, settings=settings)
        found_labels = np.flip(np.maximum(found[1], 0), drawn.mirror_axes)
        largest = max(largest, float(np.abs(image - found[0]).max()))
        num_other += int((labels != found_labels).sum())
        num_labels += labels.size
    return largest, num_other / num_labels


def measure_batches(case: FeedCase, *, folder: Path, rounds: int) -> list[Row]:
    """Return the rows of whole batches and of what is read for a sample; none of a case too small for the patch.

    Raises AssertionError if patches are not those of the stock transforms.
    """
    if case.data.shape[1] < PATCH[0]:
        return []
    torch.set_num_threads(1)
    contest = prepare(case, folder)
    largest, share = check_equality(contest)
    assert largest < 5e-4, f"images differ by up to {largest:.1e}"
    assert share < 1e-5, f"{share:.1e} of the labels differ"
    must, better = (3, 6) if len(case.properties["class_locations"]) == 2 else (5, 15)
    batches = _interleaved(
        "whole batch (read, augment, collate), 128^3, CPU",
        lambda: next(contest.stock),
        contest.ours.next_batch,
        num=BATCHES_A_ROUND,
        rounds=rounds,
        must=must,
        better=better,
    )
    same = "images: largest difference from stock's; labels: share that differs"
    found = Row(measure=same, values=[largest, share], must=float("nan"), ours=f"{largest:.0e}, {share:.0e}")
    return [batches, measure_samples(contest, rounds=rounds), found]


def measure_samples(contest: Contest, *, rounds: int) -> Row:
    """Return how many times less CPU it takes to read what one sample needs: stock reads the whole initial patch."""
    settings = contest.settings.patches
    dataset = nnUNetDatasetBlosc2(str(contest.folder), list(contest.names))
    files = [PatchFile.open(contest.folder / f"{name}.arrow") for name in contest.names]
    generator = np.random.default_rng(3)
    room = int(np.prod(settings.initial_shape))
    image, segmentation = np.empty(room, np.float32), np.empty(room, np.int16)

    def read_stock() -> None:
        data, seg, _, properties = dataset.load_case(contest.names[generator.integers(len(files))])
        on_foreground = generator.random() < 0.5
        lower, upper = contest.stock.get_bbox(data.shape[1:], on_foreground, properties["class_locations"])
        box = [[a, b] for a, b in zip(lower, upper, strict=True)]
        torch.from_numpy(crop_and_pad_nd(data, box, 0)).float()
        torch.from_numpy(crop_and_pad_nd(seg, box, -1, cast_cropped_to=np.int16)).to(torch.int16)

    def read_ours() -> None:
        case = files[generator.integers(len(files))]
        start = draw_start(case, settings, on_foreground=generator.random() < 0.5, generator=generator)
        drawn = draw_augmentation(settings, num_channels=1, generator=generator)
        plan = plan_read(drawn, settings=settings, start=start)
        size = int(np.prod(plan.shape))
        case.read_into(
            image[:size].reshape(1, *plan.shape),
            segmentation[:size].reshape(plan.shape),
            start=plan.start,
            slabs=plan.slabs,
        )

    title = "patches a CPU second for training samples (plan, then read), 128^3"
    return _interleaved(title, read_stock, read_ours, num=SAMPLES_A_ROUND, rounds=rounds, must=6, better=10)


def _interleaved(
    title: str,
    stock: Callable[[], object],
    ours: Callable[[], object],
    *,
    num: int,
    rounds: int,
    must: float,
    better: float,
) -> Row:
    """Take turns `num` times a round, after a warm-up; a value a round."""
    for _ in range(3):
        stock()
        ours()
    values, totals = [], [0.0, 0.0]
    for _ in range(rounds):
        spent = [0.0, 0.0]
        for _ in range(num):
            for which, call in enumerate((stock, ours)):
                started_s = time.process_time()
                call()
                spent[which] += time.process_time() - started_s
        values.append(spent[0] / spent[1])
        totals = [total + one for total, one in zip(totals, spent, strict=True)]
    each = [f"{1e3 * total / (rounds * num):.1f} ms" for total in totals]
    return Row(measure=title, values=values, must=must, better=better, stock=each[0], ours=each[1])


def _memory(num_channels: int, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    return np.empty((num_channels, *shape), np.float32), np.empty(shape, np.int16)
