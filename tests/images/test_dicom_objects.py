"""Claims about DICOM objects made of label maps: of any series and any names, anew when what the study says changes."""

import dicom_ways as ways
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

import orchestrator
from bench.instruments.stock_models import small_plans, write_model
from orchestrator.images.dicom.volume import DicomVolume
from orchestrator.inference.products import extras
from orchestrator.inference.products.dicom_object import Segment
from orchestrator.inference.products.dicom_rtstruct import write_dicom_rtstruct
from orchestrator.inference.products.dicom_seg import write_dicom_seg

pytest.importorskip("highdicom")
NAMES = {"background": 0, "lung": 1, "infection": 2, "rest": 3}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return ways.scan(tmp_path_factory.mktemp("scan"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), small_plans(), labels=NAMES, mirror_axes=None)


def japanese(_index, data):
    data.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    data.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"


def without_character_set(_index, data):
    """Latin letters of a scanner that does not say so."""
    data.SpecificCharacterSet, data.PatientName = "ISO_IR 100", "Müller^Jörg"


def without_frame(_index, data):
    del data.FrameOfReferenceUID


@pytest.mark.parametrize("change", [japanese, without_character_set, without_frame])
def test_any_series_and_any_names_of_structures_make_whole_objects(image, tmp_path, change):
    ways.write_dicom(image, tmp_path / "series", change)
    if change is without_character_set:
        for file in (tmp_path / "series").iterdir():
            file.write_bytes(file.read_bytes().replace(b"ISO_IR 100", b" " * 10))
    stack = DicomVolume((tmp_path / "series",), name="series", masks=None).stack()
    labels = np.random.default_rng(0).integers(0, 4, stack.geometry.size[::-1]).astype(np.uint8)
    label_map = sitk.GetImageFromArray(labels)
    label_map.CopyInformation(image)
    sitk.WriteImage(label_map, str(tmp_path / "labels.nii"))
    names = ("Læsion/links 左肺", "a\\b", "x" * 80)
    segments = [Segment(name=name, labels=(label,)) for label, name in enumerate(names, start=1)]
    for write in (write_dicom_seg, write_dicom_rtstruct):
        target = tmp_path / f"{write.__name__}.dcm"
        write(tmp_path / "labels.nii", target, stack=stack, segments=segments, model="a\\model", version="1")
    seg, contours = (pydicom.dcmread(tmp_path / f"{name}.dcm") for name in ("write_dicom_seg", "write_dicom_rtstruct"))
    expected = ["Læsion/links 左肺", "a_b", "x" * 64]
    assert [one.SegmentLabel for one in seg.SegmentSequence] == expected
    assert [one.ROIName for one in contours.StructureSetROISequence] == expected
    first = pydicom.dcmread(next((tmp_path / "series").iterdir()))
    assert str(seg.PatientName) == str(contours.PatientName) == str(first.get("PatientName", ""))
    assert seg.FrameOfReferenceUID == contours.FrameOfReferenceUID
    assert seg.FrameOfReferenceUID == first.get("FrameOfReferenceUID", seg.FrameOfReferenceUID)


FREE = {
    "PatientBirthDate": b"ANONYMIZED",
    "StudyDate": b"20200230",
    "StudyTime": b"12:30:11",
    "PatientSex": b"Male",
    "PatientAge": b"70",
    "PatientWeight": b"70,5",
    "SliceThickness": b"2,5 ",
    "PatientSize": b"1.7500000000000000001",
    "PatientID": b"P" * 80,
    "StudyID": b"a\\b",
    "ReferringPhysicianName": b"A^B\\C^D",
}


def with_free_texts(_index, data):
    for keyword, value in FREE.items():
        tag = Tag(keyword)
        data[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)


def test_values_that_are_none_of_dicom_are_left_out_of_objects_and_said(image, model, tmp_path):
    with disable_value_validation():
        ways.write_dicom(image, tmp_path / "patient", with_free_texts)
    options = {"device": "cpu", "dicom_seg": True, "dicom_rtstruct": True}
    (row,) = orchestrator.predict(model, tmp_path / "patient", output=tmp_path / "out", **options)
    left_out = "left out, as the series has no valid value: "
    left_out += "PatientAge, PatientBirthDate, PatientSex, PatientWeight, StudyDate, StudyTime"
    assert f"dicom_seg: {left_out}; dicom_rtstruct: {left_out}" in row.message
    folders = ("dicom_seg", "dicom_rtstruct")
    with disable_value_validation():
        objects = [pydicom.dcmread(tmp_path / "out" / folder / "patient.dcm") for folder in folders]
        for made in objects:
            made.decode()
    for made in objects:
        assert [made[name].value for name in ("PatientSex", "StudyDate", "StudyTime")] == [""] * 3
        assert not made.PatientBirthDate
        # By its identifiers an archive finds the series, and several are no text of Python.
        assert (made.PatientID, made.StudyID, str(made.ReferringPhysicianName)) == ("P" * 80, "a", "A^B")
        assert not {"PatientAge", "PatientWeight"} & set(made.dir())
    assert objects[0].PatientSize == 1.75
    measures = objects[0].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == ways.SPACING[2]


def test_a_series_without_a_study_is_said_by_its_file(image, model, tmp_path):
    def without_study(_index, data):
        del data.StudyInstanceUID

    ways.write_dicom(image, tmp_path / "patient", without_study)
    options = {"device": "cpu", "dicom_seg": True, "dicom_rtstruct": True}
    (row,) = orchestrator.predict(model, tmp_path / "patient", output=tmp_path / "out", **options)
    assert row.status == "predicted"
    for folder in ("dicom_seg", "dicom_rtstruct"):
        assert f"nothing in {folder}, which failed: {tmp_path}/patient/1-" in row.message
    assert "no StudyInstanceUID; expected that of its study" in row.message


def test_an_object_that_fails_is_a_note_and_the_next_one_is_made(image, model, tmp_path, monkeypatch):
    def fail(*_arguments, **_options):
        raise ValueError("no such thing")

    monkeypatch.setattr(extras, "write_dicom_seg", fail)
    ways.write_dicom(image, tmp_path / "patient")
    options = {"device": "cpu", "dicom_seg": True, "dicom_rtstruct": True}
    (row,) = orchestrator.predict(model, tmp_path / "patient", output=tmp_path / "out", **options)
    assert row.status == "predicted"
    assert "nothing in dicom_seg, which failed: ValueError: no such thing" in row.message
    assert row.message in (tmp_path / "out" / "predictions.csv").read_text()
    assert (tmp_path / "out" / "dicom_rtstruct" / "patient.dcm").exists()
    assert not (tmp_path / "out" / "dicom_seg" / "patient.dcm").exists()


def test_a_corrected_study_gives_other_values_and_other_objects(image, model, tmp_path):
    ways.write_dicom(image, tmp_path / "patient")

    def made(*, part, whole, code):
        (tmp_path / "tables.yaml").write_text(
            f"segments:\n  lung: {{type: [SCT, '{code}', Lung]}}\n  infection: {{type: [SCT, '{code}', Lung]}}\n"
            f"derived:\n  share: {{title: share, part: [{part}], whole: [{whole}]}}\n"
        )
        options = {"device": "cpu", "study": tmp_path / "study.yaml", "dicom_seg": True, "dicom_rtstruct": True}
        (row,) = orchestrator.predict(model, tmp_path / "patient", output=tmp_path / "out", **options)
        files = [tmp_path / "out" / folder / "patient.dcm" for folder in ("dicom_seg", "dicom_rtstruct")]
        seg, contours = map(pydicom.dcmread, files)
        assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == code
        assert contours.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0].CodeValue == code
        return row.derived_percent, [seg.SOPInstanceUID, contours.SOPInstanceUID], [f.stat().st_mtime_ns for f in files]

    values, uids, times = made(part="lung", whole="infection", code="1")
    assert made(part="lung", whole="infection", code="1") == (values, uids, times)
    others, same_uids, same_times = made(part="infection", whole="lung", code="1")
    assert others != values
    assert (same_uids, same_times) == (uids, times)
    _, other_uids, _ = made(part="infection", whole="lung", code="2")
    # Archives keep the first of two objects of one identifier.
    assert not set(other_uids) & set(uids)
    assert made(part="lung", whole="infection", code="1")[:2] == (values, uids)
