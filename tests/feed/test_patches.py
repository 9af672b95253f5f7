"""Claims about patch files, against the arrays they were made from."""

import zlib

import blosc2
import numpy as np
import pyarrow as pa
import pytest
from patch_cases import SHAPE, make_case

from orchestrator.errors import DataError
from orchestrator.patches.layout import CHUNK_SHAPE, ArrayLayout
from orchestrator.patches.reader import PatchFile
from orchestrator.patches.writer import write_patches


@pytest.fixture(params=["quantised", "lossless"])
def stored(request, tmp_path):
    """A patch file and what must come out of it."""
    data, seg, properties = make_case()
    path = tmp_path / "case.arrow"
    write_patches(path, data=data, seg=seg, properties=properties, precision=request.param)
    if request.param == "quantised":
        data = np.rint(data * 512) / np.float32(512) + np.float32(0)  # there is no negative zero
    return PatchFile.open(path), data, seg, properties


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 8.0])
def test_quantised_intensities_are_within_the_error_that_the_file_promises(tmp_path, spread):
    random = np.random.default_rng(3)
    data = (random.normal(size=(2, 17, 70, 41)) * spread - 3 * spread).astype(np.float32)
    # A step from end to end of the range: differences of neighbours take all 16 bits.
    if spread == 8:
        data[0, 3, ::2] = data.min() + np.float32(127.99)
        data[0, 3, 1::2] = data.min()
    seg = random.integers(-1, 400, data.shape, dtype=np.int16)
    write_patches(tmp_path / "a.arrow", data=data, seg=seg, properties={})
    patches = PatchFile.open(tmp_path / "a.arrow")
    assert patches.image.max_error == 2**-10
    assert np.abs(patches.image[...].astype(float) - data).max() <= 2**-10
    np.testing.assert_array_equal(patches.segmentation[...], seg)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**15, 200.0, 1e-20])
def test_images_that_16_bits_cannot_hold_are_kept_without_loss(tmp_path, value):
    data = np.zeros((1, 4, 20, 20), np.float32)
    data[0, 1, 2, 3] = value
    write_patches(tmp_path / "a.arrow", data=data, seg=np.zeros(data.shape, np.int8), properties={})
    patches = PatchFile.open(tmp_path / "a.arrow")
    is_small = value == 1e-20
    assert patches.image.max_error == (2**-10 if is_small else 0)
    np.testing.assert_array_equal(patches.image[...], 0 if is_small else data)


def test_constant_chunks_cost_two_bytes(tmp_path):
    data = np.full((1, 32, 128, 128), 0.5, np.float32)
    data[0, 3, 4, 5] = 0.75
    seg = np.full(data.shape, -1, np.int8)
    write_patches(tmp_path / "a.arrow", data=data, seg=seg, properties={})
    table = pa.ipc.open_file(tmp_path / "a.arrow").read_all()
    sizes = [len(row) for row in table["payload"].to_pylist()]
    assert sizes[1:] == [2] * 15
    # 16 units with 6 bytes each, one with 128 bytes of widths and a few rows of bits, and the padding.
    assert 96 + 128 + 64 < sizes[0] < 96 + 128 + 64 + 600


def test_chunks_are_clipped_at_the_upper_borders():
    layout = ArrayLayout(shape=SHAPE, dtype="<f4", chunk_shape=CHUNK_SHAPE)
    assert layout.grid == (1, 3, 3, 2)
    starts = list(layout.starts())
    assert len(starts) == layout.num_chunks == 18
    assert starts[:3] == [(0, 0, 0, 0), (0, 0, 0, 64), (0, 0, 64, 0)]
    assert layout.extent((0, 32, 128, 64)) == (1, 5, 2, 6)
    assert layout.num_bytes((0, 32, 128, 64)) == 5 * 2 * 6 * 4
    assert sum(layout.num_bytes(start) for start in starts) == 37 * 130 * 70 * 4


def test_whole_arrays_come_back_bit_for_bit(stored):
    patches, data, seg, _ = stored
    assert (patches.image.shape, patches.image.dtype) == (data.shape, np.float32)
    assert (patches.segmentation.shape, patches.segmentation.dtype) == (seg.shape, np.int8)
    np.testing.assert_array_equal(np.asarray(patches.image).view(np.uint32), data.view(np.uint32))
    np.testing.assert_array_equal(patches.segmentation[:], seg)
    patches.verify()


@pytest.mark.parametrize(
    "key",
    [
        np.s_[:, 3:20, 60:70, 5:],
        np.s_[:, 15:17, 63:65, 63:65],
        np.s_[0, 36, 129, 69],
        np.s_[..., -6:],
        np.s_[:, -1],
        np.s_[0, 10:10, :, 3],
        np.s_[:, 30:900, :, -900:2],
    ],
)
def test_slices_are_those_of_numpy(stored, key):
    patches, data, seg, _ = stored
    np.testing.assert_array_equal(patches.image[key], data[key])
    np.testing.assert_array_equal(patches.segmentation[key], seg[key])


def test_random_boxes_are_those_of_numpy(stored):
    patches, data, _, _ = stored
    random = np.random.default_rng(1)
    for _ in range(50):
        start = [int(random.integers(0, size)) for size in SHAPE]
        stop = [int(random.integers(first, size)) + 1 for first, size in zip(start, SHAPE, strict=True)]
        expected = data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        np.testing.assert_array_equal(patches.image.read_box(start=tuple(start), stop=tuple(stop)), expected)


def test_a_box_read_is_a_copy_that_may_be_written(stored):
    patches, data, _, _ = stored
    box = patches.image[:, :2, :2, :2]
    box += 1
    np.testing.assert_array_equal(patches.image[:, :2, :2, :2], data[:, :2, :2, :2])


def test_random_boxes_are_padded_as_nnunet_pads_them(stored):
    from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

    patches, data, seg, _ = stored
    random = np.random.default_rng(4)
    size = (20, 40, 50)
    image, segmentation = np.empty((1, *size), np.float32), np.empty(size, np.int16)
    for _ in range(60):
        start = tuple(int(random.integers(1 - a, n)) for a, n in zip(size, SHAPE[1:], strict=True))
        patches.read_into(image, segmentation, start=start)
        box = [[a, a + b] for a, b in zip(start, size, strict=True)]
        np.testing.assert_array_equal(image, crop_and_pad_nd(data, box, 0))
        np.testing.assert_array_equal(segmentation, crop_and_pad_nd(seg.astype(np.int16), box, -1)[0])


def test_a_box_wholly_outside_is_padding(stored):
    for start in [(37, 0, 0), (50, 0, 0), (-30, 0, 0), (0, 131, 7), (3, 5, -4), (3, -90, 900)]:
        image, segmentation = np.ones((1, 4, 4, 4), np.float32), np.ones((4, 4, 4), np.int16)
        stored[0].read_into(image, segmentation, start=start)
        assert (image == 0).all()
        assert (segmentation == -1).all()


def test_class_locations_are_voxels_of_their_label(stored):
    patches, _, _, properties = stored
    assert patches.shape == SHAPE
    assert patches.labels == (1, 2)
    np.testing.assert_array_equal(patches.class_locations(2), properties["class_locations"][2][:, 1:])
    for absent in (3, 7, (1, 2)):
        assert patches.class_locations(absent).shape == (0, 3)


@pytest.mark.parametrize("key", [np.s_[:, ::2], np.s_[:, 37], np.s_[:, :, -131]])
def test_other_indices_are_refused(stored, key):
    with pytest.raises(IndexError, match=r"case\.arrow"):
        stored[0].image[key]


def test_boxes_outside_are_refused(stored):
    with pytest.raises(IndexError, match="expected within"):
        stored[0].image.read_box(start=(0, -1, 0, 0), stop=(1, 2, 2, 2))


def test_properties_keep_their_types(stored):
    patches, _, _, properties = stored
    found = patches.properties
    assert list(found) == list(properties)
    for key in ("spacing", "shape_before_cropping", "bbox_used_for_cropping", "sitk_stuff"):
        assert found[key] == properties[key]
        assert type(found[key]) is type(properties[key])
    assert list(found["class_locations"]) == [1, 2, (1, 2), 3]
    for label in (1, 2, (1, 2)):
        assert found["class_locations"][label].dtype == np.int16, "as it was written"
        np.testing.assert_array_equal(found["class_locations"][label], properties["class_locations"][label])
    assert found["class_locations"][3] == []


def test_what_its_writer_says_of_its_origin_is_kept(tmp_path):
    data, seg, _ = make_case((1, 2, 3, 4))
    write_patches(tmp_path / "a.arrow", data=data, seg=seg, properties={}, origin={"image": ["ab12", 3]})
    assert PatchFile.open(tmp_path / "a.arrow").origin == {"image": ["ab12", 3]}


def test_any_arrow_reader_sees_a_row_a_chunk(tmp_path):
    data, seg, properties = make_case()
    write_patches(tmp_path / "a.arrow", data=data, seg=seg, properties=properties, precision="lossless")
    table = pa.ipc.open_file(tmp_path / "a.arrow").read_all()
    assert table["array"].to_pylist() == ["image"] * 18 + ["segmentation"] * 18 + ["class_locations"] * 4
    assert table["voxels"].to_pylist()[36] == properties["class_locations"][1][:, 1:].tolist()
    row = table.slice(17, 1).to_pylist()[0]
    assert [row[axis] for axis in "czyx"] == [0, 32, 128, 64]
    assert blosc2.decompress2(row["payload"]) == data[0, 32:, 128:, 64:].tobytes()
    assert row["crc32"] == zlib.crc32(row["payload"])


def test_the_same_case_gives_the_same_bytes(tmp_path):
    for name in "ab":
        data, seg, properties = make_case()
        write_patches(tmp_path / name, data=data, seg=seg, properties=properties)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("data_shape", "seg_shape"), [((1, 4, 4, 4), (1, 4, 4, 5)), ((4, 4, 4), (4, 4, 4)), ((1, 0, 4, 4), (1, 0, 4, 4))]
)
def test_arrays_that_are_no_case_are_refused(tmp_path, data_shape, seg_shape):
    with pytest.raises(DataError, match=r"a\.arrow.*expected"):
        write_patches(tmp_path / "a.arrow", data=np.zeros(data_shape), seg=np.zeros(seg_shape), properties={})


@pytest.mark.parametrize("place", [(0, 2, 0, 0), (1, 0, 0, 0), (0, 0, -1, 0), (0, 0, 0)])
def test_class_locations_outside_of_the_case_are_refused(tmp_path, place):
    data, seg, _ = make_case((1, 2, 3, 4))
    locations = {1: np.array([(0, 0, 0, 0)[: len(place)], place])}
    with pytest.raises(DataError, match="label 1"):
        write_patches(tmp_path / "a.arrow", data=data, seg=seg, properties={"class_locations": locations})


def test_properties_that_json_cannot_hold_are_refused(tmp_path):
    data, seg, _ = make_case((1, 2, 3, 4))
    with pytest.raises(DataError, match="type set"):
        write_patches(tmp_path / "a.arrow", data=data, seg=seg, properties={"labels": {1, 2}})
