"""Claims about what `predict` writes: over no input, for the image that is there, by the model that is there."""

import json
import math
import os
import shutil

import dicom_phantom as phantom
import numpy as np
import pytest
import SimpleITK as sitk

import orchestrator
from bench.instruments.stock_models import labels_of, small_plans, write_image, write_model
from orchestrator.cli.predict import main
from orchestrator.errors import ConfigError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), small_plans(), labels=labels_of(4), mirror_axes=None)


def scan(path, *, seed=0):
    """An image of a name without a number."""
    path.parent.mkdir(exist_ok=True)
    (file,) = write_image(path, shape=(9, 20, 18), seed=seed)
    return file.rename(path.with_name(f"{path.name}.nii.gz"))


def predicted(model, images, output, **options):
    return orchestrator.predict(model, images, output=output, device="cpu", **options)


def labels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", ["its folder", "a link to it", "a link to the file"])
def test_no_image_is_written_over(model, tmp_path, way, capsys):
    image = scan(tmp_path / "images" / "scan")
    output = image.parent
    if way == "a link to it":
        output = tmp_path / "linked"
        output.symlink_to(image.parent)
    elif way == "a link to the file":
        output = tmp_path / "out"
        output.mkdir()
        (output / "scan.nii.gz").symlink_to(image)
    before = contents(tmp_path)
    assert main([str(image), "--model", str(model), "--output", str(output), "--device", "cpu"]) == 2
    assert "would be written over" in " ".join(capsys.readouterr().err.split())
    assert contents(tmp_path) == before


def test_a_table_of_images_is_not_written_over(model, tmp_path):
    image = scan(tmp_path / "images" / "scan")
    table = image.with_name("predictions.csv")
    table.write_text("case,image\na,scan.nii.gz\n")
    with pytest.raises(ConfigError, match="would be written over"):
        predicted(model, table, image.parent)


def test_images_with_numbers_of_channels_may_be_predicted_beside_themselves(model, tmp_path):
    (image,) = write_image(tmp_path / "case", shape=(9, 20, 18))
    before = image.read_bytes()
    for status in ("predicted", "kept"):
        (row,) = predicted(model, image, tmp_path)
        assert (row.case, row.status) == ("case", status)
    assert image.read_bytes() == before


def test_labels_of_somebody_else_are_not_written_over(model, tmp_path):
    image = scan(tmp_path / "images" / "scan")
    drawn = scan(tmp_path / "labels" / "scan", seed=9)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"scan\.nii\.gz is there, and no predict\.json"):
        predicted(model, image, drawn.parent)
    assert contents(tmp_path) == before


def test_labels_of_another_image_of_the_same_name_are_not_kept(model, tmp_path):
    first, second = scan(tmp_path / "A" / "ct"), scan(tmp_path / "B" / "ct", seed=5)
    predicted(model, first, tmp_path / "out")
    before = contents(tmp_path / "out")
    (row,) = predicted(model, second, tmp_path / "out", overlays=True)
    assert (row.status, row.is_bad_input) == ("failed", True)
    assert "another image of this name was predicted" in row.message
    after = contents(tmp_path / "out")
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} == {tmp_path / "out" / "predictions.csv"}
    # A copy has other times, and the same content.
    shutil.copy(first, second)
    (row,) = predicted(model, second, tmp_path / "out")
    assert row.status == "kept"


def test_an_image_of_the_same_size_and_time_is_another_one(model, tmp_path):
    images = [scan(tmp_path / name / "ct", seed=seed) for name, seed in (("A", 0), ("B", 5))]
    for number, compressed in enumerate(images):
        images[number] = compressed.with_name("ct.nii")
        sitk.WriteImage(sitk.ReadImage(str(compressed)), str(images[number]))
        os.utime(images[number], (315532800, 315532800))
    first, second = images
    assert predicted(model, first, tmp_path / "out")[0].status == "predicted"
    (row,) = predicted(model, second, tmp_path / "out")
    assert "another image of this name was predicted" in row.message
    # Written over the first one, too.
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    os.utime(first, (315532800, 315532800))
    assert predicted(model, first, tmp_path / "out")[0].status == "failed"
    first.write_bytes(content)
    assert predicted(model, first, tmp_path / "out")[0].status == "kept"


def test_records_that_do_not_tell_their_image_are_kept(model, tmp_path):
    image = scan(tmp_path / "images" / "ct")
    predicted(model, image, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "ct.json").read_text())
    del record["image"]
    (tmp_path / "out" / "ct.json").write_text(json.dumps(record))
    (row,) = predicted(model, image, tmp_path / "out")
    assert row.status == "kept"


def test_objects_of_a_series_are_never_of_labels_of_another_patient(model, tmp_path):
    pytest.importorskip("highdicom")

    def other(index, data):
        data.PatientID, data.PixelData = "LUNG1-002", np.frombuffer(data.PixelData, "<u2")[::-1].tobytes()

    phantom.write_series(tmp_path / "A" / "CT")
    phantom.write_series(tmp_path / "B" / "CT", other)
    (row,) = predicted(model, tmp_path / "A" / "CT", tmp_path / "out", dicom_rtstruct=True, overlays=True)
    assert row.status == "predicted"
    # What lies beside its slices is not the series.
    phantom.foreign(tmp_path / "A" / "CT", "a.dcm", sop_class="1.2.840.10008.5.1.4.1.1.4", modality="MR")
    assert predicted(model, tmp_path / "A" / "CT", tmp_path / "out")[0].status == "kept"
    (row,) = predicted(model, tmp_path / "B" / "CT", tmp_path / "out", dicom_seg=True, overlays=True)
    assert row.status == "failed"
    assert not (tmp_path / "out" / "dicom_seg").exists()
    # Predicted in its place, it has pictures and objects of its own.
    picture = (tmp_path / "out" / "overlays" / "CT.png").read_bytes()
    (tmp_path / "out" / "CT.json").unlink()
    (row,) = predicted(model, tmp_path / "B" / "CT", tmp_path / "out")
    assert row.status == "predicted"
    assert not (tmp_path / "out" / "overlays" / "CT.png").exists()
    assert not (tmp_path / "out" / "dicom_rtstruct" / "CT.dcm").exists()
    predicted(model, tmp_path / "B" / "CT", tmp_path / "out", overlays=True)
    assert (tmp_path / "out" / "overlays" / "CT.png").read_bytes() != picture


def test_an_output_where_nothing_was_predicted_takes_other_settings(model, tmp_path):
    image = scan(tmp_path / "images" / "ct")
    (row,) = predicted(model, image, tmp_path / "out", max_memory_gib=0.01)
    assert row.status == "failed"
    (row,) = predicted(model, image, tmp_path / "out", tile_step_size=0.75)
    assert row.status == "predicted"
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["tile_step_size"] == 0.75
    with pytest.raises(ConfigError, match=r"tile_step_size 0\.75, expected 0\.5"):
        predicted(model, image, tmp_path / "out")


def test_the_table_has_the_cases_of_earlier_calls_too(model, tmp_path):
    images = {name: scan(tmp_path / name / name, seed=seed) for seed, name in enumerate(("a", "b", "c"))}
    for name, image in images.items():
        (row,) = predicted(model, image, tmp_path / "out")
        assert row.case == name
    (tmp_path / "out" / "b.nii.gz").unlink()  # no label map, no row
    predicted(model, images["c"], tmp_path / "out")
    header, *lines = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines] == [["a", "predicted"], ["c", "predicted"]]
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert lines[0].split(",")[2] == str(record["volumes_ml"][header.split(",")[2].removesuffix(" (ml)")])


def test_several_images_are_refused_with_what_is_expected(model, tmp_path):
    with pytest.raises(ConfigError, match=r"images: \['a\.nii\.gz', 'b\.nii\.gz'\]; expected one path"):
        orchestrator.predict(model, ["a.nii.gz", "b.nii.gz"], output=tmp_path / "out")


def test_a_damaged_record_is_a_row_and_the_others_go_on(model, tmp_path):
    for name in ("a", "b"):
        scan(tmp_path / "images" / name)
    predicted(model, tmp_path / "images", tmp_path / "out")
    for content in (b"", b"[]", b'{"case": "a"}'):
        (tmp_path / "out" / "a.json").write_bytes(content)
        first, second = predicted(model, tmp_path / "images", tmp_path / "out")
        assert (first.status, second.status) == ("failed", "kept")
        assert "a.json" in first.message


def test_a_model_that_was_trained_again_predicts_with_its_new_weights(tmp_path):
    models = write_model(tmp_path, small_plans(), labels=labels_of(4), folds=("0", "1"), mirror_axes=None)
    image = scan(tmp_path / "images" / "ct")
    predicted(models, image, tmp_path / "expected", folds=["1"])
    shutil.rmtree(models / "fold_1")
    predicted(models, image, tmp_path / "before")
    other = write_model(tmp_path / "other", small_plans(), labels=labels_of(4), folds=("0", "1"), mirror_axes=None)
    shutil.copy(other / "fold_1" / "checkpoint_final.pth", models / "fold_0" / "checkpoint_final.pth")
    predicted(models, image, tmp_path / "after")
    found = {name: labels(tmp_path / name / "ct.nii.gz") for name in ("before", "after", "expected")}
    np.testing.assert_array_equal(found["after"], found["expected"])
    assert (found["after"] != found["before"]).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "gpu"}, "device 'gpu'; expected cpu or cuda"),
        ({"device": "cuda:0"}, "device 'cuda:0'; expected cpu or cuda"),
        ({"tile_step_size": "0.5"}, "a step of '0.5'; expected a share of the window"),
        ({"max_memory_gib": math.nan}, "a most of nan GiB of memory; expected a number above 0"),
        ({"max_memory_gib": -1}, "a most of -1 GiB"),
        ({"structures": "left_lung"}, "no structure left_lung; expected"),
        ({"folds": "all"}, "no fold all with"),
        ({"folds": 7}, "no fold 7 with"),
    ],
)
def test_options_that_cannot_be_are_refused_by_what_was_given(model, tmp_path, options, words):
    image = scan(tmp_path / "images" / "ct")
    with pytest.raises(ConfigError) as raised:
        orchestrator.predict(model, image, output=tmp_path / "out", **{"device": "cpu", **options})
    assert words in str(raised.value)


def test_a_table_is_left_to_those_who_claimed_the_folder_at_the_same_moment(model, tmp_path):
    image, record = scan(tmp_path / "images" / "ct"), tmp_path / "out" / "predict.json"

    def claim_for_others(_line):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"folds": ["7"]}))
        (record.parent / "predictions.csv").write_text("theirs")

    with pytest.raises(ConfigError, match=r"is predicted with another folds .* now\. Choose another output"):
        predicted(model, image, tmp_path / "out", note=claim_for_others)
    assert (tmp_path / "out" / "predictions.csv").read_text() == "theirs"
    assert not (tmp_path / "out" / "ct.nii.gz").exists()


def test_a_gpu_that_is_not_there_is_one_line(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    image = scan(tmp_path / "images" / "ct")
    assert main([str(image), "--model", str(model), "--output", str(tmp_path / "out"), "--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("error: device cuda: torch finds no GPU")
