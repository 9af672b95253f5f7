"""Claims about NIfTI files: values and grids are those of SimpleITK and nibabel, and no header is believed blindly."""

import gzip
import os
import re
import struct
import zipfile

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel import quaternions

from orchestrator.errors import DataError
from orchestrator.images import stored_voxels
from orchestrator.images.label_maps import open_volume, read_label_map
from orchestrator.images.source_file import SourceFile
from orchestrator.images.stored_voxels import ReadBuffer
from orchestrator.images.volume import read_nifti, read_nifti_geometry

# A rotation about a slanted axis, and a flip of z, which NIfTI keeps as the sign of pixdim[0].
SLANTED = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)
FLIPPED = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
# Turned by nearly half a circle: the quaternion is (0, 1, 0, 0) but for what 32 bits cannot hold.
NEARLY_HALF_A_TURN = tuple(np.ravel(quaternions.quat2mat([3e-4, 1.0, 2e-4, 1e-4])).tolist())


def labels(dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(dtype)


def write(path, array, *, direction=None, size=None):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 1.25))
    image.SetOrigin((-120.5, 30.25, 1e3))
    if direction:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


def patched(path, *, offset, form, values):
    """Change a field of the header."""
    is_gzip = path.name.endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if is_gzip else path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)) if is_gzip else bytes(content))
    return path


def assert_as_simpleitk(path):
    image, found = sitk.ReadImage(str(path)), read_label_map(path)
    np.testing.assert_array_equal(found.array, sitk.GetArrayFromImage(image))
    assert found.geometry.spacing_mm == image.GetSpacing()
    assert found.geometry.origin_mm == pytest.approx(image.GetOrigin(), abs=1e-6)
    assert found.geometry.direction == pytest.approx(image.GetDirection(), abs=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_voxels_and_grid_are_those_of_simpleitk(tmp_path, dtype, name):
    assert_as_simpleitk(write(tmp_path / name, labels(dtype)))
    if dtype != np.float32:
        assert read_label_map(tmp_path / name).array.dtype == dtype


@pytest.mark.parametrize("direction", [SLANTED, FLIPPED, NEARLY_HALF_A_TURN])
def test_slanted_and_flipped_grids_are_those_of_simpleitk(tmp_path, direction):
    assert_as_simpleitk(write(tmp_path / "a.nii.gz", labels(), direction=direction))


QFORM_CODE, SFORM_CODE = 252, 254


@pytest.mark.parametrize("direction", [SLANTED, FLIPPED])
@pytest.mark.parametrize("unknown", [QFORM_CODE, SFORM_CODE])
def test_one_of_the_two_forms_is_enough(tmp_path, direction, unknown):
    path = write(tmp_path / "a.nii.gz", labels(), direction=direction)
    assert_as_simpleitk(patched(path, offset=unknown, form="<h", values=[0]))


def test_without_a_form_the_grid_is_that_of_simpleitk_and_that_is_said(tmp_path):
    path = patched(write(tmp_path / "a.nii.gz", labels()), offset=QFORM_CODE, form="<2h", values=[0, 0])
    assert_as_simpleitk(path)
    assert "neither position nor orientation" in read_label_map(path).notes[0]
    assert "neither position nor orientation" in read_nifti(SourceFile(path=path)).notes[0]


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_2_is_read_in_both_byte_orders(tmp_path, order):
    affine = np.array([[-0.7, 0, 0, 120.5], [0, -0.8, 0, -30.25], [0, 0, 1.25, 1e3], [0, 0, 0, 1]])
    image = nibabel.Nifti2Image(labels(np.int16).T, affine, nibabel.Nifti2Header(endianness=order))
    image.set_qform(affine, 1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    write(tmp_path / "first.nii.gz", labels())
    found, first = read_label_map(tmp_path / "a.nii.gz"), read_label_map(tmp_path / "first.nii.gz")
    np.testing.assert_array_equal(found.array, labels())
    assert found.geometry.affine == pytest.approx(first.geometry.affine, abs=1e-5)


@pytest.mark.parametrize(
    ("offset", "form", "values", "message"),
    [
        (344, "<4s", [b"ni1\0"], r"in another file \(.img\)"),
        (344, "<4s", [b"\0\0\0\0"], "cannot be read as NIfTI"),  # Analyze
        (0, ">i", [348], "dimensions"),  # the other byte order
        (40, "<8h", [4, 7, 6, 1, 5, 1, 1, 1], "4 axes"),
        (40, "<8h", [3, 7, 0, 5, 1, 1, 1, 1], r"dimensions \(3, 7, 0"),
        (40, "<8h", [3, 7, -6, 5, 1, 1, 1, 1], "dimensions"),
        (40, "<8h", [9, 7, 6, 5, 1, 1, 1, 1], "dimensions"),
        (40, "<8h", [7, 32767, 32767, 32767, 1, 1, 1, 1], "bytes are compressed in it"),
        (70, "<2h", [2, 16], "bitpix 16 beside datatype 2; expected 8 bits"),
        (70, "<2h", [128, 24], "datatype 128 .RGB."),
        (76, "<f", [np.nan], "qfac nan"),
        (76 + 8, "<f", [0.0], "voxels of 0.7 x 0 x 1.25 mm .* by pixdim and of 0.7 x 0.8 x 1.25 mm by the sform"),
        (76 + 8, "<f", [-0.8], "voxels of 0.7 x -0.8 x 1.25 mm"),
        (76 + 8, "<f", [np.nan], "voxels of 0.7 x nan x 1.25 mm"),
        (76 + 8, "<f", [8.0], "voxels of 0.7 x 8 x 1.25 mm .* and of 0.7 x 0.8 x 1.25 mm by the sform"),
        (108, "<f", [np.nan], "begin at byte nan"),
        (108, "<f", [-352.0], "begin at byte -352"),
        (108, "<f", [100.0], "begin at byte 100"),
        (108, "<f", [1e9], "1000000210 bytes are compressed in it"),
        (112, "<2f", [np.inf, 0.0], "scaled by inf"),
        (112, "<2f", [1.0, np.nan], "scaled by 1 and nan"),
        (123, "<B", [1], "voxels of 700 x 800 x 1250 mm, since its header measures in metres"),
        (256, "<3f", [0.9, 0.9, 0.9], "quaternion b, c, d 0.9 x 0.9 x 0.9 has the length 1.559"),
        (256, "<3f", [np.nan, 0.0, 1.0], "finite numbers"),
        (268, "<f", [121.0], "two forms that contradict each other, up to 0.5 mm: a qform of origin -121 .* beside"),
        (76, "<f", [-1.0], "qform of direction 1, 0, 0, 0, 1, 0, 0, 0, -1 .* sform of direction 1, 0, .*, 1 cosines"),
        (280, "<f", [0.7], "two forms that contradict each other"),  # mirrored
        (284, "<f", [0.2], "sheared axes, at 104.04, 90.00 and 90.00 degrees"),
        (280, "<f", [np.nan], "three axes in finite numbers"),
        (280, "<12f", [0.0] * 12, "three axes in finite numbers"),
    ],
)  # fmt: skip
def test_a_header_that_contradicts_itself_is_refused_by_name(tmp_path, offset, form, values, message):
    path = patched(write(tmp_path / "a.nii.gz", labels()), offset=offset, form=form, values=values)
    with pytest.raises(DataError, match=f"a.nii.gz: found .*{message}"):
        read_label_map(path)
    with pytest.raises(DataError, match=message):
        read_nifti_geometry(SourceFile(path=path))
    with pytest.raises(DataError, match=message):
        read_nifti(SourceFile(path=path))


@pytest.mark.parametrize(
    ("offset", "form", "values"),
    [
        (76, "<f", [0.0]),  # qfac 0 counts as 1
        (76 + 4, "<3f", [0.70001, 0.80001, 1.25001]),
        (256, "<3f", [0.0, 0.0, 1.0004]),  # four digits of a quaternion
        (280, "<3f", [-0.7, 1e-5, 0.0]),
        (112, "<2f", [np.nan, np.nan]),  # as nibabel keeps that there is no scaling
        (112, "<2f", [0.0, 5.0]),
        (123, "<B", [0]),
    ],
)
def test_the_rounding_and_the_habits_of_common_tools_pass(tmp_path, offset, form, values):
    path = patched(write(tmp_path / "a.nii.gz", labels()), offset=offset, form=form, values=values)
    np.testing.assert_array_equal(read_label_map(path).array, labels())
    assert read_label_map(path).notes == ()


def test_forms_of_common_tools_agree_for_real_grids(tmp_path):
    """Oblique grids of 512 x 512 x 300 voxels, whose qform keeps a quaternion in 32 bits."""
    random = np.random.default_rng(1)
    for _ in range(300):
        nearly = random.normal(size=4) * random.choice([1.0, 1e-2, 1e-4], size=4)
        rotation = quaternions.quat2mat(nearly / np.linalg.norm(nearly))
        affine = np.eye(4)
        affine[:3, :3] = rotation * random.choice([1.0, -1.0]) * [0.7031, 0.7031, 1.25]
        affine[:3, 3] = random.uniform(-400, 400, 3)
        header = nibabel.Nifti1Header()
        header.set_data_shape((512, 512, 300))
        header.set_sform(affine, 1)
        header.set_qform(affine, 1)
        header["magic"], header["vox_offset"] = b"n+1", 352
        (tmp_path / "a.nii").write_bytes(header.binaryblock + b"\0" * 4)
        with open_volume(tmp_path / "a.nii") as opened:
            lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
            assert opened.header.geometry.affine == pytest.approx(lps, abs=1e-4)


def test_lengths_in_microns_are_converted_and_said(tmp_path):
    path = patched(write(tmp_path / "a.nii.gz", labels()), offset=123, form="<B", values=[3])
    found = read_label_map(path)
    assert found.geometry.spacing_mm == pytest.approx((0.7e-3, 0.8e-3, 1.25e-3))
    assert found.geometry.origin_mm == pytest.approx((-0.1205, 0.03025, 1.0))
    assert found.notes == ("its header measures in microns, converted to mm",)


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "expected"),
    [
        (np.array([0, 32768, 65535], np.uint16), 2 / 65535, 0.0, [0, 1, 2]),  # 1.0000153, as nibabel scales
        (np.array([0, 64, 255], np.uint8), 4 / 255, 0.0, [0, 1, 4]),  # 1.0039
        (np.array([1024, 1025, 1324], np.int16), 1.0, -1024.0, [0, 1, 300]),
        (np.array([0, 1, 3], np.float32), 2.0, 0.0, [0, 2, 6]),
        (np.array([-32768, 0, 32767], np.int16), 2 / 65535, 1.0, [0, 1, 2]),
    ],
)
def test_scaled_labels_that_are_whole_but_for_rounding_are_labels(tmp_path, stored, slope, intercept, expected):
    path = patched(
        write(tmp_path / "a.nii.gz", stored.reshape(3, 1, 1)), offset=112, form="<2f", values=[slope, intercept]
    )
    np.testing.assert_array_equal(read_label_map(path).array.ravel(), expected)


def test_scaled_probabilities_are_no_labels(tmp_path):
    path = write(tmp_path / "a.nii.gz", np.arange(256, dtype=np.uint8).reshape(4, 8, 8))
    with pytest.raises(DataError, match=r"holds the value 0\.0039"):
        read_label_map(patched(path, offset=112, form="<2f", values=[1 / 255, 0.0]))


@pytest.mark.parametrize("values", [np.array([0, 1, 2], np.int16), np.array([0, 3e-5, 6e-5], np.float32)])
def test_numbers_of_which_rounding_makes_an_empty_map_are_no_labels(tmp_path, values):
    path = write(tmp_path / "a.nii.gz", values.reshape(3, 1, 1))
    slope = 1e-30 if values.dtype.kind == "i" else 1.0
    with pytest.raises(DataError, match=r"values from 0 to [26]e-\d+; expected integer labels"):
        read_label_map(patched(path, offset=112, form="<2f", values=[slope, 0.0]))


def test_a_trailing_axis_of_one_is_none(tmp_path):
    path = patched(write(tmp_path / "a.nii.gz", labels()), offset=40, form="<8h", values=[5, 7, 6, 5, 1, 1, 1, 1])
    np.testing.assert_array_equal(read_label_map(path).array, labels())


def test_broken_files_are_refused(tmp_path):
    whole = write(tmp_path / "a.nii.gz", labels()).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    for content in (b"", whole[:17], whole[:-9], bytes(flipped), whole[:-4] + b"\xff\xff\xff\xff", b"text" * 99):
        (tmp_path / "b.nii.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"b\.nii\.gz: found"):
            read_label_map(tmp_path / "b.nii.gz")
    # Two compressed members in one file: the trailer tells the size of the last one only.
    content = gzip.decompress(whole)
    for cut in (100, 400):
        (tmp_path / "c.nii.gz").write_bytes(gzip.compress(content[:cut]) + gzip.compress(content[cut:]))
        np.testing.assert_array_equal(read_label_map(tmp_path / "c.nii.gz").array, labels())


def bomb(head):
    """16 MiB of zeros behind a header, ten times in one file of 160 KiB."""
    return gzip.compress(head) + 10 * gzip.compress(bytes(1 << 24))


@pytest.mark.parametrize("in_one_member", [True, False])
def test_a_stream_cannot_take_more_memory_than_the_header_says(tmp_path, monkeypatch, in_one_member):
    taken = []
    monkeypatch.setattr(ReadBuffer, "take", lambda self, size: taken.append(size) or np.empty(size, np.uint8))
    head = gzip.decompress(write(tmp_path / "a.nii.gz", labels()).read_bytes())
    content = gzip.compress(head + bytes(1 << 24)) if in_one_member else bomb(head)
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(DataError, match=re.escape("more than the 562 bytes that its header says")):
        read_label_map(tmp_path / "a.nii.gz")
    assert sum(taken) < 1 << 16


def test_a_header_that_claims_more_than_the_file_can_hold_costs_no_memory(tmp_path):
    header = nibabel.Nifti2Header()
    header.set_data_shape((100_000, 100_000, 100_000))
    header["pixdim"][1:4] = 1.0
    header["datatype"], header["bitpix"], header["vox_offset"], header["magic"] = 2, 8, 544, b"n+2\0\r\n\x1a\n"
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1000)))
    with pytest.raises(DataError, match="1000000000000544 bytes are compressed in it"):
        read_label_map(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(1000))
    with pytest.raises(DataError, match=r"found 1540 bytes of the file; expected 1000000000000544 bytes"):
        read_label_map(tmp_path / "a.nii")


def test_padding_behind_the_voxels_is_allowed_and_more_is_not(tmp_path):
    content = write(tmp_path / "a.nii", labels()).read_bytes()
    for num, is_read in ((512, True), (8192, False)):
        (tmp_path / "a.nii").write_bytes(content + bytes(num))
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content + bytes(num)))
        for name in ("a.nii", "a.nii.gz"):
            if is_read:
                np.testing.assert_array_equal(read_label_map(tmp_path / name).array, labels())
            else:
                with pytest.raises(DataError, match="more than the 562 bytes that its header says"):
                    read_label_map(tmp_path / name)


def test_scaled_intensities_are_those_of_simpleitk(tmp_path):
    stored = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    path = patched(write(tmp_path / "a.nii.gz", stored), offset=112, form="<2f", values=[0.37, -1024.5])
    image, expected = read_nifti(SourceFile(path=path)).image, sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected))
    assert image.GetPixelID() == expected.GetPixelID()


def test_a_buffer_is_used_again_and_grows(tmp_path):
    buffer = ReadBuffer()
    small = write(tmp_path / "a.nii.gz", labels())
    large = write(tmp_path / "b.nii.gz", np.tile(labels(), (3, 3, 3)))
    first = read_label_map(large, buffer=buffer).array
    np.testing.assert_array_equal(first, np.tile(labels(), (3, 3, 3)))
    second = read_label_map(small, buffer=buffer).array
    np.testing.assert_array_equal(second, labels())
    assert np.shares_memory(first, second)


def test_without_a_visible_library_the_package_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_voxels, "_libdeflate", lambda: None)
    assert_as_simpleitk(write(tmp_path / "a.nii.gz", labels()))
    test_broken_files_are_refused(tmp_path)


def test_the_usual_file_is_expanded_in_one_step(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    path = write(tmp_path / "a.nii.gz", labels())
    monkeypatch.setattr(gzip, "GzipFile", refuse)
    np.testing.assert_array_equal(read_label_map(path).array, labels())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("factor", [0.5, 1000])
def test_a_member_of_a_zip_that_lies_about_its_size_is_never_read_as_another_one(tmp_path, method, factor):
    content = write(tmp_path / "a.nii.gz", labels()).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression=method) as archive:
        archive.writestr("a.nii.gz", content)
    source = SourceFile(path=tmp_path / "a.zip", member="a.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_nifti(source).image), labels())
    raw = (tmp_path / "a.zip").read_bytes()
    size = struct.pack("<I", len(content))
    lie = struct.pack("<I", int(len(content) * factor))
    (tmp_path / "a.zip").write_bytes(raw.replace(size, lie))
    if method == zipfile.ZIP_DEFLATED and factor > 1:
        # The stream itself says where it ends, and its checksum that it is whole.
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_nifti(source).image), labels())
        return
    with pytest.raises(DataError, match=r"a\.zip"):
        read_nifti(source)


@pytest.mark.parametrize("kind", ["pipe", "device", "circle"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "a.nii.gz"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    for read in (read_nifti, read_nifti_geometry):
        with pytest.raises(DataError, match=r"a\.nii\.gz: found a file that cannot be opened"):
            read(SourceFile(path=path))
