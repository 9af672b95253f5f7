"""Claims about what is made of label maps: DICOM Segmentation, derived values, pictures, warnings."""

import io
import json
import subprocess
import sys
from pathlib import Path

import dicom_ways as ways
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.uid import MRImageStorage

import orchestrator
from bench.instruments.stock_models import labels_of, small_plans, write_image, write_model
from orchestrator.benchmark.predicted import DerivedValue, load_predicted
from orchestrator.cli.predict import main
from orchestrator.errors import ConfigError
from orchestrator.images.dicom.volume import DicomVolume
from orchestrator.inference.models import SETTINGS
from orchestrator.inference.plausibility import TrainedOn, doubts, doubts_of_direction
from orchestrator.inference.products.derived import derived_values
from orchestrator.inference.products.dicom_object import Segment
from orchestrator.inference.products.dicom_seg import write_dicom_seg
from orchestrator.inference.products.overlays import overlay_pngs
from orchestrator.shipped import shipped_file
from orchestrator.training.nnunet.ensembles.averaged_prediction import PredictedImage
from orchestrator.training.nnunet.planning import Plan

NAMES = {"background": 0, "left_lung": 1, "right_lung": 2, "infection": 3}
STUDY = shipped_file("splits", "covid19", "study.yaml")


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """A series that was predicted with everything that can be made of it."""
    folder = tmp_path_factory.mktemp("products")
    model = write_model(folder, small_plans(), labels=NAMES)
    settings = {"tile_step_size": 0.5, "mirrors": False, "orientation": "LPS"}
    (model / SETTINGS).write_text(json.dumps({"prediction": settings}))
    turned = sitk.DICOMOrient(ways.scan(folder), "RPI")
    ways.write_dicom(turned, folder / "patient")
    command = [str(folder / "patient"), "--model", str(model), "--output", str(folder / "out"), "--device", "cpu"]
    assert main([*command, "--dicom-seg", "--overlays", "--study", str(STUDY)]) == 0
    return folder, model, command


def test_a_segmentation_read_back_has_the_voxels_of_the_label_map(predicted):
    folder = predicted[0]
    image = sitk.ReadImage(str(folder / "out" / "patient.nii.gz"))
    labels = sitk.GetArrayFromImage(image)
    assert len(np.unique(labels)) > 2
    found = pydicom.dcmread(folder / "out" / "dicom_seg" / "patient.dcm")
    read = np.zeros(labels.shape, np.uint8)
    for frame, mask in zip(found.PerFrameFunctionalGroupsSequence, found.pixel_array, strict=True):
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        x, y, z = image.TransformPhysicalPointToIndex([float(value) for value in position])
        assert (x, y) == (0, 0)
        read[z][mask > 0] = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    np.testing.assert_array_equal(read, labels)


def test_other_programs_find_a_segmentation_valid_and_read_the_same_voxels(predicted, tmp_path):
    folder = predicted[0]
    segmentation = str(folder / "out" / "dicom_seg" / "patient.dcm")
    check, read = (str(Path(sys.executable).with_name(name)) for name in ("dciodvfy", "segimage2itkimage"))
    if not (Path(check).exists() and Path(read).exists()):
        pytest.skip("dicom3tools and dcmqi are not installed")
    found = subprocess.run([check, segmentation], capture_output=True, text=True, check=False)
    assert "Error" not in found.stderr + found.stdout
    command = [read, "--inputDICOM", segmentation, "--outputDirectory", str(tmp_path), "--mergeSegments"]
    subprocess.run(command, capture_output=True, check=True)
    labels, other = (sitk.ReadImage(str(path)) for path in (folder / "out" / "patient.nii.gz", tmp_path / "1.nrrd"))
    other = sitk.Resample(other, labels, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (labels, other)))


def test_a_segmentation_names_its_slices_its_codes_and_its_model(predicted):
    folder = predicted[0]
    found = pydicom.dcmread(folder / "out" / "dicom_seg" / "patient.dcm")
    slices = {pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in (folder / "patient").iterdir()}
    named = {one.ReferencedSOPInstanceUID for one in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named <= slices
    assert len(named) == len(slices)
    assert found.Modality == "SEG"
    assert found.SegmentationType == "BINARY"
    codes = [(one.SegmentLabel, one.SegmentedPropertyTypeCodeSequence[0].CodeValue) for one in found.SegmentSequence]
    assert codes == [("left_lung", "44029006"), ("right_lung", "3341006"), ("infection", "52988006")]
    assert found.SegmentSequence[2].AnatomicRegionSequence[0].CodeMeaning == "Lung"


@pytest.mark.parametrize(
    "regions",
    [{"one": (2,), "two": (1, 3)}, {"whole": (1, 2, 3), "core": (3,)}],
    ids=["apart", "one within the other"],
)
def test_segments_are_the_labels_that_they_are_of_whether_they_overlap_or_not(regions, tmp_path):
    ways.write_dicom(ways.scan(tmp_path), tmp_path / "series")
    stack = DicomVolume((tmp_path / "series",), name="series", masks=None).stack()
    labels = np.random.default_rng(0).integers(0, 5, stack.geometry.size[::-1]).astype(np.uint8)
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(stack.geometry.spacing_mm)
    image.SetOrigin(stack.geometry.origin_mm)
    sitk.WriteImage(image, str(tmp_path / "labels.nii"))
    segments = [Segment(name=name, labels=values) for name, values in regions.items()]
    write_dicom_seg(
        tmp_path / "labels.nii", tmp_path / "seg.dcm", stack=stack, segments=segments, model="a model", version="1"
    )
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    masks = np.zeros((len(segments), *labels.shape), bool)
    for frame, mask in zip(found.PerFrameFunctionalGroupsSequence, found.pixel_array, strict=True):
        position = [float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient]
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        masks[number - 1, image.TransformPhysicalPointToIndex(position)[2]] = mask
    for mask, values in zip(masks, regions.values(), strict=True):
        np.testing.assert_array_equal(mask, np.isin(labels, values))


def test_what_is_there_is_not_made_again_and_what_is_missing_is_made_of_the_label_map(predicted, capsys):
    folder, _, command = predicted
    names = ("patient.nii.gz", "dicom_seg/patient.dcm", "overlays/patient.png")
    files = [folder / "out" / name for name in names]
    before = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    assert main([*command, "--dicom-seg", "--overlays", "--study", str(STUDY)]) == 0
    assert "1 case predicted, 1 of them before" in capsys.readouterr().out
    after = [file.stat().st_mtime_ns for file in files]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] > before[1]


def test_values_that_the_study_defines_are_in_the_json_and_the_table(predicted):
    folder = predicted[0]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "out" / "patient.nii.gz")))
    record = json.loads((folder / "out" / "patient.json").read_text())
    found = record["derived_percent"]
    assert list(found) == ["infected_of_lungs", "infected_of_left_lung", "infected_of_right_lung"]
    assert found["infected_of_lungs"] == pytest.approx(100 * (labels == 3).sum() / (labels > 0).sum(), abs=1e-3)
    header, row = (folder / "out" / "predictions.csv").read_text().splitlines()
    assert f"{found['infected_of_lungs']}" in row
    assert "infected_of_lungs (%)" in header


def test_infection_belongs_to_the_nearer_lung():
    labels = np.zeros((4, 10, 30), np.uint8)
    labels[:, 2:8, 2:10], labels[:, 2:8, 20:28] = 1, 2
    labels[:, 2:4, 10:12] = 3  # 16 voxels beside the left lung of 192
    labels[:2, 2:4, 18:20] = 3  # 8 voxels beside the right one
    structures = {"left": (1,), "right": (2,), "infection": (3,)}
    both = DerivedValue(name="both", title="", part=("infection",), whole=("left", "right"))
    left = DerivedValue(name="left", title="", part=("infection",), whole=("left",), rather_than=("right",))
    right = DerivedValue(name="right", title="", part=("infection",), whole=("right",), rather_than=("left",))
    other = DerivedValue(name="other", title="", part=("tumour",), whole=("left",))
    found = derived_values(labels, spacing_mm=(3.0, 3.0, 3.0), structures=structures, wanted=(both, left, right, other))
    assert found == pytest.approx({"both": 100 * 24 / 408, "left": 100 * 16 / 208, "right": 100 * 8 / 200}, abs=1e-3)
    empty = derived_values(0 * labels, spacing_mm=(3.0,) * 3, structures=structures, wanted=(both, left))
    assert all(np.isnan(value) for value in empty.values())


def test_pictures_show_what_was_found_in_its_true_proportions():
    voxels = np.zeros((10, 20, 30), np.int16)
    labels = np.zeros(voxels.shape, np.uint8)
    labels[3:6, 5:15, 10:20] = 1
    images = [sitk.GetImageFromArray(one) for one in (voxels, labels)]
    for one in images:
        one.SetSpacing((1.0, 1.0, 4.0))
    planes, mosaic = (np.asarray(Image.open(io.BytesIO(png))) for png in overlay_pngs(*images))
    # Axial 20 x 30 mm, coronal 40 x 30 mm, sagittal 40 x 20 mm, each 360 pixels high.
    assert planes.shape == (360, 540 + 270 + 180, 3)
    # Of three slices the mosaic has a line.
    assert mosaic.shape == (180, 3 * 270, 3)
    for picture in (planes, mosaic):
        assert (picture.max(axis=2) > picture.min(axis=2)).any()


def test_images_unlike_those_of_the_training_are_told_with_numbers():
    trained = TrainedOn(
        spacing_mm=(2.0, 0.8, 0.8),
        extent_mm=(300.0, 400.0, 400.0),
        intensities=({"percentile_00_5": -950.0, "percentile_99_5": 200.0},),
        is_calibrated=(True,),
    )
    ct = np.linspace(-1000, 400, 1000, dtype=np.float32)[None]

    def told(**changes):
        usual = {"shape": (150, 500, 500), "spacing_mm": (2.0, 0.8, 0.8), "intensities": ct, "foreground": ct[:, :500]}
        return doubts(PredictedImage(num_voxels={}, voxel_mm3=1.28, **(usual | changes)), trained)

    assert told() == []
    assert told(spacing_mm=(7.0, 0.8, 0.8), shape=(43, 500, 500)) == [
        "spacing of 7 mm along the first axis; the training cases had 2 mm (median)"
    ]
    assert told(shape=(30, 500, 500)) == [
        "field of view of 60 mm along the first axis; the training cases had 300 mm (median)"
    ]
    (words,) = told(foreground=np.full((1, 100), 700, np.float32))
    assert "a median of 700; 99 % of those of the training cases lay between -950 and 200" in words
    (words,) = told(intensities=(ct + 1000) / 8, foreground=np.zeros((1, 0), np.float32))
    assert "no intensity below 0 (from 0 to 175)" in words
    (words,) = told(intensities=ct + 5000, foreground=np.zeros((1, 0), np.float32))
    assert "intensities from 4000 to 5400" in words
    assert told(share_not_finite=0.0123) == ["1.2 % of the intensities are no numbers (NaN or infinite); expected none"]
    assert told(intensities=np.where(ct > 0, np.nan, ct)) == []
    assert doubts_of_direction((1, 0, 0, 0, 1, 0, 0, 0, 1)) == []
    (words,) = doubts_of_direction(ways.oblique(sitk.Image(2, 2, 2, sitk.sitkInt16)).GetDirection())
    assert "axes stand up to 37 degrees aslant" in words


@pytest.mark.parametrize("way", ["as usual", "inherited", "of an older release"])
def test_what_a_model_was_trained_on_is_known_however_its_plans_say_it(way):
    plans = small_plans()
    if way == "inherited":
        configurations = plans["configurations"]
        configurations["base"] = configurations.pop("3d_fullres")
        configurations["3d_fullres"] = {"inherits_from": "base", "batch_size": 5}
    elif way == "of an older release":
        statistics = plans.pop("foreground_intensity_properties_per_channel")
        plans["foreground_intensity_properties_by_modality"] = statistics
    trained = TrainedOn.of(Plan(plans=plans, dataset_json={}, configuration="3d_fullres"))
    assert trained.is_calibrated == (True,)
    assert trained.intensities[0]["percentile_99_5"] == 700.0


def test_a_warning_is_in_the_record_and_the_table(tmp_path):
    model = write_model(tmp_path, small_plans(), labels=labels_of(3))
    files = write_image(tmp_path / "case", shape=(9, 20, 18), spacing_xyz=(1.0, 1.0, 6.0))
    (row,) = orchestrator.predict(model, files[0], output=tmp_path / "out", device="cpu")
    assert row.message == "spacing of 6 mm along the first axis; the training cases had 1 mm (median)"
    assert row.message in (tmp_path / "out" / "predictions.csv").read_text()
    assert json.loads((tmp_path / "out" / "case.json").read_text())["notes"] == [row.message]


def test_a_segmentation_is_of_dicom_alone_and_needs_its_library(tmp_path, monkeypatch):
    model = write_model(tmp_path, small_plans(), labels=labels_of(3))
    files = write_image(tmp_path / "case", shape=(4, 20, 18))
    with pytest.raises(ConfigError, match="case case: no DICOM series"):
        orchestrator.predict(model, files[0], output=tmp_path / "out", dicom_seg=True)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ConfigError, match=r"pip install 'nnunet-orchestrator\[dicom\]'"):
        orchestrator.predict(model, files[0], output=tmp_path / "out", dicom_seg=True)
    assert not (tmp_path / "out").exists()


def test_codes_and_values_of_the_shipped_study_are_understood(tmp_path):
    found = load_predicted(STUDY)
    assert set(found.codes) == {"left_lung", "right_lung", "infection"}
    assert next(one.name for one in found.derived) == "infected_of_lungs"
    with pytest.raises(ConfigError, match="no such file; expected the tables of the study"):
        load_predicted(tmp_path / "study.yaml")


def of_mr(_, data):
    data.Modality, data.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "SE"]
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = MRImageStorage
    del data.RescaleIntercept, data.RescaleSlope


def of_channel(name, folder):
    model = write_model(folder, small_plans(channels=[name]), labels=labels_of(4))
    described = json.loads((model / "dataset.json").read_text())
    (model / "dataset.json").write_text(json.dumps(described | {"channel_names": {"0": name}}))
    return model


def test_a_series_of_mr_is_predicted_by_a_model_of_mr_and_its_objects_name_its_slices(tmp_path):
    ways.write_dicom(ways.scan(tmp_path), tmp_path / "series", of_mr)
    model = of_channel("T1", tmp_path / "mr")
    wanted = {"device": "cpu", "dicom_seg": True, "dicom_rtstruct": True}
    (row,) = orchestrator.predict(model, tmp_path / "series", output=tmp_path / "out", **wanted)
    assert row.status == "predicted", row.message
    # What is stored is CT numbers + 1024, and has no rescale slope here.
    image = sitk.Cast(ways.scan(tmp_path), sitk.sitkFloat32) + 1024
    sitk.WriteImage(image, str(tmp_path / "same.nii.gz"))
    (same,) = orchestrator.predict(model, tmp_path / "same.nii.gz", output=tmp_path / "of-nifti", device="cpu")
    assert row.volumes_ml == same.volumes_ml
    seg, contours = (
        pydicom.dcmread(tmp_path / "out" / kind / "series.dcm") for kind in ("dicom_seg", "dicom_rtstruct")
    )
    of_seg = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    of_contours = [one.ContourImageSequence[0] for one in contours.ROIContourSequence[0].ContourSequence]
    assert {one.ReferencedSOPClassUID for one in (*of_seg, *of_contours)} == {MRImageStorage}
    assert (seg.Modality, contours.Modality) == ("SEG", "RTSTRUCT")


def test_a_series_of_mr_is_none_for_a_model_of_ct(tmp_path):
    ways.write_dicom(ways.scan(tmp_path), tmp_path / "series", of_mr)
    model = of_channel("CT", tmp_path / "ct")
    (row,) = orchestrator.predict(model, tmp_path / "series", output=tmp_path / "out", device="cpu")
    assert row.status == "failed"
    assert "no CT series among 1 folders with DICOM files (12 of MR Image Storage)" in row.message
