"""Claims about what `predict` takes for an image: DICOM in any way that it is written, tables, all formats."""

import bz2
import json
import shutil

import dicom_phantom as phantom
import dicom_ways as ways
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

import orchestrator
from bench.instruments.stock_models import labels_of, small_plans, write_image, write_model
from orchestrator.errors import ConfigError
from orchestrator.inference.cases import find_cases
from orchestrator.inference.input_image import ModelFiles, readable_image
from orchestrator.inference.models import SETTINGS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(scope="module")
def image(folder):
    return ways.scan(folder)


@pytest.fixture(scope="module")
def model(folder):
    """A model of images whose axes were brought to LPS, as those of a run are."""
    path = write_model(folder, small_plans(), labels=labels_of(4))
    settings = {"tile_step_size": 0.5, "mirrors": False, "orientation": "LPS"}
    (path / SETTINGS).write_text(json.dumps({"prediction": settings}))
    return path


@pytest.fixture(scope="module")
def expected(folder, image, model):
    """Labels of the image as a NIfTI in LPS."""
    sitk.WriteImage(image, str(folder / "plain.nii.gz"))
    orchestrator.predict(model, folder / "plain.nii.gz", output=folder / "plain", device="cpu")
    labels = sitk.ReadImage(str(folder / "plain" / "plain.nii.gz"))
    assert len(np.unique(sitk.GetArrayViewFromImage(labels))) > 2
    return labels


def predicted(model, case, tmp_path):
    (row,) = orchestrator.predict(model, case, output=tmp_path / "out", device="cpu")
    assert row.status == "predicted", row.message
    return row, sitk.ReadImage(str(tmp_path / "out" / f"{row.case}.nii.gz"))


def check(found, expected):
    """Whether two label maps are the same in the patient."""
    turned = sitk.DICOMOrient(found, "LPS")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(turned), sitk.GetArrayFromImage(expected))
    for what in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(turned, what)(), getattr(expected, what)(), atol=1e-5)


@pytest.mark.parametrize("way", ways.TURNED)
def test_a_series_gives_the_same_segmentation_however_it_is_turned(image, model, expected, tmp_path, way):
    turned = sitk.DICOMOrient(image, ways.TURNED[way])
    ways.write_dicom(turned, tmp_path / "patient")
    row, found = predicted(model, tmp_path / "patient", tmp_path)
    assert row.case == "patient"
    check(found, expected)
    # In the voxel order of the series: slices from the first to the last along their normal.
    assert found.GetSize() == turned.GetSize()
    np.testing.assert_allclose(found.GetDirection(), turned.GetDirection(), atol=1e-6)


@pytest.mark.parametrize("way", ways.ENCODED)
def test_a_series_gives_the_same_segmentation_however_it_is_encoded(image, model, expected, tmp_path, way):
    ways.write_dicom(image, tmp_path / "patient", ways.ENCODED[way])
    check(predicted(model, tmp_path / "patient", tmp_path)[1], expected)


def test_an_oblique_series_has_its_labels_where_it_lies(image, model, expected, tmp_path):
    turned = ways.oblique(image)
    ways.write_dicom(turned, tmp_path / "patient")
    _, found = predicted(model, tmp_path / "patient", tmp_path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    np.testing.assert_allclose(found.GetDirection(), turned.GetDirection(), atol=1e-6)


def test_what_lies_beside_a_series_is_passed_over_and_a_derived_one_is_said(image, model, expected, tmp_path):
    ways.write_dicom(image, tmp_path / "patient" / "study" / "ct")
    ways.localiser(tmp_path / "patient" / "study" / "ct")
    ways.write_dicom(sitk.DICOMOrient(image, "PIR"), tmp_path / "patient" / "study" / "mpr", ways.derived, series=2)
    row, found = predicted(model, tmp_path / "patient", tmp_path)
    check(found, expected)
    assert "2 CT series; took 'Thorax 1'" in row.message
    record = json.loads((tmp_path / "out" / "study.json").read_text())
    assert row.message == "; ".join(record["notes"])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda image, folder: ways.write_dicom(image, folder, ways.tilted), "a tilted gantry"),
        (
            lambda image, folder: [ways.write_dicom(image, folder, series=number) for number in (1, 2)],
            "2 CT series, 2 of which are whole and not derived from others",
        ),
        (
            lambda image, folder: phantom.foreign(
                folder, "a.dcm", sop_class="1.2.840.10008.5.1.4.1.1.4", modality="MR"
            ),
            "no CT series among 1 folders with DICOM files (1 of MR Image Storage)",
        ),
        (
            lambda image, folder: [
                ways.write_dicom(image, folder),
                *(file.unlink() for file in sorted(folder.iterdir())[3:4]),
            ],
            "next to each other among 11 slices",
        ),
    ],
    ids=["tilted", "two series", "MR", "a slice is lost"],
)
def test_a_series_that_cannot_be_is_refused_by_name(image, model, tmp_path, write, words):
    write(image, tmp_path / "patient")
    (row,) = orchestrator.predict(model, tmp_path / "patient", output=tmp_path / "out", device="cpu")
    assert row.status == "failed"
    assert words in row.message
    assert not (tmp_path / "out" / "patient.nii.gz").exists()


def test_folders_of_patients_are_cases_and_one_slice_is_none(image, model, expected, tmp_path):
    for name in ("a", "b"):
        ways.write_dicom(image, tmp_path / "all" / name / "deep" / "series")
    rows = orchestrator.predict(model, tmp_path / "all", output=tmp_path / "out", device="cpu")
    assert [(row.case, row.status) for row in rows] == [("a", "predicted"), ("b", "predicted")]
    file = next((tmp_path / "all").rglob("*.dcm"))
    with pytest.raises(ConfigError, match="a single DICOM file; expected the folder of its series"):
        orchestrator.predict(model, file, output=tmp_path / "other")


def test_folders_of_patients_without_dicom_are_rows_that_say_so(image, model, tmp_path):
    ways.write_dicom(image, tmp_path / "all" / "p1")
    for name in ("p2", "p3", ".hidden", "out"):
        (tmp_path / "all" / name).mkdir()
    write_image(tmp_path / "all" / "p3" / "ct", shape=(4, 5, 6))
    rows = orchestrator.predict(model, tmp_path / "all", output=tmp_path / "all" / "out", device="cpu")
    assert [(row.case, row.status) for row in rows] == [("p1", "predicted"), ("p2", "failed"), ("p3", "failed")]
    assert all("none of them DICOM" in row.message for row in rows[1:])


def test_the_patients_of_a_disc_are_cases_and_its_other_folders_are_none(image, model, tmp_path):
    for number, name in enumerate(("PT000000", "PT000001"), start=1):
        ways.write_dicom(image, tmp_path / "disc" / name / "ST000000", series=number)
    (tmp_path / "disc" / "VIEWER").mkdir()
    (tmp_path / "disc" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    cases = find_cases(tmp_path / "disc", endings=[".nii.gz"], num_channels=1)
    assert [case.name for case in cases] == ["PT000000", "PT000001"]
    # Of one patient, whose folder is called as on any other disc, it is that of the disc.
    shutil.rmtree(tmp_path / "disc" / "PT000001")
    (tmp_path / "disc" / "DICOMDIR").rename(tmp_path / "disc" / "dicomdir")
    (row,) = orchestrator.predict(model, tmp_path / "disc", output=tmp_path / "out", device="cpu")
    assert (row.case, row.status) == ("disc", "predicted")


@pytest.mark.parametrize(
    "table",
    [
        "case;image;age\na;x.nii.gz;61,5\n",
        "case\timage\na\tx.nii.gz\n",
        "\ufeffCase, Image\n\n a , x.nii.gz\n,\n,,\n",
        "sep=|\r\ncase|image|age, sex\r\na|x.nii.gz|61, f\r\n",
    ],
    ids=["semicolons", "tabs", "blanks and capital letters", "delimiter that is said"],
)
def test_a_table_may_be_written_as_spreadsheets_do(tmp_path, table):
    (tmp_path / "x.nii.gz").touch()
    (tmp_path / "cases.csv").write_text(table, encoding="utf-8")
    (case,) = find_cases(tmp_path / "cases.csv", endings=[".nii.gz"], num_channels=1)
    assert (case.name, case.files) == ("a", (tmp_path / "x.nii.gz",))


def test_a_model_of_files_takes_a_series_as_it_is_stored(image, folder, tmp_path):
    """Axes are not turned for a model that nothing is known of."""
    model = write_model(tmp_path, small_plans(), labels=labels_of(4))
    turned = sitk.DICOMOrient(image, "RPI")
    ways.write_dicom(turned, tmp_path / "patient")
    sitk.WriteImage(turned, str(tmp_path / "turned.nii.gz"))
    _, found = predicted(model, tmp_path / "patient", tmp_path)
    orchestrator.predict(model, tmp_path / "turned.nii.gz", output=tmp_path / "nifti", device="cpu")
    same = sitk.ReadImage(str(tmp_path / "nifti" / "turned.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(same))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"])
def test_every_format_in_any_order_of_axes_gives_the_same_segmentation(image, model, expected, tmp_path, ending):
    turned = sitk.DICOMOrient(image, "PIR" if ending == ".nrrd" else "RAS")
    sitk.WriteImage(turned, str(tmp_path / f"scan{ending}"))
    _, found = predicted(model, tmp_path / f"scan{ending}", tmp_path)
    check(found, expected)
    assert found.GetSize() == turned.GetSize()


@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_readers_that_know_nifti_alone_are_given_other_files_too(image, tmp_path, reader):
    model = write_model(tmp_path, small_plans(reader=reader), labels=labels_of(4))
    turned = sitk.DICOMOrient(image, "RPI")
    ways.write_dicom(turned, tmp_path / "patient")
    sitk.WriteImage(turned, str(tmp_path / "turned.nii.gz"))
    _, found = predicted(model, tmp_path / "patient", tmp_path)
    orchestrator.predict(model, tmp_path / "turned.nii.gz", output=tmp_path / "nifti", device="cpu")
    same = sitk.ReadImage(str(tmp_path / "nifti" / "turned.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(same))
    np.testing.assert_allclose(found.GetDirection(), turned.GetDirection(), atol=1e-6)


def test_nifti_2_is_predicted_as_nifti_1_is(image, tmp_path):
    model = write_model(tmp_path, small_plans(), labels=labels_of(4))
    turned = sitk.DICOMOrient(image, "RPI")
    sitk.WriteImage(turned, str(tmp_path / "first.nii.gz"))
    first = nib.load(tmp_path / "first.nii.gz")
    nib.save(nib.Nifti2Image(np.asarray(first.dataobj), first.affine), tmp_path / "second.nii.gz")
    _, expected = predicted(model, tmp_path / "first.nii.gz", tmp_path / "1")
    _, found = predicted(model, tmp_path / "second.nii.gz", tmp_path / "2")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    np.testing.assert_allclose(found.GetDirection(), turned.GetDirection(), atol=1e-6)


def write_nrrd(image, path, *, unit="mm", per_mm=1.0, encoding="raw"):
    directions = per_mm * np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    voxels = sitk.GetArrayFromImage(image).astype("<f4").tobytes()
    lines = ["NRRD0005", "type: float", "dimension: 3", "space: left-posterior-superior", "endian: little"]
    lines += ["sizes: " + " ".join(map(str, image.GetSize())), f"encoding: {encoding}"]
    lines += ["space directions: " + " ".join(f"({','.join(map(repr, step))})" for step in directions.T.tolist())]
    lines += [f"space origin: ({','.join(repr(per_mm * place) for place in image.GetOrigin())})"]
    lines += ["space units: " + " ".join([f'"{unit}"'] * 3)]
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + (bz2.compress(voxels) if encoding == "bzip2" else voxels))


def test_a_nrrd_in_microns_or_bzip2_is_predicted_as_it_was_trained_on(image, tmp_path):
    stock = write_model(tmp_path, small_plans(), labels=labels_of(4))
    ours = shutil.copytree(stock, tmp_path / "ours")
    (ours / SETTINGS).write_text(json.dumps({"prediction": {"tile_step_size": 0.5, "mirrors": True}}))
    write_nrrd(image, tmp_path / "mm.nrrd")
    write_nrrd(image, tmp_path / "packed.nrrd", encoding="bzip2")
    write_nrrd(image, tmp_path / "um.nrrd", unit="um", per_mm=1000.0)
    _, expected = predicted(ours, tmp_path / "mm.nrrd", tmp_path / "1")
    for name in ("packed", "um"):
        row, found = predicted(ours, tmp_path / f"{name}.nrrd", tmp_path / name)
        check(found, expected)
    assert "converted to mm" in row.message
    _, found = predicted(stock, tmp_path / "packed.nrrd", tmp_path / "2")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    # The reader of a model of others takes every number for mm, as it did when it was trained.
    files = ModelFiles.of(SimpleITKIO, ending=".nii.gz", orientation=None, is_of_project=False)
    (case,) = find_cases(tmp_path / "um.nrrd", endings=files.endings, num_channels=1)
    with readable_image(case, files) as readable:
        assert readable.files == case.files
    assert "measures in um, which nnU-Net takes for mm" in readable.notes[0]


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_a_link_that_leads_nowhere_is_a_row_and_the_other_cases_are_predicted(image, model, tmp_path, ending):
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image, str(tmp_path / "in" / "a.nii.gz"))
    (tmp_path / "in" / f"b{ending}").symlink_to("/nowhere/annex")
    (tmp_path / "in" / ".#a.nii.gz").symlink_to("me@host.1:2")
    rows = orchestrator.predict(model, tmp_path / "in", output=tmp_path / "out", device="cpu")
    assert [(row.case, row.status) for row in rows] == [("a", "predicted"), ("b", "failed")]
    assert "a link to /nowhere/annex, which is not there" in rows[1].message


def test_a_table_names_the_cases(image, model, expected, tmp_path):
    ways.write_dicom(image, tmp_path / "series")
    sitk.WriteImage(image, str(tmp_path / "x.nii.gz"))
    (tmp_path / "cases.csv").write_text("age,case,image\n61,first,x.nii.gz\n62,second,series\n")
    rows = orchestrator.predict(model, tmp_path / "cases.csv", output=tmp_path / "out", device="cpu")
    assert [(row.case, row.status) for row in rows] == [("first", "predicted"), ("second", "predicted")]
    for row in rows:
        check(sitk.ReadImage(str(tmp_path / "out" / f"{row.case}.nii.gz")), expected)


@pytest.mark.parametrize("table", ['case, image\n"a b", "x y.nii.gz"\n', "case,image_0000\na b,x y.nii.gz\n"])
def test_a_table_may_have_blanks_after_its_commas_and_the_number_of_the_one_channel(model, tmp_path, table):
    write_image(tmp_path / "x", shape=(4, 5, 6))[0].rename(tmp_path / "x y.nii.gz")
    (tmp_path / "cases.csv").write_text(table)
    (row,) = orchestrator.predict(model, tmp_path / "cases.csv", output=tmp_path / "out", device="cpu")
    assert (row.case, row.status) == ("a b", "predicted")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("case,image_0000,image_0001\na,x.nii.gz,x.nii.gz\n", "without the column image (found case, image_0000"),
        ("case,file\na,x.nii.gz\n", "without the column image (found case, file)"),
        ("", "without the column case, image (found no row)"),
        ("case,image\na,missing.nii.gz\n", "line 2: "),
        ("case,image\na,\n", "line 2: an empty cell"),
        ("sep=;\ncase;image\na;\n", "line 3: an empty cell"),
        ('case,age,image\na,"6\n1",x.nii.gz\n\n,,\nb,62,\n', "line 6: an empty cell"),
        ("case,image\na,x.nii.gz\na,x.nii.gz\n", "two cases a; expected one of a name"),
        ("case,image\n../a,x.nii.gz\n", "a case '../a', which cannot name files"),
        ("case,image\npredict,x.nii.gz\n", "a case 'predict', which cannot name files"),
        ('case,image\n"a,x.nii.gz\n', "cannot be read (unexpected end of data)"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(model, tmp_path, table, words):
    write_image(tmp_path / "x", shape=(4, 5, 6))[0].rename(tmp_path / "x.nii.gz")
    (tmp_path / "cases.csv").write_text(table)
    with pytest.raises(ConfigError) as raised:
        orchestrator.predict(model, tmp_path / "cases.csv", output=tmp_path / "out")
    assert words in str(raised.value)
    assert not (tmp_path / "out").exists()
