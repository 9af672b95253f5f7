"""Claims about structures that overlap, and voxels that nobody has annotated: patches, training, prediction, scores."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy.stats import ks_2samp
from tiny_training import Killed, Run, assert_same_weights, tiny_plan, tiny_preset, write_all_patches

from orchestrator.benchmark.definition import LabelSet, Structure
from orchestrator.patches.reader import PatchFile
from orchestrator.training.feed.augmentation import PatchSettings
from orchestrator.training.feed.case_folders import PatchFolder
from orchestrator.training.feed.loader import BatchLoader, BatchSettings, draw_start
from orchestrator.training.feed.loader_settings import TrainerChoices, batch_settings
from orchestrator.training.feed.patch_dataset import ArrowDataset
from orchestrator.training.nnunet.ensembles.averaged_prediction import ModelEnsemble
from orchestrator.training.nnunet.planning import _labels
from orchestrator.training.nnunet.prediction import load_predictor

WHOLE = Structure(name="whole", label=1, tolerance_mm=3.0, region=(1, 2))
CORE = Structure(name="core", label=2, tolerance_mm=3.0, region=(2,))
REGIONS = LabelSet(name="regions", structures=(WHOLE, CORE))
LABELS = LabelSet(
    name="labels",
    structures=(Structure(name="rim", label=1, tolerance_mm=3.0), Structure(name="core", label=2, tolerance_mm=3.0)),
)
LABEL_SETS = {
    "regions": REGIONS,
    "labels with ignore": replace(LABELS, ignored_label=3),
    "regions with ignore": replace(REGIONS, ignored_label=3),
}
KEYS = {
    "regions": {(1, 2), 2},
    "labels with ignore": {1, 2, (-1, 0, 1, 2)},
    "regions with ignore": {(1, 2), 2, (-1, 0, 1, 2)},
}
"""What patch files keep the voxels of."""
PRESET = tiny_preset(num_epochs=8, num_iterations_per_epoch=12, checkpoint_every_s=1e9)


def write_nested_balls(folder, index, *, ignored):
    """A bright core in a less bright ball; with `ignored`, nobody has annotated the lower third of the image."""
    random = np.random.default_rng(index)
    shape = (24, 32, 36)
    z, y, x = np.ogrid[tuple(slice(0, size) for size in shape)]
    distance = ((z - 12) / 7) ** 2 + ((y - 14 - index) / 9) ** 2 + ((x - 15 - index) / 9) ** 2
    labels = (distance < 1).astype(np.uint8) + (distance < 0.4)
    image = np.choose(labels, [-600, 0, 600]) + random.integers(-50, 50, shape)
    if ignored:
        labels[:8] = ignored
    paths = []
    for name, array in (("image", image.astype(np.int16)), ("labels", labels.astype(np.uint8))):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((6.0, 6.5, 7.0))
        paths.append(folder / f"case_{index}_{name}.nii.gz")
        sitk.WriteImage(volume, str(paths[-1]))
    return tuple(paths)


@pytest.fixture(scope="module", params=LABEL_SETS)
def setting(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    label_set = LABEL_SETS[request.param]
    files = [write_nested_balls(folder, index, ignored=label_set.ignored_label) for index in range(4)]
    plan = tiny_plan(files, preset=PRESET, label_set=label_set)
    return request.param, files, plan, write_all_patches(folder / "patches", files, plan)


def test_dataset_json_says_what_nnunet_must_know(setting):
    name, _, plan, _ = setting
    labels = plan.label_manager
    assert labels.has_regions == name.startswith("regions")
    assert labels.ignore_label == (3 if "ignore" in name else None)
    assert labels.num_segmentation_heads == (2 if labels.has_regions else 3)
    if labels.has_regions:
        assert labels.foreground_regions == [(1, 2), 2]
        assert labels.regions_class_order == [1, 2]


def test_regions_of_one_label_each_are_labels():
    only = LabelSet(name="x", structures=(CORE, Structure(name="rim", label=1, tolerance_mm=1.0, region=(1,))))
    assert _labels(only) == {"labels": {"background": 0, "core": 2, "rim": 1}}


def test_patch_files_keep_voxels_of_regions_and_of_all_that_is_annotated(setting):
    name, _, _, patches = setting
    case = PatchFile.open(patches / "balls--case_1.arrow")
    assert set(case.labels) == KEYS[name]
    for key in case.labels:
        z, y, x = case.class_locations(key).T
        found = np.asarray(case.segmentation)[0, z, y, x]
        assert set(np.unique(found)) <= ({*key} if isinstance(key, tuple) else {key})
        assert len(found)


def settings_of(plan, *, augment, mirror_axes=()):
    manager = plan.configuration_manager
    made = batch_settings(
        manager,
        plan.label_manager,
        TrainerChoices(
            batch_size=manager.batch_size,
            rotation_rad=(-0.5, 0.5),
            in_plane=False,
            initial_shape=manager.patch_size,
            mirror_axes=mirror_axes,
            deep_supervision_scales=[[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]],
            oversample_foreground=0.33,
            draws_foreground=False,
        ),
    )
    return replace(made, augment=augment)


def test_targets_are_those_of_nnunets_transforms(setting):
    """Of patches that are only cropped, which nnU-Net's transforms are given as they lie in the files."""
    _, _, plan, patches = setting
    settings = settings_of(plan, augment=False)
    labels = plan.label_manager
    stock = nnUNetTrainer.get_validation_transforms(
        [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]],
        foreground_labels=labels.foreground_labels,
        regions=labels.foreground_regions if labels.has_regions else None,
        ignore_label=labels.ignore_label,
    )
    assert isinstance(stock, ComposeTransforms)
    made = BatchLoader(
        PatchFolder(patches), ["balls--case_2"], settings=settings, seeds=(3, 0), num_threads=0, pinned=False
    )
    case = PatchFile.open(patches / "balls--case_2.arrow")
    for index in range(6):
        batch = made.next_batch()
        for number, sample in enumerate(made.draw(index)):
            image = np.empty((1, *settings.patches.patch_shape), np.float32)
            segmentation = np.empty(settings.patches.patch_shape, np.int16)
            case.read_into(image, segmentation, start=sample.start)
            expected = stock(image=torch.from_numpy(image), segmentation=torch.from_numpy(segmentation[None]))
            for found, wanted in zip(batch["target"], expected["segmentation"], strict=True):
                assert found.dtype == wanted.dtype
                assert torch.equal(found[number], wanted)


@pytest.mark.parametrize("on_foreground", [False, True])
def test_patches_are_placed_where_nnunet_places_them(setting, on_foreground):
    name, _, plan, patches = setting
    shape = (8, 12, 12)
    places = PatchSettings(
        patch_shape=shape, initial_shape=shape, is_2d=False, in_plane=False, rotation_rad=(0, 0), mirror_axes=()
    )
    stock = nnUNetDataLoader(ArrowDataset(str(patches), ["balls--case_0"]), 2, shape, shape, plan.label_manager)
    case = PatchFile.open(patches / "balls--case_0.arrow")
    np.random.seed(1)  # noqa: NPY002 - nnU-Net draws from the global generator
    locations = case.properties["class_locations"]
    expected = np.array([stock.get_bbox(case.shape[1:], on_foreground, locations)[0] for _ in range(1500)])
    generator = np.random.default_rng(2)
    annotated = settings_of(plan, augment=False).annotated
    assert (annotated is not None) == ("ignore" in name)
    found = np.array(
        [
            draw_start(case, places, on_foreground=on_foreground, annotated=annotated, generator=generator)
            for _ in range(1500)
        ]
    )
    for axis in range(3):
        assert ks_2samp(found[:, axis], expected[:, axis]).pvalue > 1e-3


def dice(reference, prediction):
    return 2 * (reference & prediction).sum() / (reference.sum() + prediction.sum())


def test_a_training_learns_them_is_resumed_exactly_and_predicts_label_maps(setting, tmp_path):
    name, files, plan, patches = setting
    run = Run(tmp_path / "run", (plan, patches), preset=PRESET).go()
    assert "nnU-Net's own pipeline" not in run.text
    assert run.reports[-1].train_loss < run.reports[0].train_loss
    with pytest.raises(Killed):
        Run(tmp_path / "killed", (plan, patches), preset=replace(PRESET, checkpoint_every_s=0.0), kill_after=2).go()
    resumed = Run(tmp_path / "killed", (plan, patches), preset=PRESET).go()
    assert_same_weights(resumed.weights, run.weights)
    image, labels = files[3]
    predictor = load_predictor(run.store.load_final().state, plan=plan, preset=PRESET, device="cpu")
    ModelEnsemble([predictor]).predict_onto([image], tmp_path / "prediction.nii.gz")
    predicted, reference = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (tmp_path / "prediction.nii.gz", labels)
    )
    assert set(np.unique(predicted)) <= {0, 1, 2}
    counts = reference != 3
    assert dice((reference > 0) & counts, (predicted > 0) & counts) > 0.7
    # It knows the ball where nobody has annotated it as well: what is ignored is not learned as background.
    if "ignore" in name:
        assert (predicted[5:8, 12:16, 14:18] > 0).mean() > 0.5


def test_nnunets_own_pipeline_trains_them_as_well(setting, tmp_path):
    _, _, plan, patches = setting
    preset = replace(PRESET, num_epochs=1, num_iterations_per_epoch=2, augmentation="nnunet")
    run = Run(tmp_path, (plan, patches), preset=preset).go()
    assert np.isfinite(run.reports[0].train_loss)


def test_regions_in_two_dimensions_are_targets_of_two_axes(setting):
    _, files, _, patches = setting
    flat = tiny_plan(files, preset=PRESET, label_set=REGIONS, configuration="2d")
    settings = BatchSettings(
        patches=PatchSettings(
            patch_shape=(1, 16, 16), initial_shape=(1, 20, 20), is_2d=True, in_plane=True,
            rotation_rad=(-1, 1), mirror_axes=(1, 2),
        ),
        batch_size=2, oversample_foreground=1.0, draws_foreground=True, target_shapes=((1, 16, 16), (1, 8, 8)),
        deep_supervision=True, augment=True, regions=((1, 2), (2,)),
    )  # fmt: skip
    assert flat.label_manager.num_segmentation_heads == 2
    made = BatchLoader(
        PatchFolder(patches), ["balls--case_2"], settings=settings, seeds=(3, 0), num_threads=0, pinned=False
    )
    targets = [made.next_batch()["target"][0].clone() for _ in range(20)]
    assert {tuple(target.shape) for target in targets} == {(2, 2, 16, 16)}
    whole, core = torch.cat(targets).unbind(1)
    assert core.any()
    assert (whole | ~core).all()  # the core is a part of the whole
