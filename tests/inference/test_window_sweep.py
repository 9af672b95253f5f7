"""Claims about predictions that are made slice by slice: their labels are those of nnU-Net's own predictor."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from bench.instruments.stock_models import REGIONS, labels_of, small_plans, write_image, write_model
from orchestrator.errors import TrainingError
from orchestrator.training.nnunet import prediction
from orchestrator.training.nnunet.model_folder import load_model_folder
from orchestrator.training.nnunet.prepared_image import prepare_image, read_images


def stock_labels(model, files, output, *, mirrors=True, step=0.5):
    """What nnU-Net itself writes."""
    predictor = nnUNetPredictor(step, True, mirrors, False, torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), None)
    predictor.predict_from_files_sequential([[str(file) for file in files]], [str(output / "stock")])
    return sitk.ReadImage(str(output / "stock.nii.gz"))


def our_predictor(model, *, mirrors=True, step=0.5):
    loaded = load_model_folder(model)
    axes = loaded.mirror_axes if mirrors else ()
    return prediction.ready_predictor(loaded.plan, loaded.weights, mirror_axes=axes, tile_step_size=step, device="cpu")


def our_labels(model, files, **options):
    predictor = our_predictor(model, **options)
    assert predictor.streams
    plan = load_model_folder(model).plan
    return predictor.labels(prepare_image(*read_images(files, plan), plan))


CASES = {
    "another spacing": ({}, {"labels": labels_of(4)}, {"shape": (13, 30, 27)}),
    "the grid of the plans": (
        {"spacing": (2.5, 1.1, 1.0)},
        {"labels": labels_of(4)},
        {"shape": (13, 30, 27)},
    ),
    "smaller than a window": ({}, {"labels": labels_of(3)}, {"shape": (4, 9, 40)}),
    "one slice": ({}, {"labels": labels_of(3)}, {"shape": (1, 33, 31)}),
    "one voxel wide": ({}, {"labels": labels_of(3)}, {"shape": (9, 33, 1)}),
    "zeros around": ({"masks": True}, {"labels": labels_of(3)}, {"shape": (12, 30, 27), "border": 5}),
    "axes in another order": ({"transpose": (2, 0, 1)}, {"labels": labels_of(3)}, {"shape": (13, 30, 27)}),
    "thick slices, kept apart": (
        {"spacing": (8.0, 1.0, 1.0), "patch": (4, 16, 16)},
        {"labels": labels_of(5)},
        {"shape": (9, 30, 27), "spacing_xyz": (0.7, 0.7, 6.0)},
    ),
    "thick slices along x, kept apart": (
        {"spacing": (1.0, 1.0, 8.0)},
        {"labels": labels_of(5)},
        {"shape": (20, 24, 9), "spacing_xyz": (6.0, 0.7, 0.8)},
    ),
    "fewer voxels than the network's": (
        {"spacing": (1.0, 0.9, 0.9)},
        {"labels": labels_of(4)},
        {"shape": (9, 14, 12), "spacing_xyz": (2.0, 2.0, 2.0)},
    ),
    "slices alone": (
        {"patch": (16, 16), "spacing": (1.5, 1.5), "configuration": "2d"},
        {"labels": labels_of(3), "mirror_axes": (0, 1)},
        {"shape": (6, 30, 27)},
    ),
    "low resolution": (
        {"configuration": "3d_lowres", "spacing": (5.0, 4.0, 4.0)},
        {"labels": labels_of(3)},
        {"shape": (16, 60, 60)},
    ),
    "two channels": (
        {"channels": ("CT", "MR")},
        {"labels": labels_of(3)},
        {"shape": (12, 26, 27), "num_channels": 2, "border": 3},
    ),
    "three folds": ({}, {"labels": labels_of(4), "folds": ("0", "1", "2")}, {"shape": (12, 26, 27)}),
    "regions": ({}, {"labels": REGIONS, "order": (1, 2, 3), "folds": ("0", "1")}, {"shape": (12, 26, 27)}),
    "regions on the grid of the plans": (
        {"spacing": (2.5, 1.1, 1.0)},
        {"labels": REGIONS, "order": (2, 1, 3)},
        {"shape": (12, 26, 27)},
    ),
    "an ignored label": ({}, {"labels": {**labels_of(3), "ignore": 3}}, {"shape": (12, 26, 27)}),
    "118 classes": ({}, {"labels": labels_of(118)}, {"shape": (12, 30, 27)}),
    "300 classes": ({"spacing": (3.0, 2.0, 2.0)}, {"labels": labels_of(300)}, {"shape": (8, 24, 20)}),
    "ties of all classes": ({}, {"labels": labels_of(6), "gain": 0.0}, {"shape": (12, 26, 27)}),
    "nearly ties": ({}, {"labels": labels_of(6), "gain": 1e-4}, {"shape": (12, 26, 27)}),
    "no number": ({}, {"labels": labels_of(6), "gain": float("nan")}, {"shape": (12, 26, 27)}),
}


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mirrors", [False, True])
def test_labels_are_those_of_nnunet(case, mirrors, tmp_path):
    plans, written, image = CASES[case]
    model = write_model(tmp_path, small_plans(**plans), **written)
    files = write_image(tmp_path / "case", **image)
    expected = sitk.GetArrayFromImage(stock_labels(model, files, tmp_path, mirrors=mirrors))
    found = our_labels(model, files, mirrors=mirrors)
    np.testing.assert_array_equal(found, expected)
    assert case in {"ties of all classes", "no number"} or len(np.unique(expected)) > 1


def test_another_step_of_windows_gives_the_labels_of_nnunet(tmp_path):
    model = write_model(tmp_path, small_plans(), labels=labels_of(5))
    files = write_image(tmp_path / "case", shape=(14, 31, 29))
    for step in (0.3, 1.0):
        expected = sitk.GetArrayFromImage(stock_labels(model, files, tmp_path, step=step))
        np.testing.assert_array_equal(our_labels(model, files, step=step), expected)


def test_an_infinite_sum_is_an_error_as_in_nnunet(tmp_path):
    model = write_model(tmp_path, small_plans(), labels=labels_of(3), gain=1e6)
    files = write_image(tmp_path / "case", shape=(12, 26, 27))
    with pytest.raises(RuntimeError, match="Encountered inf"):
        stock_labels(model, files, tmp_path)
    with pytest.raises(TrainingError, match="add up to infinity"):
        our_labels(model, files)


def test_another_resampling_is_left_to_nnunet(tmp_path):
    arguments = {"is_seg": False, "force_separate_z": False}
    plans = small_plans(
        resampling_fn_probabilities="resample_torch_fornnunet", resampling_fn_probabilities_kwargs=arguments
    )
    model = write_model(tmp_path, plans, labels=labels_of(3))
    files = write_image(tmp_path / "case", shape=(12, 26, 27))
    predictor, plan = our_predictor(model), load_model_folder(model).plan
    assert not predictor.streams
    expected = sitk.GetArrayFromImage(stock_labels(model, files, tmp_path))
    np.testing.assert_array_equal(predictor.labels(prepare_image(*read_images(files, plan), plan)), expected)


def test_predictions_in_half_precision_round_as_nnunet_rounds_them(tmp_path, monkeypatch):
    """As on a GPU: there the network gives halves, whose products with the weights are halves as well."""
    original = nnUNetPredictor._internal_maybe_mirror_and_predict
    monkeypatch.setattr(nnUNetPredictor, "_internal_maybe_mirror_and_predict", lambda self, x: original(self, x).half())
    model = write_model(tmp_path, small_plans(), labels=labels_of(5), gain=1e-3)
    files = write_image(tmp_path / "case", shape=(14, 31, 29))
    expected = sitk.GetArrayFromImage(stock_labels(model, files, tmp_path))
    np.testing.assert_array_equal(our_labels(model, files), expected)


def test_plans_of_another_network_do_not_fit(tmp_path):
    model = load_model_folder(write_model(tmp_path, small_plans(), labels=labels_of(3)))
    labels = {**model.plan.dataset_json, "labels": labels_of(4)}
    from orchestrator.errors import IntegrityError

    with pytest.raises(
        IntegrityError, match=r"seg_layers.0.weight of shape \(3, 4, 1, 1, 1\); expected \(4, 4, 1, 1, 1\)"
    ):
        prediction.ready_predictor(
            replace(model.plan, dataset_json=labels), model.weights, mirror_axes=(), tile_step_size=0.5, device="cpu"
        )
