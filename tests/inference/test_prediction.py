"""Claims about predictions: the geometry is the image's, and what was learned is found, in 3D and in 2D."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny_training import CASES, tiny_plan, tiny_preset, train_tiny, write_all_patches, write_ball

from orchestrator.errors import DataError, IntegrityError
from orchestrator.images.geometry import geometry_of
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.nnunet.ensembles.averaged_prediction import ModelEnsemble
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.prediction import description_of, load_predictor

PRESETS = {
    "3d_fullres": tiny_preset(num_epochs=2, num_iterations_per_epoch=20),
    "2d": tiny_preset(num_epochs=2, num_iterations_per_epoch=50, max_patch_voxels=32 * 32, mirror_axes=(0, 1)),
}


@pytest.fixture(scope="module", params=PRESETS)
def model(request, tmp_path_factory):
    """A trained model of one network: plan, preset, final state, and the files of its cases."""
    folder = tmp_path_factory.mktemp(request.param)
    files = [write_ball(folder, index) for index in range(4)]
    preset = PRESETS[request.param]
    plan = tiny_plan(files, preset=preset, configuration=request.param)
    store = CheckpointStore(open_storage(str(folder / "run")), training_id="T1-infection-fold0")
    train_tiny(
        plan=plan,
        preset=preset,
        training_id="T1-infection-fold0",
        train_cases=CASES[:3],
        val_cases=(),
        patches=write_all_patches(folder / "patches", files, plan),
        checkpoint=store,
        log=lambda _: None,
        seed=0,
        device="cpu",
        num_loader_workers=0,
        on_epoch=lambda _: None,
    )
    return plan, preset, store.load_final().state, files


def predict(model, image, output, *, grid=None, description="", **changes):
    plan, preset, state, _ = model
    predictor = load_predictor(state, plan=plan, preset=replace(preset, **changes), device="cpu")
    ModelEnsemble([predictor]).predict_onto([image], output, grid=grid, description=description)
    return sitk.ReadImage(str(output))


def test_a_patch_that_cannot_be_brought_to_the_device_ends_the_prediction(model, tmp_path, monkeypatch):
    """nnU-Net brings them there in a thread, for which its loop waits without end."""

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "clone", fail)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        predict(model, model[3][3][0], tmp_path / "out.nii.gz")


def dice(reference, prediction):
    return 2 * np.count_nonzero(reference & prediction) / (reference.sum() + prediction.sum())


def test_a_prediction_has_the_geometry_of_its_image_and_finds_the_ball(model, tmp_path, capfd):
    image, labels = model[3][3]
    predicted = predict(model, image, tmp_path / "out.nii.gz")
    original = sitk.ReadImage(str(image))
    assert predicted.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    assert predicted.GetSize() == original.GetSize() == (36, 32, 24)
    assert predicted.GetSpacing() == original.GetSpacing()
    assert predicted.GetOrigin() == original.GetOrigin()
    assert predicted.GetDirection() == original.GetDirection()
    found = sitk.GetArrayFromImage(predicted)
    assert set(np.unique(found)) == {0, 1}
    reference = sitk.GetArrayFromImage(sitk.ReadImage(str(labels)))
    assert dice(reference == 1, found == 1) > 0.7
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("orientation", ["RAS", "PIR"])
def test_a_prediction_is_given_back_on_the_grid_of_the_file_that_its_image_was_made_from(model, tmp_path, orientation):
    image = model[3][3][0]
    expected = sitk.DICOMOrient(predict(model, image, tmp_path / "lps.nii.gz"), orientation)
    found = predict(model, image, tmp_path / "out.nii.gz", grid=geometry_of(expected))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    assert found.GetOrigin() == expected.GetOrigin()
    assert found.GetDirection() == expected.GetDirection()
    with pytest.raises(IntegrityError, match="not on the grid of the file that it was made from"):
        predict(model, image, tmp_path / "out.nii.gz", grid=replace(geometry_of(expected), origin_mm=(0.0, 0.0, 50.0)))


def test_another_spacing_and_zeros_around_the_body_come_back_to_the_image(model, tmp_path):
    """Half the plan's spacing in x, and ten columns of zeros that preprocessing cuts off."""
    original = sitk.ReadImage(str(model[3][3][0]))
    array = np.repeat(sitk.GetArrayFromImage(original), 2, axis=2)
    padded = sitk.GetImageFromArray(np.pad(array, ((0, 0), (0, 0), (10, 0))))
    padded.SetSpacing((3.0, 6.5, 7.0))
    sitk.WriteImage(padded, str(tmp_path / "image.nii.gz"))
    predicted = predict(model, tmp_path / "image.nii.gz", tmp_path / "out.nii.gz")
    assert predicted.GetSize() == (82, 32, 24)
    assert predicted.GetSpacing() == (3.0, 6.5, 7.0)
    found = sitk.GetArrayFromImage(predicted)
    assert found[:, :, :10].max() == 0
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(model[3][3][1])))
    assert dice(np.repeat(labels, 2, axis=2) == 1, found[:, :, 10:] == 1) > 0.7


def test_mirroring_without_an_axis_is_no_mirroring(model, tmp_path):
    plan, preset, state, files = model
    plain = predict(model, files[0][0], tmp_path / "plain.nii.gz", tile_step_size=1.0)
    no_axes = (plan, preset, {**state, "inference_allowed_mirroring_axes": ()}, files)
    mirrored = predict(
        no_axes, files[0][0], tmp_path / "mirrored.nii.gz", mirror_at_prediction=True, tile_step_size=1.0
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(plain), sitk.GetArrayFromImage(mirrored))


def test_mirrored_predictions_are_averaged_over_the_axes_of_the_training(model, tmp_path, monkeypatch):
    plan, preset, state, files = model
    flips = []
    original = torch.flip

    def counted(tensor, dims):
        flips.append(tuple(dims))
        return original(tensor, dims)

    monkeypatch.setattr(torch, "flip", counted)
    mirrored = (plan, preset, {**state, "inference_allowed_mirroring_axes": (0, 1)}, files)
    predict(mirrored, files[0][0], tmp_path / "out.nii.gz", mirror_at_prediction=True, tile_step_size=1.0)
    # Axes 0 and 1 of the image are 2 and 3 of a batch (sample, channel, ...).
    assert set(flips) == {(2,), (3,), (2, 3)}


def test_the_2d_network_mirrors_its_own_two_axes(model):
    plan, preset, state, _ = model
    # The 2D preset names (z, y); a slice has (y, x), so y is axis 0 of it and z is none.
    assert state["inference_allowed_mirroring_axes"] == {"3d_fullres": (), "2d": (0,)}[plan.configuration]
    assert preset.mirror_axes == {"3d_fullres": (), "2d": (0, 1)}[plan.configuration]


def test_a_prediction_keeps_its_description_and_what_is_no_image_has_none(model, tmp_path):
    description = f"checkpoint {'0123456789abcdef' * 4}"
    predict(model, model[3][0][0], tmp_path / "out.nii.gz", description=description)
    assert description_of(tmp_path / "out.nii.gz") == description
    predict(model, model[3][0][0], tmp_path / "plain.nii.gz")
    assert description_of(tmp_path / "plain.nii.gz") == ""
    (tmp_path / "torn.nii.gz").write_bytes((tmp_path / "out.nii.gz").read_bytes()[:60])
    assert description_of(tmp_path / "torn.nii.gz") == ""


def test_an_unreadable_image_is_named(model, tmp_path):
    torn = tmp_path / "torn.nii.gz"
    torn.write_bytes(model[3][0][0].read_bytes()[:400])
    with pytest.raises(DataError, match=r"torn\.nii\.gz: found a truncated or damaged file"):
        predict(model, torn, tmp_path / "out.nii.gz")


def test_a_checkpoint_of_another_plan_is_refused(model):
    plan, preset, state, _ = model
    other = Plan(
        plans={**plan.plans, "plans_name": "other"}, dataset_json=plan.dataset_json, configuration=plan.configuration
    )
    with pytest.raises(IntegrityError, match="was trained with plan"):
        load_predictor(state, plan=other, preset=preset, device="cpu")
