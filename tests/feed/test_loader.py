"""Claims about batches: what they are made of, and that each follows from the seed and its index alone."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy.stats import binomtest, ks_2samp

from bench.feed.batches import CUBE, SLAB
from orchestrator.errors import IntegrityError
from orchestrator.patches.reader import PatchFile
from orchestrator.patches.writer import write_patches
from orchestrator.training.feed import loader as loading
from orchestrator.training.feed.augmentation import PatchSettings
from orchestrator.training.feed.case_folders import PatchFolder
from orchestrator.training.feed.loader import BatchLoader, BatchSettings, draw_start
from orchestrator.training.feed.loader_settings import TrainerChoices, batch_settings, without_augmentation
from orchestrator.training.feed.patch_dataset import ArrowDataset

CASES = ("a", "b", "c")
PATCHES = PatchSettings(
    patch_shape=(8, 12, 12),
    initial_shape=(14, 20, 20),
    is_2d=False,
    in_plane=False,
    rotation_rad=(-0.5, 0.5),
    mirror_axes=(0, 1, 2),
)
SETTINGS = BatchSettings(
    patches=PATCHES,
    batch_size=3,
    oversample_foreground=0.33,
    draws_foreground=False,
    target_shapes=((8, 12, 12), (4, 6, 6)),
    deep_supervision=True,
    augment=True,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three cases of other shapes with a few voxels of two labels."""
    folder = tmp_path_factory.mktemp("patches")
    for index, name in enumerate(CASES):
        random = np.random.default_rng(index)
        shape = (20 + index, 30, 26 + 4 * index)
        labels = np.zeros((1, *shape), np.int8)
        labels[0, 3:5, 20:23, 4:8], labels[0, 15, 10:13, 20:23] = 1, 2
        write_patches(
            folder / f"{name}.arrow",
            data=random.standard_normal((1, *shape)).astype(np.float32),
            seg=labels,
            properties={"class_locations": {label: np.argwhere(labels == label) for label in (1, 2)}},
        )
    return folder


def loader(folder, *, num_threads=0, seed=5, stream=0, settings=SETTINGS):
    return BatchLoader(
        PatchFolder(folder), CASES, settings=settings, seeds=(seed, stream), num_threads=num_threads, pinned=False
    )


def batches(made, num):
    """Copies of the next batches; a loader fills the memory of a batch again."""
    copies = []
    for _ in range(num):
        batch = made.next_batch()
        target = batch["target"]
        target = [one.clone() for one in target] if isinstance(target, list) else [target.clone()]
        copies.append((batch["data"].clone(), *target, batch["keys"]))
    return copies


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        for part, other_part in zip(one[:-1], other[:-1], strict=True):
            assert torch.equal(part, other_part)
        assert one[-1] == other[-1]


@pytest.fixture(scope="module")
def in_order(folder):
    return batches(loader(folder), 12)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_any_number_of_threads_makes_the_same_batches(folder, in_order, num_threads):
    made = loader(folder, num_threads=num_threads)
    try:
        assert_same(batches(made, 12), in_order)
    finally:
        made.close()


@pytest.mark.parametrize(("num_bytes", "more"), [(loading._BYTES_AHEAD, 8), (1, 2)], ids=["small", "large"])
def test_as_many_batches_are_ahead_after_each_step_as_memory_allows(folder, monkeypatch, num_bytes, more):
    monkeypatch.setattr(loading, "_BYTES_AHEAD", num_bytes)
    made = loader(folder, num_threads=2)
    try:
        for _ in range(5):
            made.next_batch()
            # The one that was given out is missing until the next call.
            assert len(made._ahead) == 2 + more - 1
    finally:
        made.close()


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_loader_that_begins_at_batch_7_gives_batch_7(folder, in_order, num_threads):
    made = loader(folder, num_threads=num_threads)
    try:
        made.position = 7
        assert_same(batches(made, 3), in_order[7:10])
        assert made.position == 10
        made.position = 2
        assert_same(batches(made, 2), in_order[2:4])
    finally:
        made.close()


def test_other_seeds_and_other_streams_give_other_batches(folder, in_order):
    for changes in ({"seed": 6}, {"stream": 1}):
        assert not torch.equal(batches(loader(folder, **changes), 1)[0][0], in_order[0][0])
    assert not torch.equal(in_order[0][0], in_order[1][0])


def test_a_batch_stays_until_the_call_after_the_next(folder, in_order):
    made = loader(folder, num_threads=2)
    try:
        first = made.next_batch()["data"]
        made.next_batch()
        assert torch.equal(first, in_order[0][0])
    finally:
        made.close()


def test_a_batch_has_the_shapes_and_types_of_nnunets(in_order):
    data, full, half, keys = in_order[0]
    assert (data.shape, data.dtype) == ((3, 1, 8, 12, 12), torch.float32)
    assert (full.shape, full.dtype) == ((3, 1, 8, 12, 12), torch.int16)
    assert half.shape == (3, 1, 4, 6, 6)
    assert len(keys) == 3
    assert set(keys) <= set(CASES)
    assert all(int(batch[1].min()) >= 0 for batch in in_order)


def test_a_2d_batch_has_no_axis_of_slices(folder):
    flat = replace(
        PATCHES, patch_shape=(1, 12, 16), initial_shape=(1, 18, 24), is_2d=True, in_plane=True, mirror_axes=(1, 2)
    )
    settings = replace(SETTINGS, patches=flat, target_shapes=((1, 12, 16),), deep_supervision=False)
    data, target, _ = batches(loader(folder, settings=settings), 1)[0]
    assert data.shape == target.shape == (3, 1, 12, 16)
    assert data.std() > 0.5


def test_the_last_sample_of_a_batch_holds_foreground_and_the_others_need_not(folder):
    settings = without_augmentation(SETTINGS)
    made = loader(folder, settings=settings)
    holds = np.array([(batch[1] > 0).flatten(1).any(1).numpy() for batch in batches(made, 60)])
    # 3 x (1 - 0.33) = 2.01: two samples anywhere, the third on a voxel of a label.
    assert holds[:, 2].all()
    assert not holds[:, :2].all()


def test_with_a_drawn_share_any_sample_may_be_placed_on_foreground(folder):
    settings = replace(without_augmentation(SETTINGS), draws_foreground=True, oversample_foreground=1.0)
    assert all((batch[1] > 0).flatten(1).any(1).all() for batch in batches(loader(folder, settings=settings), 10))


@pytest.mark.parametrize("on_foreground", [False, True])
def test_patches_are_placed_where_nnunet_places_them(folder, on_foreground):
    labels = SimpleNamespace(all_labels=[0, 1, 2], has_ignore_label=False)
    stock = nnUNetDataLoader(
        ArrowDataset(str(folder), list(CASES)), 2, PATCHES.initial_shape, PATCHES.patch_shape, labels
    )
    case = PatchFile.open(folder / "b.arrow")
    np.random.seed(1)  # noqa: NPY002 - nnU-Net draws from the global generator
    expected = np.array(
        [stock.get_bbox(case.shape[1:], on_foreground, case.properties["class_locations"])[0] for _ in range(1500)]
    )
    generator = np.random.default_rng(2)
    found = np.array([draw_start(case, PATCHES, on_foreground=on_foreground, generator=generator) for _ in range(1500)])
    assert (found.min(axis=0) >= expected.min(axis=0) - 1).all()
    for axis in range(3):
        assert ks_2samp(found[:, axis], expected[:, axis]).pvalue > 1e-3


def test_cases_are_drawn_alike_often(folder):
    made = loader(folder)
    drawn = [sample.case for index in range(300) for sample in made.draw(index)]
    for name in CASES:
        assert binomtest(drawn.count(name), len(drawn), 1 / 3).pvalue > 1e-3


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_missing_patch_file_is_named(tmp_path, num_threads):
    made = loader(tmp_path, num_threads=num_threads)
    with pytest.raises(IntegrityError, match=r"[abc]\.arrow"):
        made.next_batch()
    made.close()


def test_threads_end_when_the_loader_is_closed_and_start_again_when_it_is_asked(folder, in_order):
    before = threading.active_count()
    made = loader(folder, num_threads=3)
    made.next_batch()
    made.close()
    assert threading.active_count() == before
    assert_same(batches(made, 1), in_order[1:2])
    made.close()


class Configuration:
    patch_size = (28, 256, 192)
    batch_size = 2
    use_mask_for_norm = (False, True)


@pytest.mark.parametrize("is_2d", [False, True])
def test_settings_follow_from_the_plans(is_2d):
    configuration = Configuration()
    configuration.patch_size = configuration.patch_size[is_2d:]
    made = batch_settings(
        configuration,
        LabelManager({"background": 0, "lung": 1}, None),
        TrainerChoices(
            batch_size=2,
            rotation_rad=(-1.0, 1.0),
            in_plane=not is_2d,
            initial_shape=(28, 301, 240)[is_2d:],
            mirror_axes=(0, 1, 2)[: 3 - is_2d],
            deep_supervision_scales=[[1, 1, 1][is_2d:], [1, 0.5, 0.5][is_2d:]],
            oversample_foreground=0.33,
            draws_foreground=False,
        ),
    )
    slices = 1 if is_2d else 28
    assert made.patches.patch_shape == (slices, 256, 192)
    assert made.patches.initial_shape == (slices, 301, 240)
    assert (made.patches.in_plane, made.patches.is_2d) == (True, is_2d)
    assert made.patches.mirror_axes == ((1, 2) if is_2d else (0, 1, 2))
    assert made.patches.masked_channels == (1,)
    assert made.target_shapes == ((slices, 256, 192), (slices, 128, 96))
    assert (made.regions, made.annotated) == ((), None)


@pytest.mark.parametrize("plan", [CUBE, SLAB], ids=lambda plan: plan.title)
def test_the_bench_feeds_patches_as_its_plans_say(plan):
    made = plan.settings
    assert (made.patches.patch_shape, made.batch_size) == (tuple(plan.patch), plan.batch_size)
    assert (made.regions, made.annotated) == ((), None)
