"""Batches: nnU-Net's own store, loader and transforms against ours, in CPU seconds of the whole process.

Both read the same case, warm, and take turns batch by batch. Before anything is timed, patches are compared with what
the stock transforms make of the same draws.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from bench.feed.cases import FeedCase, write_stock
from bench.feed.stock_augmentation import augment_with_stock
from bench.instruments.rows import Row
from orchestrator.patches.reader import PatchFile
from orchestrator.training.feed.augmentation import (
    Shape,
    change_intensities,
    draw_augmentation,
    finish_image,
    plan_read,
    read_patch,
)
from orchestrator.training.feed.case_folders import PatchFolder
from orchestrator.training.feed.loader import BatchLoader, BatchSettings, draw_start
from orchestrator.training.feed.loader_settings import TrainerChoices, batch_settings
from orchestrator.training.feed.nnunet_folder import NnunetCase, NnunetFolder
from orchestrator.training.feed.patch_dataset import ArrowDataset

NUM_COMPARED = 8
BATCHES_A_ROUND = 24
"""Most samples are plain crops and some cost ten times as much: a round must hold enough of both kinds."""
SAMPLES_A_ROUND = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchPlan:
    """Patches as nnU-Net plans and augments them."""

    title: str
    patch: tuple[int, ...]
    """(z, y, x), or (y, x) of a 2d network."""
    batch_size: int
    rotation_rad: tuple[float, float]
    strides: tuple[tuple[int, ...], ...]
    """From each resolution of the network to the next one."""
    in_plane: bool = False
    """Whether slices are so few that patches are rotated and scaled within them."""

    @property
    def scales(self) -> list[list[float]]:
        """Size of each output of the network as a share of the patch."""
        steps = np.cumprod([(1,) * len(self.patch), *self.strides], axis=0)
        return (1 / steps).tolist()

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """All of the patch."""
        return tuple(range(len(self.patch)))

    @property
    def initial_shape(self) -> list[int]:
        """Of the patch before it is rotated and scaled."""
        first = int(self.in_plane)
        rotated = get_patch_size(self.patch[first:], *(self.rotation_rad,) * 3, (0.85, 1.25)).tolist()
        return [*self.patch[:first], *map(int, rotated)]

    @property
    def settings(self) -> BatchSettings:
        """Of our loader."""
        chosen = TrainerChoices(
            batch_size=self.batch_size,
            rotation_rad=self.rotation_rad,
            in_plane=self.in_plane,
            initial_shape=self.initial_shape,
            mirror_axes=self.mirror_axes,
            deep_supervision_scales=self.scales,
            oversample_foreground=0.33,
            draws_foreground=False,
        )
        labels = SimpleNamespace(has_regions=False, has_ignore_label=False)
        return batch_settings(SimpleNamespace(patch_size=self.patch, use_mask_for_norm=[False]), labels, chosen)


CUBE = PatchPlan(
    title="128^3", patch=(128,) * 3, batch_size=2, rotation_rad=(-np.pi / 6, np.pi / 6), strides=((2, 2, 2),) * 4
)
SLAB = PatchPlan(
    title="28 x 256 x 256",
    patch=(28, 256, 256),
    batch_size=2,
    rotation_rad=(-np.pi, np.pi),
    strides=((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
    in_plane=True,
)
SLICE = PatchPlan(
    title="12 slices 512 x 512, 2d",
    patch=(512, 512),
    batch_size=12,
    rotation_rad=(-np.pi, np.pi),
    strides=((2, 2),) * 6,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contest:
    """The same cases in both stores, and both loaders."""

    folder: Path
    names: tuple[str, ...]
    plan: PatchPlan
    stock: nnUNetDataLoader
    ours: BatchLoader


def prepare(case: FeedCase, folder: Path, plan: PatchPlan) -> Contest:
    """Write a case into both stores and build both loaders."""
    folder = folder / "_".join(map(str, plan.patch))
    folder.mkdir()
    target = folder / case.name
    write_stock(case, target, patch=plan.patch)
    ArrowDataset.save_case(case.data, case.seg, case.properties, str(target))
    names, num_labels = [target.name], len(case.properties["class_locations"])
    transforms = nnUNetTrainer.get_training_transforms(
        plan.patch, plan.rotation_rad, plan.scales, plan.mirror_axes, plan.in_plane, use_mask_for_norm=[False]
    )
    choose_convolutions(transforms, plan)
    stock = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(folder), names),
        plan.batch_size,
        plan.initial_shape,
        plan.patch,
        SimpleNamespace(all_labels=list(range(num_labels + 1)), has_ignore_label=False),
        oversample_foreground_percent=plan.settings.oversample_foreground,
        transforms=transforms,
    )
    ours = BatchLoader(PatchFolder(folder), names, settings=plan.settings, seeds=(1, 0), num_threads=0, pinned=False)
    return Contest(folder=folder, names=tuple(names), plan=plan, stock=stock, ours=ours)


def choose_convolutions(transforms: object, plan: PatchPlan) -> None:
    """Let stock's blur find out now, once, by which method each of its kernels is applied: it would be timed later."""
    parts = getattr(transforms, "transforms", None) or [getattr(transforms, "transform", None)]
    for part in parts:
        if isinstance(part, GaussianBlurTransform):
            for sigma in (part.blur_sigma[0], part.blur_sigma[1]):
                image = torch.zeros(1, *plan.patch)
                part.apply({"image": image}, apply_to_channel=torch.tensor([0]), sigmas=[[sigma] * len(plan.patch)])
        elif part is not None:
            choose_convolutions(part, plan)


@dataclass(kw_only=True, slots=True)
class Differences:
    """What is different from stock for the same draws."""

    image: float = 0.0
    """Largest difference, stock having read what our store holds: that is exact to half a quantisation step."""
    rounded_image: float = 0.0
    """The same with intensities as they were before they were stored; a gamma stretches their rounding."""
    num_labels: int = 0
    num_voxels: int = 0

    @property
    def label_share(self) -> float:
        """Share of the labels that differ."""
        return self.num_labels / self.num_voxels


def compare_with_stock(contest: Contest) -> Differences:
    """Augment the same patches with both."""
    settings = contest.plan.settings.patches
    exact = nnUNetDatasetBlosc2(str(contest.folder), list(contest.names))
    found = Differences()
    for index in range(NUM_COMPARED):
        generator = np.random.default_rng([9, index])
        name = contest.names[index % len(contest.names)]
        case = PatchFile.open(contest.folder / f"{name}.arrow")
        start = draw_start(case, settings, on_foreground=True, generator=generator)
        drawn = draw_augmentation(settings, num_channels=1, generator=generator)
        stored = np.empty((1, *settings.initial_shape), np.float32), np.empty(settings.initial_shape, np.int16)
        case.read_into(*stored, start=start)
        box = [[first, first + size] for first, size in zip(start, settings.initial_shape, strict=True)]
        unrounded = crop_and_pad_nd(exact.load_case(name)[0], box, 0)
        image, labels = augment_with_stock(*stored, drawn, settings=settings)
        image_of_unrounded, _ = augment_with_stock(unrounded, stored[1], drawn, settings=settings)
        patch = np.empty((1, *settings.patch_shape), np.float32), np.empty(settings.patch_shape, np.int16)
        read_patch(case, drawn, settings=settings, start=start, patch=(patch[0], patch[1]), take_memory=_memory)
        change_intensities(patch[0], drawn, settings=settings)
        finish_image(*patch, drawn, settings=settings)
        our_labels = np.flip(np.maximum(patch[1], 0), drawn.mirror_axes)
        found.image = max(found.image, float(np.abs(image - patch[0]).max()))
        found.rounded_image = max(found.rounded_image, float(np.abs(image_of_unrounded - patch[0]).max()))
        found.num_labels += int((labels != our_labels).sum())
        found.num_voxels += labels.size
    return found


def measure_batches(case: FeedCase, *, folder: Path, rounds: int) -> list[Row]:
    """Return the rows of whole batches, of cubes where a case has the slices for them and of flat patches else.

    Raises AssertionError if patches are not those of the stock transforms.
    """
    torch.set_num_threads(1)
    if case.data.shape[1] < CUBE.patch[0]:
        return [row for plan in (SLAB, SLICE) for row in _measure_plan(prepare(case, folder, plan), rounds=rounds)]
    contest = prepare(case, folder, CUBE)
    goals = (3, 6) if len(case.properties["class_locations"]) == 2 else (5, 15)
    return [*_measure_plan(contest, rounds=rounds, goals=goals), *measure_samples(contest, rounds=rounds)]


def _measure_plan(
    contest: Contest, *, rounds: int, goals: tuple[float, float] = (float("nan"), float("nan"))
) -> list[Row]:
    """Return the rows of batches of one plan, compared before they are timed."""
    title, found = contest.plan.title, compare_with_stock(contest)
    assert found.image < 5e-4, f"{title}: images differ by up to {found.image:.1e}"
    assert found.label_share < 1e-5, f"{title}: {found.label_share:.1e} of the labels differ"
    batches = _interleaved(
        f"whole batch (read, augment, collate), {title}, CPU",
        lambda: next(contest.stock),
        contest.ours.next_batch,
        num=BATCHES_A_ROUND,
        rounds=rounds,
        must=goals[0],
        better=goals[1],
    )
    differences = Row(
        measure=f"{title}: largest difference of images, the same before they were rounded, share of labels",
        values=[float("nan")],
        must=float("nan"),
        ours=f"{found.image:.0e}, {found.rounded_image:.0e}, {found.label_share:.0e}",
    )
    return [batches, differences]


def measure_samples(contest: Contest, *, rounds: int) -> list[Row]:
    """Return how many times less CPU it takes to read what one sample needs, against each of two others.

    Stock reads the whole initial patch. The same plan is also read from stock's files, which tells what ours are for.
    """
    settings = contest.plan.settings.patches
    dataset = nnUNetDatasetBlosc2(str(contest.folder), list(contest.names))
    files = [PatchFile.open(contest.folder / f"{name}.arrow") for name in contest.names]
    stock_files = [NnunetFolder(dataset).open(name) for name in contest.names]
    room = int(np.prod(settings.initial_shape))
    image, segmentation = np.empty(room, np.float32), np.empty(room, np.int16)

    def read_stock(generator: np.random.Generator) -> None:
        data, seg, _, properties = dataset.load_case(contest.names[generator.integers(len(files))])
        on_foreground = generator.random() < 0.5
        lower, upper = contest.stock.get_bbox(data.shape[1:], on_foreground, properties["class_locations"])
        box = [[a, b] for a, b in zip(lower, upper, strict=True)]
        torch.from_numpy(crop_and_pad_nd(data, box, 0)).float()
        torch.from_numpy(crop_and_pad_nd(seg, box, -1, cast_cropped_to=np.int16)).to(torch.int16)

    def read_planned(cases: Sequence[PatchFile | NnunetCase], generator: np.random.Generator) -> None:
        case = cases[int(generator.integers(len(cases)))]
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
    draws, stock_draws = np.random.default_rng(3), np.random.default_rng(3)
    numbers = {"num": SAMPLES_A_ROUND, "rounds": rounds}
    return [
        _interleaved(
            title, lambda: read_stock(stock_draws), lambda: read_planned(files, draws), must=6, better=10, **numbers
        ),
        _interleaved(
            f"{title}, against nnU-Net's files read by the same plan",
            lambda: read_planned(stock_files, stock_draws),
            lambda: read_planned(files, draws),
            must=2,
            better=3,
            **numbers,
        ),
    ]


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
