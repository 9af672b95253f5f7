"""Claims about contours (DICOM RT Structure Set): they are the voxels of a label map, however a series lies."""

import shutil
import subprocess
import sys
from pathlib import Path

import dicom_ways as ways
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy import ndimage
from skimage.draw import polygon2mask

from bench.instruments.stock_models import small_plans, write_model
from orchestrator.cli.predict import main
from orchestrator.errors import DataError
from orchestrator.images.dicom.volume import DicomVolume
from orchestrator.inference.products.dicom_object import Segment
from orchestrator.inference.products.dicom_rtstruct import write_dicom_rtstruct
from orchestrator.inference.products.outlines import outlines
from orchestrator.shipped import shipped_file


def crossed(polygon, shape):
    """Return where a ray from the centre of a pixel to the right crosses the edges of a polygon an odd number of times,
    and the sum of the directions of these edges: the two rules by which polygons are filled."""
    rows, columns = np.indices(shape)
    parity, winding = np.zeros((2, *shape), int)
    for (row, column), (next_row, next_column) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if row == next_row:
            continue
        share = (rows - row) / (next_row - row)
        is_crossed = ((row <= rows) != (next_row <= rows)) & (column + share * (next_column - column) > columns)
        parity += is_crossed
        winding += np.where(is_crossed, int(np.sign(next_row - row)), 0)
    return parity % 2 == 1, winding != 0


def area_of(polygon):
    rows, columns = polygon.T
    return abs(np.sum(rows * np.roll(columns, -1) - columns * np.roll(rows, -1))) / 2


def test_the_outline_of_one_pixel_is_its_square():
    mask = np.zeros((4, 5), bool)
    mask[1, 3] = True
    (polygon,) = outlines(mask)
    assert sorted(map(tuple, polygon.tolist())) == [(0.5, 2.5), (0.5, 3.5), (1.5, 2.5), (1.5, 3.5)]
    assert outlines(0 * mask) == []


def test_a_hole_is_joined_by_a_channel_without_width():
    mask = np.ones((5, 6), bool)
    mask[2, 3] = False
    (polygon,) = outlines(mask)
    # Four corners outside, four of the hole, one of them twice, and the end of the channel at the left edge twice.
    outside = [(-0.5, -0.5), (-0.5, 5.5), (4.5, 5.5), (4.5, -0.5)]
    hole = [(1.5, 2.5), (1.5, 2.5), (1.5, 3.5), (2.5, 3.5), (2.5, 2.5)]
    assert sorted(map(tuple, polygon.tolist())) == sorted([*outside, *hole, (1.5, -0.5), (1.5, -0.5)])
    assert area_of(polygon) == 29


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.9])
def test_polygons_hold_the_pixels_of_any_mask_by_either_rule_of_filling(share):
    random = np.random.default_rng(int(100 * share))
    for _ in range(60):
        mask = random.random(random.integers(1, 14, 2)) < share
        polygons = outlines(mask)
        assert len(polygons) == ndimage.label(mask)[1]  # parts that touch by edges
        assert sum(map(area_of, polygons)) == mask.sum()
        filled = np.zeros((2, *mask.shape), int)
        for polygon in polygons:
            filled += crossed(polygon, mask.shape)
        for found in filled:
            np.testing.assert_array_equal(found, mask)


def with_umlauts(_index, data):
    data.SpecificCharacterSet, data.PatientName = "ISO_IR 100", "Müller^Jörg"


def unnamed_frame(_index, data):
    del data.FrameOfReferenceUID


@pytest.fixture(scope="module", params=["as it is", "oblique", "sagittal", "feet first"])
def written(request, tmp_path_factory):
    """A series, a label map with holes, islands and lines on it, and its contours."""
    folder = tmp_path_factory.mktemp("contours")
    image = ways.scan(folder)
    image = (
        ways.oblique(image) if request.param == "oblique" else sitk.DICOMOrient(image, ways.TURNED.get(request.param))
    )
    ways.write_dicom(image, folder / "series", with_umlauts if request.param == "sagittal" else unnamed_frame)
    stack = DicomVolume((folder / "series",), name="series", masks=None).stack()
    x, y, z = stack.geometry.size
    field = ndimage.gaussian_filter(np.random.default_rng(4).standard_normal((z, y, x)), (0, 1, 1))
    labels = np.digitize(field, np.quantile(field, [0.4, 0.7, 0.8])).astype(np.uint8)
    labels[0] = 0
    labels[1] = 1
    labels[1, 5:9, 5:9] = 0
    label_map = sitk.GetImageFromArray(labels)
    label_map.SetSpacing(stack.geometry.spacing_mm)
    label_map.SetOrigin(stack.geometry.origin_mm)
    label_map.SetDirection(stack.geometry.direction)
    sitk.WriteImage(label_map, str(folder / "labels.nii.gz"))
    segments = [Segment(name=f"structure {label}", labels=(label,)) for label in (1, 2, 3)]
    segments.append(Segment(name="both", labels=(2, 3)))
    write_dicom_rtstruct(
        folder / "labels.nii.gz", folder / "rt.dcm", stack=stack, segments=segments, model="a model", version="1"
    )
    return folder, labels


def masks_of(structures, folder, shape, *, series="series"):
    """Fill contours by the headers of the slices that they name, slices in the order of their positions."""
    slices = {}
    for file in (folder / series).iterdir():
        header = pydicom.dcmread(file, stop_before_pixels=True)
        slices[header.SOPInstanceUID] = header
    normals = {
        uid: np.cross(*np.reshape(one.ImageOrientationPatient, (2, 3)).astype(float)) for uid, one in slices.items()
    }
    heights = {uid: float(normals[uid] @ np.array(one.ImagePositionPatient, float)) for uid, one in slices.items()}
    order = sorted(slices, key=heights.get)
    names = {one.ROINumber: one.ROIName for one in structures.StructureSetROISequence}
    masks = {name: np.zeros(shape, bool) for name in names.values()}
    for roi in structures.ROIContourSequence:
        for contour in roi.ContourSequence:
            uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
            header = slices[uid]
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
            assert len(points) == contour.NumberOfContourPoints
            away = points - np.array(header.ImagePositionPatient, float)
            np.testing.assert_allclose(away @ normals[uid], 0, atol=1e-3)
            right, down = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
            row_mm, column_mm = map(float, header.PixelSpacing)
            polygon = np.stack([away @ down / row_mm, away @ right / column_mm], axis=1)
            masks[names[roi.ReferencedROINumber]][order.index(uid)] ^= polygon2mask(shape[1:], polygon)
    return masks


def test_contours_filled_are_the_label_map_voxel_by_voxel(written):
    folder, labels = written
    found = masks_of(pydicom.dcmread(folder / "rt.dcm"), folder, labels.shape)
    assert list(found) == ["structure 1", "structure 2", "structure 3", "both"]
    for label in (1, 2, 3):
        np.testing.assert_array_equal(found[f"structure {label}"], labels == label)
    np.testing.assert_array_equal(found["both"], labels >= 2)


def test_the_file_names_every_slice_the_patient_and_one_frame(written):
    folder = written[0]
    found = pydicom.dcmread(folder / "rt.dcm")
    first = pydicom.dcmread(next((folder / "series").iterdir()), stop_before_pixels=True)
    (reference,) = found.ReferencedFrameOfReferenceSequence
    assert {roi.ReferencedFrameOfReferenceUID for roi in found.StructureSetROISequence} == {
        reference.FrameOfReferenceUID
    }
    assert reference.FrameOfReferenceUID == first.get("FrameOfReferenceUID", found.FrameOfReferenceUID)
    (series,) = reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert len(series.ContourImageSequence) == len(list((folder / "series").iterdir()))
    assert str(found.PatientName) == str(first.get("PatientName", ""))
    assert found.StudyInstanceUID == first.StudyInstanceUID


def test_contours_of_more_than_64_kib_are_read_again(tmp_path):
    image = sitk.Image(128, 128, 2, sitk.sitkInt16)
    ways.write_dicom(image, tmp_path / "series")
    stack = DicomVolume((tmp_path / "series",), name="series", masks=None).stack()
    labels = np.ones((2, 128, 128), np.uint8)
    labels[:, 1:-1:2, 1:-1:2] = 0  # 3969 holes
    label_map = sitk.GetImageFromArray(labels)
    label_map.SetOrigin(stack.geometry.origin_mm)
    sitk.WriteImage(label_map, str(tmp_path / "labels.nii"))
    one, other = Segment(name="grid", labels=(1,)), Segment(name="nowhere", labels=(2,))
    given = {"stack": stack, "model": "a model", "version": "1"}
    write_dicom_rtstruct(tmp_path / "labels.nii", tmp_path / "rt.dcm", segments=[one, other], **given)
    found = pydicom.dcmread(tmp_path / "rt.dcm")
    assert [roi.ROIName for roi in found.StructureSetROISequence] == ["grid"]
    np.testing.assert_array_equal(masks_of(found, tmp_path, labels.shape)["grid"], labels == 1)
    with pytest.raises(DataError, match="no structure was found"):
        write_dicom_rtstruct(tmp_path / "labels.nii", tmp_path / "none.dcm", segments=[other], **given)


def test_other_programs_find_contours_valid_and_fill_them_to_the_same_voxels(written, tmp_path):
    folder, labels = written
    check, fill = Path(sys.executable).with_name("dciodvfy"), shutil.which("plastimatch")
    if not check.exists():
        pytest.skip("dicom3tools is not installed")
    found = subprocess.run([check, str(folder / "rt.dcm")], capture_output=True, text=True, check=False)
    said = found.stderr + found.stdout
    assert "RTStructureSet" in said
    assert "Error" not in said
    label_map = sitk.ReadImage(str(folder / "labels.nii.gz"))
    if fill is None or abs(label_map.GetDirection()[8]) < 0.5:
        return  # plastimatch takes slices for axial ones
    command = [fill, "convert", "--input", folder / "rt.dcm", "--referenced-ct", folder / "series"]
    subprocess.run([*command, "--output-prefix", tmp_path, "--prefix-format", "nrrd"], capture_output=True, check=True)
    for label in (1, 2, 3):
        mask = sitk.ReadImage(str(tmp_path / f"structure {label}.nrrd"))
        mask = sitk.Resample(mask, label_map, sitk.Transform(), sitk.sitkNearestNeighbor)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), labels == label)


def test_the_command_writes_contours_on_request_and_of_label_maps_that_are_there(tmp_path):
    model = write_model(tmp_path, small_plans(), labels={"background": 0, "left_lung": 1, "spleen": 2})
    ways.write_dicom(ways.scan(tmp_path), tmp_path / "patient")
    command = [str(tmp_path / "patient"), "--model", str(model), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(command) == 0
    made_ns = (tmp_path / "out" / "patient.nii.gz").stat().st_mtime_ns
    study = shipped_file("splits", "covid19", "study.yaml")
    assert main([*command, "--dicom-rtstruct", "--study", str(study)]) == 0
    assert (tmp_path / "out" / "patient.nii.gz").stat().st_mtime_ns == made_ns
    found = pydicom.dcmread(tmp_path / "out" / "dicom_rtstruct" / "patient.dcm")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "patient.nii.gz")))
    masks = masks_of(found, tmp_path, labels.shape, series="patient")
    for name, label in (("left_lung", 1), ("spleen", 2)):
        np.testing.assert_array_equal(masks.get(name, 0 * labels), labels == label)
    codes = {
        roi.ROIName: [one.CodeValue for one in seen.get("RTROIIdentificationCodeSequence", [])]
        for roi, seen in zip(found.StructureSetROISequence, found.RTROIObservationsSequence, strict=True)
    }
    assert codes["left_lung"] == ["44029006"]
    assert codes.get("spleen", []) == []


def test_a_case_in_which_nothing_was_found_has_no_contours_and_has_not_failed(tmp_path, capsys):
    model = write_model(tmp_path, small_plans(), labels={"background": 0, "lesion": 1})
    ways.write_dicom(ways.scan(tmp_path), tmp_path / "healthy")
    command = [str(tmp_path / "healthy"), "--model", str(model), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(command) == 0
    label_map = tmp_path / "out" / "healthy.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(label_map)) * 0, str(label_map))
    capsys.readouterr()
    assert main([*command, "--dicom-rtstruct", "--dicom-seg"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "no structure was found: nothing in dicom_seg; no structure was found: nothing in dicom_rtstruct" in said
    assert not list((tmp_path / "out").glob("dicom_*/*.dcm"))
