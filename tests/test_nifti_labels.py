"""Claims about the fast reader: it gives what SimpleITK gives, and nothing where the file is unusual."""

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from orchestrator.images import nifti_labels
from orchestrator.images.mask_files import read_mask
from orchestrator.images.nifti_labels import ReadBuffer, read_usual_nifti

# A rotation about a slanted axis, and a flip of z, which NIfTI keeps as the sign of pixdim[0].
SLANTED = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)
FLIPPED = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


def labels(dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(dtype)


def write(path, array, *, direction=None):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 1.25))
    image.SetOrigin((-120.5, 30.25, 1e3))
    if direction:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


def patched(path, *, offset, form, values):
    """Change a field of the header."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def assert_as_simpleitk(path):
    image, found = sitk.ReadImage(str(path)), read_usual_nifti(path, ReadBuffer())
    np.testing.assert_array_equal(found.array, sitk.GetArrayFromImage(image))
    assert found.spacing_mm == image.GetSpacing()
    assert found.origin == pytest.approx(image.GetOrigin(), abs=1e-6)
    assert found.direction == pytest.approx(image.GetDirection(), abs=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_voxels_and_grid_are_those_of_simpleitk(tmp_path, dtype, name):
    assert_as_simpleitk(write(tmp_path / name, labels(dtype)))


@pytest.mark.parametrize("direction", [SLANTED, FLIPPED])
def test_slanted_and_flipped_grids_are_those_of_simpleitk(tmp_path, direction):
    assert_as_simpleitk(write(tmp_path / "a.nii.gz", labels(), direction=direction))


QFORM_CODE, SFORM_CODE = 252, 254


@pytest.mark.parametrize("direction", [SLANTED, FLIPPED])
@pytest.mark.parametrize("unknown", [QFORM_CODE, SFORM_CODE])
def test_one_of_the_two_forms_is_enough(tmp_path, direction, unknown):
    path = write(tmp_path / "a.nii.gz", labels(), direction=direction)
    assert_as_simpleitk(patched(path, offset=unknown, form="<h", values=[0]))


@pytest.mark.parametrize(
    ("offset", "form", "values"),
    [
        (344, "<4s", [b"ni1\0"]),  # voxels in another file
        (0, ">i", [348]),  # the other byte order
        (40, "<8h", [4, 7, 6, 1, 5, 1, 1, 1]),  # four axes
        (40, "<8h", [3, 7, 0, 5, 1, 1, 1, 1]),
        (70, "<2h", [16, 32]),  # float32
        (70, "<2h", [2, 16]),  # a size that is not that of the type
        (76 + 8, "<f", [0.0]),  # a spacing of 0
        (112, "<2f", [2.0, 0.0]),  # scaled
        (112, "<2f", [1.0, -1024.0]),
        (123, "<B", [1]),  # metres
        (252, "<2h", [0, 0]),  # no form
        (280, "<f", [-0.9]),  # forms that differ
        (256, "<3f", [0.9, 0.9, 0.9]),  # no rotation
        (108, "<f", [1e9]),  # voxels beyond the end
    ],
)
def test_what_is_unusual_is_left_to_simpleitk(tmp_path, offset, form, values):
    path = patched(write(tmp_path / "a.nii.gz", labels()), offset=offset, form=form, values=values)
    assert read_usual_nifti(path, ReadBuffer()) is None


def test_broken_files_are_left_to_simpleitk(tmp_path):
    whole = write(tmp_path / "a.nii.gz", labels()).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    for content in (b"", whole[:17], whole[:-9], bytes(flipped), whole[:-4] + b"\xff\xff\xff\xff", b"text" * 99):
        (tmp_path / "b.nii.gz").write_bytes(content)
        assert read_usual_nifti(tmp_path / "b.nii.gz", ReadBuffer()) is None
    # Two compressed members in one file: the trailer tells the size of the last one only.
    content = gzip.decompress(whole)
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    assert read_usual_nifti(tmp_path / "c.nii.gz", ReadBuffer()) is None
    np.testing.assert_array_equal(read_mask(tmp_path / "c.nii.gz").array, labels())


def test_a_buffer_is_used_again_and_grows(tmp_path):
    buffer = ReadBuffer()
    small = write(tmp_path / "a.nii.gz", labels())
    large = write(tmp_path / "b.nii.gz", np.tile(labels(), (3, 3, 3)))
    first = read_usual_nifti(large, buffer).array
    np.testing.assert_array_equal(first, np.tile(labels(), (3, 3, 3)))
    second = read_usual_nifti(small, buffer).array
    np.testing.assert_array_equal(second, labels())
    assert np.shares_memory(first, second)


def test_without_a_visible_library_the_package_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti_labels, "_libdeflate", lambda: None)
    assert_as_simpleitk(write(tmp_path / "a.nii.gz", labels()))
    test_broken_files_are_left_to_simpleitk(tmp_path)
