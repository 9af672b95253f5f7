"""Claims about chunks packed in lanes, against a decoder written from the description of the format alone."""

import numpy as np
import pytest

from kernels.packing.lane_packing import max_chunk_bytes, pack_chunk
from kernels.packing.lane_unpacking import EVERYWHERE, UNCHECKED, WHOLE, read_box

SHAPE = (11, 37, 50)
"""Units of 16, and the last ones clipped along every axis: 3 x 4 of them."""


def packed(numbers):
    room = np.empty(max_chunk_bytes(*numbers.shape), np.uint8)
    box = np.array([[0, 0, 0], numbers.shape])
    size = pack_chunk(numbers, box, 1.0, int(numbers.min()), room)
    return room[:size].tobytes()


def decoded_slowly(payload, shape):
    """Follow the module's description, a voxel at a time."""
    if len(payload) == 2:
        return np.full(shape, int.from_bytes(payload, "little"))
    num_z, num_y, num_x = shape
    units = [(y, x) for y in range(0, num_y, 16) for x in range(0, num_x, 16)]
    bases = np.frombuffer(payload, "<u2", len(units))
    ends = np.frombuffer(payload, "<u4", len(units), 2 * len(units)).tolist()
    numbers = np.zeros(shape, np.int64)
    for index, (first_y, first_x) in enumerate(units):
        rows = min(16, num_y - first_y)
        begin, end = ends[index - 1] if index else 0, ends[index]
        content = payload[6 * len(units) :][begin:end]
        unit = np.full((num_z, rows, 16), int(bases[index]))
        if content:
            num_bytes = (num_z * rows + 1) // 2
            words = np.frombuffer(content[num_bytes:], "<u2").reshape(-1, 16)
            bits = [sum(int(word) << (16 * k) for k, word in enumerate(words[:, lane])) for lane in range(16)]
            position = 0
            for z in range(num_z):
                for y in range(rows):
                    row = z * rows + y
                    width = content[row // 2] >> 4 * (row % 2) & 15
                    width += width == 15
                    predicted = prediction(unit, int(bases[index]), z, y)
                    for lane in range(16):
                        code = bits[lane] >> position & ((1 << width) - 1)
                        difference = code - (1 << width) if width and code >> (width - 1) else code
                        unit[z, y, lane] = (predicted[lane] + difference) % 65536
                    position += width
        part = numbers[:, first_y : first_y + 16, first_x : first_x + 16]
        part[...] = unit[:, :, : part.shape[2]]
    return numbers


def prediction(unit, base, z, y):
    above = unit[z, y - 1] if y else (unit[z - 1, 0] if z else np.full(16, base))
    if z == 0:
        return above
    before = unit[z - 1, y]
    if y == 0:
        return before
    corner = unit[z - 1, y - 1]
    slope = (above + before - 2 * corner + 32768) % 65536 - 32768
    return (above + before + 1) // 2 + (slope >> 2)


def cases():
    random = np.random.default_rng(0)
    smooth = np.add.outer(np.add.outer(np.arange(11) * 3, np.arange(37) * 5), np.arange(50) * 2)
    yield "constant", np.full(SHAPE, -7)
    yield "labels", random.integers(0, 3, SHAPE) * (smooth > 150)
    yield "noise", smooth + random.integers(-40, 40, SHAPE)
    yield "all 16 bits", random.integers(-32768, 32768, SHAPE)
    yield "one voxel", (np.arange(np.prod(SHAPE)).reshape(SHAPE) == 12345) * 1


@pytest.mark.parametrize(("name", "numbers"), list(cases()), ids=[name for name, _ in cases()])
def test_the_bytes_mean_what_the_description_says(name, numbers):
    numbers = numbers.astype(np.int16)
    payload = packed(numbers)
    expected = numbers.astype(np.int64) - int(numbers.min())
    np.testing.assert_array_equal(decoded_slowly(payload, SHAPE), expected)
    assert (len(payload) == 2) == (name == "constant")


def chunks_of(numbers):
    """What `read_box` is told of a channel that is one chunk."""
    content = np.frombuffer(packed(numbers), np.uint8)
    ends = np.array([0, len(content)])
    ends.setflags(write=False)
    return content, ends, np.ones(1, bool), 0, SHAPE, (16, 64, 64)


def test_every_box_is_the_same_part_of_the_whole_within_padding():
    numbers = dict(cases())["noise"].astype(np.int16)
    chunks = chunks_of(numbers)
    random = np.random.default_rng(1)
    padded = np.pad(numbers, 60, constant_values=-3)
    for dtype, step in ((np.int16, 0.0), (np.float32, 0.5)):
        for _ in range(100):
            start = random.integers(-60, np.array(SHAPE) + 20)
            shape = random.integers(0, 40, 3)
            target = np.full(shape, 99, dtype)
            scale = (step, int(numbers.min()), -3)
            assert read_box(*chunks, *scale, tuple(start.tolist()), EVERYWHERE, target) == WHOLE
            part = padded[tuple(slice(a + 60, a + 60 + n) for a, n in zip(start, shape, strict=True))]
            is_outside = np.ones(padded.shape, bool)
            is_outside[60:-60, 60:-60, 60:-60] = False
            is_outside = is_outside[tuple(slice(a + 60, a + 60 + n) for a, n in zip(start, shape, strict=True))]
            expected = np.where(is_outside, part, part * step) if step else part
            np.testing.assert_array_equal(target, expected)


def test_what_lies_between_pairs_of_planes_is_read_and_most_of_the_corners_are_not():
    numbers = dict(cases())["noise"].astype(np.int16)
    numbers[:, 16:32, 16:32], numbers[:, :, 32:48] = 7, 9
    chunks = chunks_of(numbers)
    random = np.random.default_rng(2)
    start = (0, -2, 3)
    places = np.indices((11, 39, 40)).astype(np.float64)
    shares = []
    for _ in range(100):
        normals = np.linalg.qr(random.standard_normal((3, 3)))[0] / [[5], [9], [9]]
        if random.random() < 0.3:
            normals[:, 0] *= random.random(3) < 0.5
        slabs = np.column_stack([normals, normals @ random.uniform(0, (11, 39, 40))])
        target = np.full((11, 39, 40), 999, np.int16)
        assert read_box(*chunks, 0.0, int(numbers.min()), -3, start, slabs, target) == WHOLE
        is_wanted = (np.abs(np.tensordot(normals, places, 1) - slabs[:, 3].reshape(3, 1, 1, 1)) <= 1).all(axis=0)
        expected = np.full(target.shape, -3, np.int16)
        expected[:, 2:] = numbers[:, :37, 3:43]
        np.testing.assert_array_equal(target[is_wanted], expected[is_wanted])
        shares.append((target[:, 2:] == 999).mean())
    assert np.mean(shares) > 0.4


def test_nothing_is_read_while_a_chunk_that_is_needed_was_not_checked():
    numbers = np.concatenate([dict(cases())["noise"].astype(np.int16)[:, :, :32]] * 3, axis=2)
    halves = [packed(np.ascontiguousarray(numbers[:, :, a:b])) for a, b in ((0, 64), (64, 96))]
    content, ends = np.frombuffer(b"".join(halves), np.uint8), np.cumsum([0, *map(len, halves)])
    ends.setflags(write=False)
    chunks = (content, ends, np.array([True, False]), 0, numbers.shape, (16, 64, 64), 0.0, int(numbers.min()), 0)
    target = np.full((5, 10, 12), 999, np.int16)
    assert read_box(*chunks, (2, 3, 60), EVERYWHERE, target) == UNCHECKED
    assert (target == 999).all()
    assert read_box(*chunks, (2, 3, 52), EVERYWHERE, target) == WHOLE
    np.testing.assert_array_equal(target, numbers[2:7, 3:13, 52:64])
