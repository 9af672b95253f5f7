"""A patch file that is not what was written is refused where it is read, whatever its checksums say."""

import errno
import mmap
import os

import blosc2
import numpy as np
import pyarrow as pa
import pytest
from patch_cases import make_case

from bench.fuzz.seals import sealed_patches
from kernels.packing.lane_packing import max_chunk_bytes, pack_chunk
from kernels.packing.lane_unpacking import EVERYWHERE, WHOLE, read_box
from orchestrator.errors import IntegrityError
from orchestrator.patches.reader import PatchFile
from orchestrator.patches.writer import write_patches


@pytest.mark.parametrize("precision", ["quantised", "lossless"])
def test_a_changed_byte_of_a_chunk_is_named_by_verify_and_by_the_first_read(tmp_path, precision):
    path = tmp_path / "case.arrow"
    data, seg, properties = make_case()
    write_patches(path, data=data, seg=seg, properties=properties, precision=precision)
    payload = pa.ipc.open_file(path).read_all()["payload"].to_pylist()[9]
    content = bytearray(path.read_bytes())
    at = content.find(payload)
    assert at > 0
    content[at + 99] ^= 4
    path.write_bytes(content)
    patches = PatchFile.open(path)
    place = r"case\.arrow: image chunk at \(c, z, y, x\) = \(0, 16, 64, 64\)"
    with pytest.raises(IntegrityError, match=place):
        patches.verify()
    np.testing.assert_array_equal(patches.image[:, :16].shape, (1, 16, 130, 70))
    with pytest.raises(IntegrityError, match=place):
        patches.image[0, 20, 70, 66]


def test_damaged_bits_behind_a_right_checksum_do_not_lead_out_of_the_file():
    random = np.random.default_rng(8)
    numbers = random.normal(size=(16, 40, 70)).astype(np.float32)
    room = np.empty(max_chunk_bytes(16, 64, 128), np.uint8)
    size = pack_chunk(numbers, np.array([[0, 0, 0], numbers.shape]), 512.0, -4000, room)
    checked, target = np.ones(1, bool), np.empty(numbers.shape, np.float32)
    scale = (2**-9, -4000, 0)
    for _ in range(300):
        changed = room[:size].copy()
        changed[random.integers(0, size, 3)] = random.integers(0, 256, 3)
        changed.setflags(write=False)
        ends = np.array([0, size])
        ends.setflags(write=False)
        chunks = (changed, ends, checked, 0, numbers.shape, (16, 64, 128))
        broken = read_box(*chunks, *scale, (0, 0, 0), EVERYWHERE, target)
        assert broken in (WHOLE, 0)


def test_a_torn_file_is_refused_wherever_it_ends(tmp_path):
    path = tmp_path / "case.arrow"
    data, seg, properties = make_case((1, 20, 66, 66))
    write_patches(path, data=data, seg=seg, properties=properties)
    content = path.read_bytes()
    for size in (0, 1, 8, 100, 5000, len(content) // 2, len(content) - 6, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(IntegrityError, match=r"case\.arrow: not a whole patch file"):
            PatchFile.open(path)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.EIO])
def test_what_is_wrong_with_the_machine_is_not_said_of_the_file(tmp_path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "case.arrow"
    write_patches(path, data=np.zeros((1, 4, 4, 4), np.float32), seg=np.zeros((1, 4, 4, 4), np.int8), properties={})
    monkeypatch.setattr(mmap, "mmap", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        PatchFile.open(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.arrow"
    with pytest.raises(IntegrityError, match=r"a\.arrow"):
        PatchFile.open(path)
    path.write_bytes(np.random.default_rng(0).bytes(4000))
    with pytest.raises(IntegrityError, match=r"a\.arrow"):
        PatchFile.open(path)
    table = pa.table({"x": [1, 2, 3]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(IntegrityError, match="without a header"):
        PatchFile.open(path)


def test_a_changed_byte_is_seen_or_changes_nothing(tmp_path):
    path = tmp_path / "case.arrow"
    data, seg, properties = make_case((1, 3, 5, 7))
    write_patches(path, data=data, seg=seg, properties=properties)
    content = path.read_bytes()
    num_seen = 0
    random = np.random.default_rng(2)
    for at in random.integers(0, len(content), 400):
        changed = bytearray(content)
        changed[at] ^= 1 << int(random.integers(8))
        path.write_bytes(changed)
        try:
            patches = PatchFile.open(path)
            patches.verify()
        except IntegrityError:
            num_seen += 1
            continue
        assert np.abs(patches.image[...] - data).max() <= 2**-10
        np.testing.assert_array_equal(patches.segmentation[...], seg)
        assert patches.properties["spacing"] == properties["spacing"]
        np.testing.assert_array_equal(patches.properties["class_locations"][1], properties["class_locations"][1])
    # The payloads, header and checksums are most of the file; the rest is padding and redundant footers.
    assert num_seen > 200


@pytest.mark.parametrize(
    ("place", "value"),
    [
        # Kernels have room for 16 slices of a chunk.
        (("image", "chunk_shape"), [1, 64, 64, 64]),
        (("segmentation", "chunk_shape"), [1, 17, 64, 64]),
        (("image", "chunk_shape"), [1, 0, 64, 64]),
        (("image", "chunk_shape"), [1, 16, 64]),
        (("image", "shape"), [1, 37, 130, 128]),
        (("image", "shape"), [1, -37, 130, 70]),
        (("image", "shape"), [True, 37, 130, 70]),
        (("image", "shape"), [1, 37, 130, 70.0]),
        (("image", "shape"), [1, 37, 130]),
        (("segmentation", "shape"), [1, 48, 130, 70]),
        (("image", "offset"), 2**40),
        (("image", "offset"), 0.5),
        (("image", "offset"), "0"),
        (("image", "step"), 1),
        (("image", "step"), -0.25),
        (("image", "step"), float("nan")),
        (("image", "step"), 0.0),
        (("image", "max_error"), 0.0),
        (("image", "dtype"), "<i2"),
        (("image", "dtype"), "|O"),
        (("image", "dtype"), ["<f4"]),
        (("image", "stored_dtype"), "<u4"),
        (("image", "stored_dtype"), ""),
        (("image", "codec"), "none"),
        (("image", "codec"), None),
        (("image", "more"), 1),
        (("segmentation", "dtype"), "<f4"),
        (("segmentation", "step"), 0.5),
        (("property_arrays",), [{"shape": [3], "dtype": "|O", "chunk_shape": [3]}]),
        (("property_arrays",), [{"shape": [2**40], "dtype": "<f8", "chunk_shape": [2**40]}]),
        (("property_arrays",), [3]),
        (("location_dtypes",), ["|O", "", "", ""]),
        (("location_dtypes",), [["<i2"], "", "", ""]),
        (("location_dtypes",), ["<i2"]),
        (("locations",), [1, 1, 2, 3]),
        (("locations",), [[1], 2, 3, 4]),
        (("locations",), [1, 2]),
        (("properties",), {"array": 7}),
        (("properties",), [1, 2]),
        (("properties",), {"dict": [[[1], 2]]}),
        (("origin",), 3),
        (("version",), [2]),
    ],
    ids=str,
)
def test_a_header_that_kernels_cannot_rely_on_is_refused_although_its_checksum_is_right(tmp_path, place, value):
    data, seg, properties = make_case()
    path = tmp_path / "case.arrow"
    write_patches(path, data=data, seg=seg, properties=properties)

    def change(header):
        parent = header
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = value
        return header

    path.write_bytes(sealed_patches(path.read_bytes(), change_header=change))
    with pytest.raises(IntegrityError, match=r"case\.arrow: not a whole patch file"):
        read_all(path)


def read_all(path):
    patches = PatchFile.open(path)
    for label in patches.labels:
        patches.class_locations(label)
    return patches.image[...], patches.segmentation[...], patches.properties


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b"[" * 100_000, b"{}", b'{"format":1}'])
def test_a_header_that_is_none_is_refused_although_its_checksum_is_right(tmp_path, text):
    data, seg, properties = make_case((1, 3, 5, 7))
    path = tmp_path / "case.arrow"
    write_patches(path, data=data, seg=seg, properties=properties)
    path.write_bytes(sealed_patches(path.read_bytes(), change_header=lambda _: text))
    with pytest.raises(IntegrityError, match=r"case\.arrow: not a whole patch file"):
        PatchFile.open(path)


def swap_payloads(rows):
    rows[0][0], rows[0][1] = rows[0][1], rows[0][0]


def set_of(batch, row, **values):
    return lambda rows: rows[batch][row].update(values)


@pytest.mark.parametrize(
    "change",
    [
        swap_payloads,
        lambda rows: rows[0].append(rows[0][0]),
        lambda rows: rows[0].pop(),
        lambda rows: rows[2].append(rows[2][0]),
        lambda rows: rows.pop(),
        set_of(0, 0, z=16),
        set_of(0, 0, array="segmentation"),
        set_of(0, 0, payload=b""),
        set_of(0, 0, payload=b"123"),
        set_of(2, 0, voxels=[[37, 0, 0]]),
        set_of(2, 1, c=0),
    ],
)
def test_rows_that_are_not_those_of_the_header_are_refused_although_their_checksums_are_right(tmp_path, change):
    data, seg, properties = make_case()
    path = tmp_path / "case.arrow"
    write_patches(path, data=data, seg=seg, properties=properties)
    path.write_bytes(sealed_patches(path.read_bytes(), change_rows=change))
    with pytest.raises(IntegrityError, match=r"case\.arrow"):
        read_all(path)


def test_columns_of_other_types_are_refused(tmp_path):
    data, seg, properties = make_case((1, 3, 5, 7))
    path = tmp_path / "case.arrow"
    write_patches(path, data=data, seg=seg, properties=properties)
    reader = pa.ipc.open_file(pa.BufferReader(path.read_bytes()))
    narrow = reader.schema.set(6, pa.field("payload", pa.binary(), nullable=False))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, narrow) as writer:
        for index in range(reader.num_record_batches):
            writer.write_batch(reader.get_batch(index).cast(narrow))
    with pytest.raises(IntegrityError, match="of other types than its version has"):
        PatchFile.open(path)


def test_buffers_that_arrow_would_have_to_expand_are_refused(tmp_path):
    data, seg, properties = make_case((1, 3, 5, 7))
    path = tmp_path / "case.arrow"
    write_patches(path, data=data, seg=seg, properties=properties)
    reader = pa.ipc.open_file(pa.BufferReader(path.read_bytes()))
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, reader.schema, options=options) as writer:
        for index in range(reader.num_record_batches):
            writer.write_batch(reader.get_batch(index))
    with pytest.raises(IntegrityError, match="a buffer that lies elsewhere than in the file"):
        PatchFile.open(path)


def larger_blosc2(raw):
    packed = bytearray(blosc2.compress2(raw, typesize=4, codec=blosc2.Codec.ZSTD))
    packed[4:8] = (2**31 - 64).to_bytes(4, "little")
    return bytes(packed)


def other_blosc2(raw):
    return blosc2.compress2(raw, typesize=4, codec=blosc2.Codec.ZSTD, filters=[blosc2.Filter.BITSHUFFLE])


def plugin_blosc2(raw):
    packed = bytearray(blosc2.compress2(raw, typesize=4, codec=blosc2.Codec.ZSTD))
    packed[2] |= 6 << 5
    packed[22] = 36
    return bytes(packed)


@pytest.mark.parametrize(
    "pack",
    [
        lambda raw: blosc2.compress2(raw[:400], typesize=4, codec=blosc2.Codec.ZSTD),
        lambda raw: blosc2.compress2(raw * 2, typesize=4, codec=blosc2.Codec.ZSTD),
        larger_blosc2,
        other_blosc2,
        plugin_blosc2,
        lambda raw: blosc2.compress2(raw, typesize=4, codec=blosc2.Codec.LZ4),
        lambda _: b"12345",
    ],
)
def test_a_payload_that_expands_to_anything_else_is_named_although_its_checksum_is_right(tmp_path, pack):
    data, seg, properties = make_case()
    path = tmp_path / "case.arrow"
    write_patches(path, data=data, seg=seg, properties=properties, precision="lossless")
    change = set_of(0, 0, payload=pack(bytes(16 * 64 * 64 * 4)))
    path.write_bytes(sealed_patches(path.read_bytes(), change_rows=change))
    with pytest.raises(IntegrityError, match=r"case\.arrow: (image chunk at|not a whole patch file)"):
        read_all(path)


def test_a_changed_byte_of_an_array_of_the_properties_is_seen_when_it_is_read(tmp_path):
    data, seg, properties = make_case((1, 3, 5, 7))
    path = tmp_path / "case.arrow"
    table = np.arange(50) * 7919
    write_patches(path, data=data, seg=seg, properties={**properties, "table": table})
    content = bytearray(path.read_bytes())
    content[content.find(table.tobytes()) + 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"case\.arrow: properties/0: checksum"):
        _ = PatchFile.open(path).properties


def test_whoever_changes_the_places_of_chunks_in_an_open_file_changes_nothing(tmp_path):
    path = tmp_path / "case.arrow"
    data, seg, properties = make_case()
    write_patches(path, data=data, seg=seg, properties=properties)
    patches = PatchFile.open(path)
    offsets = patches.image._rows.offsets
    at = path.read_bytes().find(offsets[1:10].tobytes())
    with path.open("r+b") as file:
        file.seek(at)
        file.write(np.full(9, 2**40).tobytes())
    assert np.abs(patches.image[...] - data).max() <= 2**-10
