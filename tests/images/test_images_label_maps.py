"""Claims about label maps in MetaImage, NRRD and MINC, and about what is no file at all."""

import bz2
import gzip
import os
import socket
import tracemalloc
import zlib

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from orchestrator.errors import DataError
from orchestrator.images.image_file import ImageFile
from orchestrator.images.label_maps import read_label_map

LABELS = np.random.default_rng(0).integers(0, 300, (5, 6, 7)).astype(np.int16)
SLANTED = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)


def write(path, *, array=LABELS, compressed=False, direction=SLANTED):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 1.25))
    image.SetOrigin((-120.5, 30.25, 1e3))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return path


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_voxels_and_grid_are_those_of_simpleitk(tmp_path, name, compressed, dtype):
    array = (LABELS % 100).astype(dtype)
    path = write(tmp_path / name, array=array, compressed=compressed)
    image, found = sitk.ReadImage(str(path)), read_label_map(path)
    np.testing.assert_array_equal(found.array, sitk.GetArrayFromImage(image))
    assert found.geometry.size == image.GetSize()
    assert found.geometry.spacing_mm == pytest.approx(image.GetSpacing())
    assert found.geometry.origin_mm == pytest.approx(image.GetOrigin())
    assert found.geometry.direction == pytest.approx(image.GetDirection())
    assert found.array.dtype.kind in "iu"


def test_the_spacing_of_metaimage_is_what_its_header_says(tmp_path):
    path = write(tmp_path / "a.mha")
    path.write_bytes(path.read_bytes().replace(b"Spacing =", b"Spacing = 0.6666666666666666 0.8 -1.25\nOld ="))
    assert read_label_map(path).geometry.spacing_mm == (2 / 3, 0.8, 1.25)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
@pytest.mark.parametrize("compressed", [False, True])
def test_voxels_and_grid_of_minc_2_are_those_of_nibabel(tmp_path, compressed, dtype):
    path = write(tmp_path / "a.mnc", array=(LABELS % 100).astype(dtype), compressed=compressed)
    image, found = nibabel.load(path), read_label_map(path)
    np.testing.assert_array_equal(found.array, LABELS % 100)
    # nibabel's first index is the slowest one, and its x and y point to the other sides.
    corners = np.array([[0, 0, 0], [6, 0, 0], [0, 5, 0], [0, 0, 4]])
    ours = corners @ found.geometry.affine[:, :3].T + found.geometry.affine[:, 3]
    theirs = nibabel.affines.apply_affine(image.affine, corners[:, ::-1]) * (-1, -1, 1)
    assert ours == pytest.approx(theirs)


def nrrd(path, *, data, lines=(), encoding="raw", sizes="7 6 5", dtype="short"):
    header = ["NRRD0004", "# a comment", f"type: {dtype}", f"dimension: {len(sizes.split())}", f"sizes: {sizes}"]
    header += ["endian: little", f"encoding: {encoding}", "key:=value: of the user", *lines]
    path.write_bytes(("\n".join(header) + "\n\n").encode() + data)
    return path


RAW = LABELS.tobytes()
TEXT = " ".join(map(str, [*LABELS.ravel()[:-1], 300])).encode()


@pytest.mark.parametrize(
    ("encoding", "data", "lines"),
    [
        ("raw", RAW, []),
        ("gzip", gzip.compress(RAW), []),
        ("gz", gzip.compress(RAW[:100]) + gzip.compress(RAW[100:]), []),
        ("bzip2", bz2.compress(RAW), []),
        ("raw", b"first\nsecond\n" + RAW, ["line skip: 2"]),
        ("gzip", b"first\nsecond\n" + gzip.compress(RAW), ["line skip: 2"]),
        ("bz2", b"first\n" + bz2.compress(b"123" + RAW), ["lineskip: 1", "byte skip: 3"]),
        ("raw", b"12345" + RAW, ["byte skip: 5"]),
        ("raw", b"12345678" * 9 + RAW, ["byte skip: -1"]),
        ("gzip", gzip.compress(b"12345" + RAW), ["byte skip: 5"]),
        ("gzip", gzip.compress(b"12345" + RAW), ["byte skip: -1"]),
        ("raw", RAW + b"\n", []),  # more than the header says: what is said counts from the beginning
        ("ascii", " ".join(map(str, LABELS.ravel())).encode(), []),
        ("text", b"1 2 3\n" + ", ".join(map(str, LABELS.ravel())).encode(), ["line skip: 1"]),
    ],
)
@pytest.mark.parametrize("detached", [False, True])
def test_what_nrrd_allows_before_its_voxels_is_skipped(tmp_path, encoding, data, lines, detached):
    if detached:
        (tmp_path / "a.data").write_bytes(data)
        path = nrrd(tmp_path / "a.nhdr", data=b"", encoding=encoding, lines=[*lines, "data file: a.data"])
    else:
        path = nrrd(tmp_path / "a.nrrd", data=data, encoding=encoding, lines=lines)
    np.testing.assert_array_equal(read_label_map(path).array, LABELS)


@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(("name", "encoding"), [("a.nii", "raw"), ("a.nii.gz", "gzip")])
def test_the_header_of_a_nifti_file_beside_another_header_is_not_read_as_voxels(tmp_path, version, name, encoding):
    nibabel.save(version(LABELS.T, np.eye(4)), tmp_path / name)
    lines = [f"data file: {name}"]
    for path in (nrrd(tmp_path / "a.nhdr", data=b"", encoding=encoding, lines=lines), tmp_path / "a.mhd"):
        if path.suffix == ".mhd":
            write(tmp_path / "written.mhd")
            head = (tmp_path / "written.mhd").read_text().partition("ElementDataFile")[0]
            head = head.replace("CompressedData = False", f"CompressedData = {encoding == 'gzip'}")
            path.write_text(f"{head}ElementDataFile = {name}\n")
        with pytest.raises(DataError, match="begin with the header of a NIfTI file"):
            read_label_map(path)
        with pytest.raises(DataError, match="begin with the header of a NIfTI file"):
            ImageFile(path=path).header()
    path = nrrd(tmp_path / "a.nhdr", data=b"", encoding=encoding, lines=[*lines, "byte skip: -1"])
    np.testing.assert_array_equal(read_label_map(path).array, LABELS)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["kinds: RGB-color domain domain"], "a 2D image of size 6 x 5 with 7 values a voxel: 2 axes"),
        (["space dimension: 3", "space directions: none none none"], "directions or distances along none of its axes"),
    ],
)
def test_what_is_no_volume_is_called_by_what_it_is(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        read_label_map(nrrd(tmp_path / "a.nrrd", data=RAW, lines=lines))


def test_numbers_in_the_other_byte_order_are_read(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", data=LABELS.astype(">i2").tobytes())
    path.write_bytes(path.read_bytes().replace(b"endian: little", b"endian: big"))
    np.testing.assert_array_equal(read_label_map(path).array, LABELS)
    path = write(tmp_path / "a.mha")
    head, _ = path.read_bytes().split(b"LOCAL\n")
    head = head.replace(b"ByteOrderMSB = False", b"ByteOrderMSB = True")
    path.write_bytes(head + b"LOCAL\n" + LABELS.astype(">i2").tobytes())
    np.testing.assert_array_equal(read_label_map(path).array, LABELS)


@pytest.mark.parametrize(
    ("space", "to_lps"),
    [("left-posterior-superior", (1, 1, 1)), ("right-anterior-superior", (-1, -1, 1)), ("LAS", (1, -1, 1))],
)
def test_the_space_of_nrrd_is_brought_to_lps(tmp_path, space, to_lps):
    lines = [f"space: {space}", "space directions: (0.5,0,0) (0,0,2) (0,1,0)", "space origin: (10,20,30)"]
    geometry = read_label_map(nrrd(tmp_path / "a.nrrd", data=RAW, lines=lines)).geometry
    x, y, z = to_lps
    assert geometry.spacing_mm == (0.5, 2.0, 1.0)
    assert geometry.origin_mm == (10.0 * x, 20.0 * y, 30.0 * z)
    assert geometry.direction == (x, 0, 0, 0, 0, y, 0, z, 0)


def test_units_of_nrrd_without_a_space_are_converted(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", data=RAW, lines=["spacings: 500 400 2000", 'units: "um" "um" "um"'])
    assert read_label_map(path).geometry.spacing_mm == (0.5, 0.4, 2.0)
    path = nrrd(tmp_path / "b.nrrd", data=RAW, lines=["spacings: 0.07 0.11 0.13", 'units: "cm" "cm" "cm"'])
    assert read_label_map(path).geometry.spacing_mm == (0.7, 1.1, 1.3)
    thirds = nrrd(tmp_path / "c.nrrd", data=RAW, lines=["spacings: 0.6666666666666666 1 1"])
    assert read_label_map(thirds).geometry.spacing_mm[0] == 2 / 3


def test_axes_of_one_voxel_beside_those_of_space_are_none(tmp_path):
    directions = "space directions: none (0.5,0,0) (0,2,0) (0,0,1)"
    path = nrrd(tmp_path / "a.nrrd", data=RAW, sizes="1 7 6 5", lines=["space: LPS", directions])
    np.testing.assert_array_equal(read_label_map(path).array, LABELS)
    assert read_label_map(path).geometry.spacing_mm == (0.5, 2.0, 1.0)
    path = nrrd(tmp_path / "b.nrrd", data=RAW + RAW, sizes="2 7 6 5", lines=["space: LPS", directions])
    with pytest.raises(DataError, match=r"3D image of size 7 x 6 x 5 with 2 values a voxel"):
        read_label_map(path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_noise_that_a_quick_compressor_has_made_larger_is_read(ending, tmp_path):
    noise = np.random.default_rng(0).integers(0, 1 << 16, (50, 120, 150)).astype(np.uint16)
    path = tmp_path / f"noise{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), useCompression=True, compressionLevel=1)
    assert path.stat().st_size > 1.04 * noise.nbytes
    np.testing.assert_array_equal(read_label_map(path).array, noise)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": RAW[:-1]}, "419 bytes of the file; expected 420"),
        ({"data": RAW * 100}, "more than the 420 bytes"),
        ({"data": gzip.compress(RAW)[:-9], "encoding": "gzip"}, "truncated or damaged"),
        ({"data": gzip.compress(bytes(1 << 24)), "encoding": "gzip"}, "more than the 420 bytes"),
        ({"data": bz2.compress(bytes(1 << 24)), "encoding": "bzip2"}, "more than the 420 bytes"),
        ({"data": gzip.compress(RAW), "encoding": "gzip", "sizes": "100000 100000 100000"}, "compressed in it"),
        ({"data": RAW, "sizes": "-7 6 5"}, "-7 x 6 x 5"),
        ({"data": RAW, "sizes": "7 6 x"}, "sizes: '7 6 x'"),
        ({"data": RAW, "encoding": "lzma"}, "encoding 'lzma'"),
        ({"data": RAW, "dtype": "block"}, "type 'block'"),
        ({"data": RAW, "lines": ["line skip: -1"]}, "line skip -1"),
        ({"data": RAW, "lines": ["line skip: 99999999999999"]}, "0 bytes of voxels; expected 420"),
        ({"data": TEXT, "encoding": "text", "lines": ["line skip: 99999999999999"]}, "0 bytes of voxels; expected 420"),
        ({"data": TEXT, "encoding": "text", "dtype": "uchar"}, r"its type .*out of bounds.* that uint8"),
        ({"data": TEXT + b" 7", "encoding": "text"}, "211 numbers; expected 210 by its header"),
        ({"data": TEXT[:-4], "encoding": "text"}, "209 numbers; expected 210 by its header"),
        ({"data": TEXT[:-3] + b"1.5", "encoding": "text"}, "no numbers of its type .*1.5.* numbers that int16"),
        ({"data": TEXT + b"0" * 1500, "encoding": "text"}, r"no numbers of its type \(b'.*'... of 1503 letters\)"),
        ({"data": TEXT + b" " * 20000, "encoding": "text"}, "more than the 210 bytes"),
        ({"data": RAW, "lines": ["spacings: 1 0 1"]}, "sizes of voxels above 0"),
        ({"data": RAW, "lines": ["spacings: 1 nan 1"]}, "2D image of size 7 x 5 with 6 values"),
        ({"data": RAW, "lines": ["space directions: (1,0,0) (0,inf,0) (0,0,1)"]}, "finite numbers"),
        ({"data": RAW, "lines": ["space directions: (1,0,0) (0.5,1,0) (0,0,1)"]}, "sheared axes, at 63.43"),
        ({"data": RAW, "lines": ["data file: LIST"]}, "several files"),
        ({"data": RAW, "lines": ["kinds: vector domain domain"]}, "2D image of size 6 x 5 with 7 values"),
        ({"data": RAW, "lines": ["kinds: domain domain list", "spacings: 1 1 1"]}, "2D image of size 7 x 6 with 5"),
        ({"data": RAW, "lines": ["kinds: domain domain"]}, "kinds: domain domain"),
        ({"data": RAW, "lines": ["space: upside-down"]}, "space: upside-down"),
        ({"data": RAW, "lines": ["spacings: 1 1 1", "axis mins: 10 20 30"]}, "axis mins: 10 20 30"),
        ({"data": RAW, "lines": ["spacings: 1 1 1", 'units: "mm" "mm" "cm"']}, "different units"),
        ({"data": RAW, "lines": ["spacings: 1 1 1", 'units: "inch" "inch" "inch"']}, "lengths in 'inch'"),
        ({"data": RAW, "lines": ["spacings: 1 1 1", 'units: "m" "m" "m"']}, "1000 x 1000 x 1000 mm, since .* in m"),
        ({"data": RAW, "lines": ["spacings: 1 1 1", "spacings: 2 1 1"]}, "spacings = '1 1 1' and spacings = '2 1 1'"),
        ({"data": RAW, "lines": ["data file: /dev/zero"]}, "which is no file"),
    ],
)  # fmt: skip
def test_a_nrrd_file_that_cannot_be_right_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(DataError, match=rf"a\.nrrd: found .*({message})"):
        read_label_map(nrrd(tmp_path / "a.nrrd", **change))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("NDims = 3", "NDims = -1", "NDims = -1"),
        ("NDims = 3", "NDims = 1e30", r"NDims = 1e\+30"),
        ("NDims = 3", "NDims = 3.5", r"NDims = 3.5"),
        ("DimSize = 7 6 5", "DimSize = 7 6 4.5", "7 x 6 x 0"),
        ("TransformMatrix = ", "TransformMatrix = 2 0 0 0 2 0 0 0 2\nOld = ", "directions of length 1"),
        ("Offset = ", "Position = 1 2 3\nOffset = ", "offset = '1 2 3' and offset = '-120.5"),
        ("ElementDataFile", "HeaderSize = 4\nElementDataFile", "HeaderSize 4 before voxels"),
        ("DimSize = 7 6 5", "DimSize = 7 6 -5", "7 x 6 x -5"),
        ("DimSize = 7 6 5", "DimSize = 7 6", "dimsize = '7 6'"),
        ("DimSize = 7 6 5", "DimSize = 100000 100000 100000", "expected 2000000000000000 bytes"),
        ("DimSize = 7 6 5", "DimSize = 7 6 4", None),  # 84 bytes behind the voxels pass for padding
        ("ElementType = MET_SHORT", "ElementType = MET_STRING", "ElementType = MET_STRING"),
        ("ElementSpacing =", "ElementSpacing = nan 1 1\nOld =", "finite numbers"),
        ("ElementDataFile", "HeaderSize = nan\nElementDataFile", "headersize = 'nan'; expected 1 finite number"),
        ("ElementDataFile", "ElementNumberOfChannels = inf\nElementDataFile", "channels = 'inf'; expected 1 finite"),
        ("LOCAL", "LIST", "several files"),
        ("LOCAL", "other.raw", "other.raw, which is no file"),
        ("LOCAL", "x" * 5000, "xxx, which is no file"),
        ("CompressedData = False", "CompressedData = True", "truncated or damaged"),
    ],
)
def test_a_metaimage_that_cannot_be_right_is_refused_by_name(tmp_path, old, new, message):
    path = write(tmp_path / "a.mha")
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode()))
    if message is None:
        np.testing.assert_array_equal(read_label_map(path).array, LABELS[:4])
        return
    with pytest.raises(DataError, match=rf"a\.mha: found .*{message}"):
        read_label_map(path)


def test_voxels_behind_another_header_or_written_out_are_read(tmp_path):
    head = write(tmp_path / "a.mha", direction=np.eye(3).ravel().tolist()).read_bytes().split(b"ElementDataFile")[0]
    (tmp_path / "a.raw").write_bytes(b"another header" + RAW)
    (tmp_path / "a.mhd").write_bytes(head + b"HeaderSize = -1\nElementDataFile = a.raw\n")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.mhd").array, LABELS)
    (tmp_path / "b.mhd").write_bytes(head + b"HeaderSize = 14\nElementDataFile = a.raw\n")
    np.testing.assert_array_equal(read_label_map(tmp_path / "b.mhd").array, LABELS)
    text = head.replace(b"BinaryData = True", b"BinaryData = False") + b"ElementDataFile = LOCAL\n"
    (tmp_path / "c.mha").write_bytes(text + " ".join(map(str, LABELS.ravel())).encode())
    np.testing.assert_array_equal(read_label_map(tmp_path / "c.mha").array, LABELS)
    bomb = head.replace(b"CompressedData = False", b"CompressedData = True") + b"ElementDataFile = LOCAL\n"
    (tmp_path / "d.mha").write_bytes(bomb + zlib.compress(bytes(1 << 24)))
    with pytest.raises(DataError, match="more than the 420 bytes"):
        read_label_map(tmp_path / "d.mha")


def test_numbers_that_are_written_out_take_no_more_memory_than_their_file(tmp_path):
    """A number of 39 letters beside a million of one: as an array of texts they would take 39 MB."""
    labels = np.arange(1 << 20).reshape(64, 128, 128) % 7
    data = " ".join(map(str, labels.ravel())).encode()
    path = nrrd(
        tmp_path / "a.nrrd", data=data[:-1] + b"%039d" % labels[-1, -1, -1], encoding="text", sizes="128 128 64"
    )
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(read_label_map(path).array, labels)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 37e6


def test_minc_1_is_read(tmp_path):
    """nibabel cannot write it: its own smallest file, in which every slice has a scale of its own."""
    from scipy.io import netcdf_file

    with netcdf_file(tmp_path / "a.mnc", "w") as file:
        for name, (size, start, step) in {
            "zspace": (5, 3.0, 2.0),
            "yspace": (6, 2.0, 0.5),
            "xspace": (7, 1.0, 0.25),
        }.items():
            file.createDimension(name, size)
            axis = file.createVariable(name, "i", ())
            axis.start, axis.step, axis.length, axis.spacing = start, step, size, b"regular__"
        image = file.createVariable("image", "h", ("zspace", "yspace", "xspace"))
        image.valid_range, image.signtype = np.array([0.0, 1000.0]), b"signed__"
        image[:] = LABELS
        for name, value in (("image-min", 0.0), ("image-max", 1000.0)):
            limit = file.createVariable(name, "d", ("zspace",))
            limit[:] = value
    found = read_label_map(tmp_path / "a.mnc")
    np.testing.assert_array_equal(found.array, LABELS)
    assert found.geometry.spacing_mm == (0.25, 0.5, 2.0)
    assert found.geometry.origin_mm == (-1.0, -2.0, 3.0)  # MINC's x and y point to the right and the front
    assert nibabel.load(tmp_path / "a.mnc").shape == (5, 6, 7)


def test_a_minc_file_that_claims_more_than_it_holds_is_refused(tmp_path):
    path = write(tmp_path / "a.mnc", direction=np.eye(3).ravel().tolist())
    with h5py.File(path, "r+") as file:
        folder = file["minc-2.0/image/0"]
        attributes = dict(folder["image"].attrs)
        del folder["image"]
        image = folder.create_dataset("image", (10**5,) * 3, np.int16, chunks=(64, 64, 64))
        image.attrs.update(attributes)
    with pytest.raises(DataError, match=r"a\.mnc: found .*bytes are compressed in it"):
        read_label_map(path)
    path.write_bytes(b"text" * 99)
    with pytest.raises(DataError, match=r"a\.mnc: found a file that cannot be read as MINC"):
        read_label_map(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mha", "a.nrrd", "a.mnc"])
def test_pipes_sockets_devices_folders_and_loops_are_no_label_maps(tmp_path, name):
    path = tmp_path / name

    def refused():
        with pytest.raises(DataError, match=rf"{name}: found neither a file nor a link to one; expected a label map"):
            read_label_map(path)
        path.rmdir() if path.is_dir() else path.unlink()

    os.mkfifo(path)
    refused()
    path.symlink_to("/dev/zero")
    refused()
    path.symlink_to(path)
    refused()
    path.mkdir()
    refused()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))
        refused()
