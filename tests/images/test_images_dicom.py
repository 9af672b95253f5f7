"""Sound series of every kind are read right, whatever lies beside them."""

import base64
import warnings
from pathlib import Path

import dicom_phantom as phantom
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from orchestrator.images.dicom.volume import DicomVolume
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import LoadedVolume
from orchestrator.phantoms.layouts import keeping_locale

# The lowest slice of the phantom as JPEG-LS of 12 bits, by CharLS.
JPEG_LS = base64.b64decode(
    "/9j/9wALDAAIAAoBAREA/9oACAEBAAAAAA7wYMMMYxjNSFAgghCEIRUzMzMzAImZmbbAEttttgCW222wCW222wCW222w/9kA"
)


def volume(folder: Path, *masks: Path) -> DicomVolume:
    folders = tuple(sorted({file.parent for file in folder.rglob("*") if file.is_file()}))
    return DicomVolume(folders, name=str(folder), masks=tuple(SourceFile(path=mask) for mask in masks))


def check(folder: Path, *masks: Path, expected: np.ndarray | None = None) -> LoadedVolume:
    """Read both ways and compare with the phantom."""
    geometry = volume(folder, *masks).read_geometry()
    loaded = volume(folder, *masks).read()
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(loaded.image), phantom.voxels() if expected is None else expected
    )
    assert geometry.size == loaded.image.GetSize() == (10, 8, 6)
    assert geometry.spacing_mm == loaded.image.GetSpacing() == phantom.SPACING
    assert geometry.origin_mm == loaded.image.GetOrigin() == phantom.ORIGIN
    assert geometry.direction == loaded.image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    return loaded


def test_slices_are_ordered_by_their_heights_and_values_are_hounsfield_units(tmp_path):
    files = phantom.write_series(tmp_path)
    loaded = check(tmp_path)
    assert loaded.image.GetPixelID() == sitk.sitkInt16
    assert loaded.notes == ()
    assert volume(tmp_path).paths() == tuple(sorted(files))


def test_the_volume_is_that_of_itk_for_an_oblique_series(tmp_path):
    row, column = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, 0.8])
    normal = np.array([0.48, -0.64, 0.6])

    def turn(index: int, data: Dataset) -> None:
        data.ImageOrientationPatient = [*row, *column]
        data.ImagePositionPatient = [f"{value:.4f}" for value in np.array([5, 6, 7]) + 2.5 * index * normal]

    files = phantom.write_series(tmp_path, turn)
    expected = sitk.ReadImage([str(file) for file in files])
    image = volume(tmp_path).read().image
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(expected))
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(image, what)(), getattr(expected, what)(), rtol=0, atol=1e-14)
    # By hand: voxel (1, 2, 3) lies at (5, 6, 7) + 2.0 row + 3.0 column + 7.5 normal.
    np.testing.assert_allclose(
        image.TransformIndexToPhysicalPoint((1, 2, 3)), (5 + 1.6 - 1.08 + 3.6, 6 + 1.2 + 1.44 - 4.8, 7 + 2.4 + 4.5)
    )


def test_a_series_from_the_head_down_is_stacked_along_its_normal(tmp_path):
    def feet_first(index: int, data: Dataset) -> None:
        data.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]

    phantom.write_series(tmp_path, feet_first)
    image = volume(tmp_path).read().image
    assert image.GetDirection() == (-1, 0, 0, 0, 1, 0, 0, 0, -1)
    assert image.GetOrigin() == (-10, -20, 55)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), phantom.voxels()[::-1])


def implicit(_: int, data: Dataset) -> None:
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def big_endian(_: int, data: Dataset) -> None:
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()


def rle(_: int, data: Dataset) -> None:
    data.compress(RLELossless, generate_instance_uid=False)


def signed(index: int, data: Dataset) -> None:
    data.PixelRepresentation, data.RescaleIntercept = 1, "0"
    data.PixelData = phantom.voxels()[index].astype("<i2").tobytes()


def signed_without_upper_bits(index: int, data: Dataset) -> None:
    signed(index, data)
    data.PixelData = (phantom.voxels()[index] & 0xFFF).astype("<u2").tobytes()


def rounded_positions(index: int, data: Dataset) -> None:
    # The ends are exact; scanners round the others to a tenth of a millimetre.
    data.ImagePositionPatient = [-10, -20, 30 + 5 * index + (0.05 if 0 < index < 5 else 0)]


def of_several_acquisitions(index: int, data: Dataset) -> None:
    data.AcquisitionNumber = index // 2


def of_an_unknown_alphabet(_: int, data: Dataset) -> None:
    data.SpecificCharacterSet = "ISO_IR 999"


def with_little_in_the_header(_: int, data: Dataset) -> None:
    for keyword in ("FrameOfReferenceUID", "AcquisitionNumber", "PatientID", "ImageType", "SeriesDescription"):
        delattr(data, keyword)


def with_an_overlay(_: int, data: Dataset) -> None:
    data.add_new(0x60000010, "US", 8)
    data.add_new(0x60000011, "US", 10)
    data.add_new(0x60003000, "OW", b"\xff" * 10)


def with_an_overlay_in_the_upper_bits(_: int, data: Dataset) -> None:
    stored = np.frombuffer(data.PixelData, "<u2") | np.arange(80, dtype="<u2") % 2 << 12
    data.PixelData = stored.tobytes()
    data.add_new(0x60000010, "US", 8)
    data.add_new(0x60000011, "US", 10)
    data.add_new(0x60000100, "US", 16)
    data.add_new(0x60000102, "US", 12)


@pytest.mark.parametrize(
    "change",
    [implicit, big_endian, rle, signed, signed_without_upper_bits, rounded_positions,
     of_several_acquisitions, of_an_unknown_alphabet, with_little_in_the_header, with_an_overlay,
     with_an_overlay_in_the_upper_bits],
)  # fmt: skip
def test_encodings_and_habits_of_scanners_change_nothing(tmp_path, change):
    with warnings.catch_warnings():
        if change is of_an_unknown_alphabet:  # writing warns, reading must not
            warnings.simplefilter("ignore")
        phantom.write_series(tmp_path, change)
    assert check(tmp_path).notes == ()


@pytest.mark.parametrize("rest", [bytes(100), b"text behind the pixels"], ids=["zeros", "text"])
@pytest.mark.parametrize("change", [None, rle])
def test_bytes_behind_the_pixels_change_nothing(tmp_path, change, rest):
    for file in phantom.write_series(tmp_path, change)[2:]:
        file.write_bytes(file.read_bytes() + rest)
    assert check(tmp_path).notes == ()


def test_a_slice_that_was_taken_again_in_its_place_is_of_the_volume(tmp_path):
    phantom.write_series(tmp_path, lambda index, data: setattr(data, "AcquisitionNumber", 2 if index == 3 else 1))
    assert check(tmp_path).notes == ()


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_lossless_jpeg_is_decoded(tmp_path, compressor):
    for index, path in enumerate(phantom.write_series(tmp_path)):
        image = sitk.ReadImage(str(path))
        compressed = sitk.ImageFileWriter()
        compressed.SetImageIO("GDCMImageIO")
        compressed.KeepOriginalImageUIDOn()
        compressed.UseCompressionOn()
        compressed.SetCompressor(compressor)
        compressed.SetFileName(str(tmp_path / "compressed.dcm"))
        image.SetMetaData("0020|0032", f"-10\\-20\\{30 + 5 * index}")
        with keeping_locale():
            compressed.Execute(image)
        (tmp_path / "compressed.dcm").replace(path)
    assert check(tmp_path).notes == ()


def test_jpeg_ls_is_decoded(tmp_path):
    def compress(_: int, data: Dataset) -> None:
        data.file_meta.TransferSyntaxUID = JPEGLSLossless
        data.PixelData = encapsulate([JPEG_LS])
        data["PixelData"].is_undefined_length = True

    phantom.write_series(tmp_path, compress)
    check(tmp_path, expected=np.repeat(phantom.voxels()[:1], 6, axis=0))


def test_files_without_preamble_or_suffix_are_slices(tmp_path):
    for path in phantom.write_series(tmp_path):
        # Behind preamble and group 2, whose length is its first element.
        content = path.read_bytes()
        path.with_suffix("").write_bytes(content[144 + int.from_bytes(content[140:144], "little") :])
        path.unlink()
    assert check(tmp_path).notes == ()


def test_foreign_objects_beside_the_slices_are_passed_over(tmp_path):
    phantom.write_series(tmp_path)
    for name, sop_class, modality in (
        ("structures.dcm", "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"),
        ("dose.dcm", "1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE"),
        ("masks.dcm", "1.2.840.10008.5.1.4.1.1.66.4", "SEG"),
        ("report.dcm", "1.2.840.10008.5.1.4.1.1.88.67", "SR"),
        ("screen.dcm", "1.2.840.10008.5.1.4.1.1.7", "CT"),
        ("private.dcm", "1.3.12.2.1107.5.9.1", "CT"),
        ("magnet.dcm", "1.2.840.10008.5.1.4.1.1.4", "MR"),
        ("modality.dcm", "1.2.840.10008.5.1.4.1.1.2", "PT"),
        ("DICOMDIR", "1.2.840.10008.1.3.10", ""),
    ):
        phantom.foreign(tmp_path, name, sop_class=sop_class, modality=modality)
    # Nested without end, in a class that is no image.
    phantom.insert_element(tmp_path / "report.dcm", phantom.nested(20_000, has_length=False))
    for marks in (["ORIGINAL", "PRIMARY", "LOCALIZER"], ["DERIVED", "SECONDARY", "SCREEN SAVE"],
                  ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]):  # fmt: skip
        page = phantom.slice_of(3)
        page.ImageType = marks
        del page.ImagePositionPatient
        phantom.save(page, tmp_path / f"{marks[-1]}.dcm")
    effective_numbers = phantom.slice_of(2)
    effective_numbers.RescaleType = "Z_EFF"
    phantom.save(effective_numbers, tmp_path / "z.dcm")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 99)
    (tmp_path / "._1-01.dcm").write_bytes(b"\0\5\x16\7" * 99)
    assert check(tmp_path).notes == ()


def test_equal_copies_of_slices_are_taken_once_with_a_note(tmp_path):
    phantom.write_series(tmp_path / "first")
    phantom.write_series(tmp_path / "second")
    (note,) = check(tmp_path).notes
    assert "6 slices are there twice, with equal pixels; each was taken once" in note


@pytest.mark.parametrize("num", [1, 2])
def test_scouts_that_do_not_say_so_are_left_out_with_a_note(tmp_path, num):
    phantom.write_series(tmp_path)
    for index in range(num):
        scout = phantom.slice_of(index)
        scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        phantom.save(scout, tmp_path / f"0-scout{index}.dcm")
    (note,) = check(tmp_path).notes
    assert "left out 0-scout0.dcm" in note


def test_each_slice_is_rescaled_by_its_own_numbers(tmp_path):
    def own_slope(index: int, data: Dataset) -> None:
        if index == 2:
            data.RescaleSlope = "0.5"

    phantom.write_series(tmp_path, own_slope)
    expected = phantom.voxels().astype(float)
    expected[2] = (expected[2] + 1024) / 2 - 1024
    assert expected[2, 0, 1] == -861.5  # stored is 100 * 2 + 1 - 900 + 1024 = 325, of which a half, less 1024
    (note,) = check(tmp_path, expected=expected).notes
    assert "rescale slopes or intercepts of their own" in note


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({}, np.int16),
        ({"RescaleIntercept": "0"}, np.uint16),
        ({"RescaleSlope": "0.5"}, np.float64),
        ({"BitsStored": 16, "HighBit": 15}, np.int32),
        ({"BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "RescaleIntercept": "0"}, np.int16),
        ({"RescaleSlope": "-2"}, np.int16),
    ],
    ids=str,
)
def test_headers_tell_the_type_of_the_values(header, expected, tmp_path):
    def change(_: int, data: Dataset) -> None:
        for name, value in header.items():
            setattr(data, name, value)

    phantom.write_series(tmp_path, change)
    found = volume(tmp_path)
    assert sitk.GetArrayViewFromImage(found.read().image).dtype == expected
    stack = found.stack()
    assert {one.value_dtype for one in stack.slices} == {np.dtype(expected)}
    assert stack.value_bytes == np.dtype(expected).itemsize


def test_padding_is_kept_and_counted(tmp_path):
    def pad(index: int, data: Dataset) -> None:
        signed(index, data)
        stored = phantom.voxels()[index].astype("<i2")
        stored[0, :3] = -2000
        data.add_new(0x00280120, "SS", -2000)
        data.PixelData, data.BitsStored, data.HighBit = stored.tobytes(), 16, 15

    phantom.write_series(tmp_path, pad)
    expected = phantom.voxels()
    expected[:, 0, :3] = -2000
    (note,) = check(tmp_path, expected=expected).notes
    assert "18 voxels are padding of -2000 HU" in note


def shifted(_: int, data: Dataset) -> None:
    data.ImagePositionPatient = [value + 40 for value in data.ImagePositionPatient]


def test_of_several_series_the_one_on_the_grid_of_the_masks_is_taken_and_named(tmp_path):
    phantom.write_series(tmp_path / "ct", series=2)
    phantom.write_series(tmp_path / "other", shifted, series=1)
    phantom.write_series(tmp_path / "broken", lambda _, data: delattr(data, "PixelSpacing"), series=3)
    phantom.write_mask(tmp_path / "mask.nii.gz")
    (note,) = check(tmp_path, tmp_path / "mask.nii.gz").notes
    assert (
        f"3 CT series; took 'Thorax 2', 6 slices ({phantom.ROOT}.2: 2-01.dcm ...), on whose grid the masks lie" in note
    )
    assert f"left 'Thorax 1', 6 slices ({phantom.ROOT}.1: 1-01.dcm ...), 'Thorax 3'" in note


def test_of_two_series_on_the_grid_of_the_masks_the_original_one_is_taken(tmp_path):
    def derived(_: int, data: Dataset) -> None:
        data.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]

    phantom.write_series(tmp_path / "a", derived, series=1)
    phantom.write_series(tmp_path / "b", series=2)
    phantom.write_mask(tmp_path / "mask.nii.gz")
    (note,) = check(tmp_path, tmp_path / "mask.nii.gz").notes
    assert "took 'Thorax 2'" in note


def test_of_two_stacks_under_one_uid_the_one_on_the_grid_of_the_masks_is_taken(tmp_path):
    def coronal(_: int, data: Dataset) -> None:
        data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        data.ImagePositionPatient = [-10, data.ImagePositionPatient[2], 60]

    phantom.write_series(tmp_path / "axial")
    phantom.write_series(tmp_path / "coronal", coronal)
    phantom.write_mask(tmp_path / "mask.nii.gz")
    (note,) = check(tmp_path, tmp_path / "mask.nii.gz").notes
    assert "2 CT series; took 'Thorax 1', 6 slices" in note
