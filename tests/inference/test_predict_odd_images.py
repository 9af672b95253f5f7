"""Claims about images that are no usual CT: said with numbers, measured only where they have a volume, never mixed."""

import io
import shutil

import dicom_phantom as phantom
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image

import orchestrator
from bench.instruments.stock_models import labels_of, small_plans, write_image, write_model
from orchestrator.errors import ConfigError
from orchestrator.inference.products.overlays import overlay_pngs
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.nnunet.model_folder import load_model_folder

TRAINING = "tif-2d-fold0"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), small_plans(), labels=labels_of(3), mirror_axes=None)


def of_pictures(folder, *, channels=("CT",), ending=".png"):
    plans = small_plans(
        patch=(16, 16), spacing=(1, 1), configuration="2d", channels=channels, reader="NaturalImage2DIO"
    )
    return write_model(folder, plans, labels=labels_of(3), ending=ending, mirror_axes=None)


def predicted(model, images, output, **options):
    return orchestrator.predict(model, images, output=output, device="cpu", **options)


def changed(folder, change, *, ending=".mha"):
    """A scan that was changed, as a file of its own."""
    (file,) = write_image(folder / "x", shape=(9, 20, 18))
    image = change(sitk.Cast(sitk.ReadImage(str(file)), sitk.sitkFloat32))
    file.unlink()
    sitk.WriteImage(image, str(folder / f"scan{ending}"))
    return folder / f"scan{ending}"


def test_infinite_intensities_are_said_and_the_picture_shows_the_others(model, tmp_path):
    def change(image):
        voxels = sitk.GetArrayFromImage(image)
        # 81 of 3240 voxels.
        voxels[3:6, 4:7, 2:11] = np.inf
        broken = sitk.GetImageFromArray(voxels)
        broken.CopyInformation(image)
        return broken

    model = shutil.copytree(model, tmp_path / "model")
    description = (model / "dataset.json").read_text()
    (model / "dataset.json").write_text(description.replace(".nii.gz", ".mha"))
    (row,) = predicted(model, changed(tmp_path, change), tmp_path / "out", overlays=True)
    assert row.status == "predicted"
    assert "2.5 % of the intensities are no numbers" in row.message
    picture = np.asarray(Image.open(tmp_path / "out" / "overlays" / "scan.png"))
    assert (picture.max(axis=2) > 0).mean() > 0.5


@pytest.mark.parametrize(("channel", "value"), [("CT", np.nan), ("MR", np.nan), ("MR", np.inf)])
def test_an_image_of_which_a_network_would_be_given_no_numbers_fails(tmp_path, channel, value):
    def change(image):
        image[3, 4, 5] = value
        return image

    # Of NIfTI files, ITK takes what is no number for 0.
    plans = small_plans(channels=(channel,))
    model = write_model(tmp_path, plans, labels=labels_of(3), ending=".mha", mirror_axes=None)
    (row,) = predicted(model, changed(tmp_path, change), tmp_path / "out")
    assert (row.status, row.is_bad_input) == ("failed", True), row.message
    assert f"{1 if channel == 'CT' else 3240} of 3240 intensities are no numbers" in row.message
    assert not (tmp_path / "out" / "scan.mha").exists()


def test_a_picture_of_no_numbers_at_all_is_black():
    image = sitk.GetImageFromArray(np.full((4, 5, 6), np.nan, np.float32))
    labels = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.uint8))
    planes, _ = overlay_pngs(image, labels)
    assert np.asarray(Image.open(io.BytesIO(planes))).max() == 0


@pytest.mark.parametrize("below", ["", "P1"], ids=["in one folder", "in a folder below"])
def test_series_beside_other_images_are_refused_with_the_names_of_both(model, tmp_path, below):
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "P3", shape=(9, 20, 18))
    phantom.write_series(tmp_path / "images" / below)
    with pytest.raises(ConfigError, match=rf"P3_0000\.nii\.gz \(1 case\) beside DICOM in {below or 'images'} \(1 case"):
        predicted(model, tmp_path / "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predictions_of_series_beside_them_are_no_series(model, tmp_path):
    phantom.write_series(tmp_path / "all" / "P1")
    for status in ("predicted", "kept"):
        rows = predicted(model, tmp_path / "all", tmp_path / "all" / "out", dicom_rtstruct=True)
        assert [(row.case, row.status) for row in rows] == [("P1", status)]


def test_axes_that_stand_aslant_are_said_of_files_too(model, tmp_path):
    def change(image):
        angle = np.radians(30)
        image.SetDirection((np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1))
        return image

    (row,) = predicted(model, changed(tmp_path, change, ending=".nii.gz"), tmp_path / "out")
    assert "axes stand up to 30 degrees aslant" in row.message


@pytest.mark.parametrize("num_channels", [1, 3])
def test_a_photograph_is_predicted_without_a_volume_and_that_it_has_no_overlay_is_said(tmp_path, num_channels):
    model = of_pictures(tmp_path, channels=("R", "G", "B")[:num_channels])
    colours = np.random.default_rng(0).integers(0, 256, (30, 25, num_channels), np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(colours.squeeze()).save(tmp_path / "images" / "case_0000.png")
    for source in (tmp_path / "images", tmp_path / "images" / "case_0000.png"):
        (row,) = predicted(model, source, tmp_path / f"out-{source.name}", overlays=True)
        assert (row.case, row.status, row.volumes_ml) == ("case", "predicted", {})
        assert "nothing in overlays" in row.message
        assert "999" not in row.message
        assert np.asarray(Image.open(tmp_path / f"out-{source.name}" / "case.png")).shape == (30, 25)


@pytest.mark.parametrize(
    ("content", "words"), [(b"<html>404</html>", "not a TIFF file"), (None, "If image has three dimensions")]
)
def test_pictures_that_are_none_are_rows_with_their_file_and_what_was_expected(tmp_path, content, words):
    model = of_pictures(tmp_path, ending=".tif")
    file = tmp_path / "case.tif"
    tifffile.imwrite(file, np.zeros((5, 30, 25), np.uint8))
    if content:
        file.write_bytes(content)
    (row,) = predicted(model, file, tmp_path / "out")
    assert (row.status, row.is_bad_input) == ("failed", True), row.message
    assert row.message.startswith(f"{file}: cannot be read (")
    assert words in row.message
    assert row.message.endswith("expected a whole image of the kind that the model was trained on")


def test_a_file_of_two_axes_has_no_volume_whichever_reader_reads_it(tmp_path):
    model = write_model(
        tmp_path,
        small_plans(patch=(16, 16), spacing=(1, 1), configuration="2d"),
        labels=labels_of(3),
        mirror_axes=None,
    )
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(0, 300, (30, 25)).astype(np.int16))
    image.SetSpacing((0.7, 0.9))
    # The second one is read by our own reader.
    for ending in (".nii.gz", ".nhdr"):
        sitk.WriteImage(image, str(tmp_path / f"flat{ending}"))
        (row,) = predicted(model, tmp_path / f"flat{ending}", tmp_path / f"out{ending}")
        assert (row.status, row.volumes_ml) == ("predicted", {}), row.message
        assert "spacing" not in row.message


def test_an_image_smaller_than_a_voxel_of_the_network_is_a_row_that_says_so(model, tmp_path):
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a", shape=(9, 20, 18), spacing_xyz=(0.001, 0.0011, 0.0025))
    write_image(tmp_path / "images" / "b", shape=(9, 20, 18))
    first, second = predicted(model, tmp_path / "images", tmp_path / "out")
    assert (first.status, first.is_bad_input, second.status) == ("failed", True, "predicted")
    assert "9 x 20 x 18 voxels of 0.0025 x 0.0011 x 0.001 mm has no voxel left" in first.message
    assert "spacing of the network, 2 x 1.5 x 1.5 mm" in first.message


def test_the_label_map_of_a_tiff_has_its_spacing_where_nnunet_reads_it_and_nothing_is_left_beside(tmp_path):
    model = write_model(tmp_path, small_plans(reader="Tiff3DIO"), labels=labels_of(3), ending=".tif", mirror_axes=None)
    voxels = np.random.default_rng(0).integers(0, 255, (9, 20, 18), np.uint8)
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "case_0000.tif", voxels)
    (tmp_path / "images" / "case.json").write_text('{"spacing": [2.5, 1.0, 1.1]}')
    (row,) = predicted(model, tmp_path / "images", tmp_path / "out")
    assert row.status == "predicted", row.message
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("case.json", "case.tif", "predict.json", "predictions.csv")
    ]
    labels, properties = Tiff3DIO().read_seg(str(tmp_path / "out" / "case.tif"))
    assert properties["spacing"] == [2.5, 1.0, 1.1]
    assert row.volumes_ml["structure 1"] == pytest.approx((labels == 1).sum() * 2.75 / 1000)
    # The spacing belongs to the image.
    with pytest.raises(ConfigError, match="would be written over"):
        predicted(model, tmp_path / "images", tmp_path / "images")
    (tmp_path / "images" / "case.json").write_text('{"spacing": [5.0, 1.0, 1.1]}')
    (row,) = predicted(model, tmp_path / "images", tmp_path / "out")
    assert "another image of this name" in row.message


def write_run(location, *, file_ending, reader):
    """A run with one finished training on single slices, which it has read as NIfTI."""
    storage = open_storage(location)
    preset = {"name": "smoke", "tile_step_size": 0.5, "mirror_at_prediction": False}
    record = {"preset": preset, "seed": 3, "data": "/home/me", "trainings": [TRAINING], "format": 1}
    write_json(storage, run_paths.RUN, record | {"study_sha256": "s" * 64})
    plans = small_plans(patch=(16, 16), spacing=(1, 1), configuration="2d") | {"continue_training": False}
    model = load_model_folder(write_model(location / "made", plans, labels=labels_of(3), mirror_axes=None))
    plan = model.plan.for_files(file_ending=file_ending, reader=reader)
    storage.write_bytes(run_paths.plan(TRAINING), plan.to_bytes())
    state = {
        "network_weights": dict(model.weights[0]),
        "inference_allowed_mirroring_axes": (),
        "trainer_name": "nnUNetTrainer",
        "origin": {"plan_sha256": plan.sha256, "train_cases": ["tif--a"]},
    }
    digest = CheckpointStore(storage, training_id=TRAINING).save_final(state)
    write_json(storage, run_paths.training_record(TRAINING), {"checkpoint_sha256": digest})
    return location


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_run_on_pictures_predicts_pictures_as_its_zip_does(tmp_path, ending):
    run = write_run(tmp_path / "run", file_ending=ending, reader="NaturalImage2DIO")
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 25), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / f"case{ending}")
    orchestrator.export_models(run, tmp_path / "zips")
    found = []
    for name, model in (("run", run), ("zip", tmp_path / "zips" / f"{TRAINING}.zip")):
        (row,) = orchestrator.predict(model, tmp_path / "images", output=tmp_path / name, device="cpu")
        assert row.status == "predicted", row.message
        found.append(np.asarray(Image.open(tmp_path / name / f"case{ending}")))
    np.testing.assert_array_equal(*found)
    assert found[0].shape == (30, 25)
    assert len(np.unique(found[0])) > 1
