"""Claims about chunks packed in lanes, against a decoder written from the description of the format alone."""

import numpy as np
import pytest

from kernels.lane_packing import BOTH, FRONT, UP, WHOLE, max_chunk_bytes, pack_chunk, read_box

SHAPE = (11, 37, 50)
"""Units of 16, and the last ones clipped along every axis: 3 x 4 of them."""


def packed(numbers, *, predictor):
    room = np.empty(max_chunk_bytes(*numbers.shape), np.uint8)
    box = np.array([[0, 0, 0], numbers.shape])
    size = pack_chunk(numbers, box, 1.0, int(numbers.min()), predictor, room)
    return room[:size].tobytes()


def decoded_slowly(payload, shape, *, predictor):
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
                    predicted = prediction(unit, int(bases[index]), z, y, predictor)
                    for lane in range(16):
                        code = bits[lane] >> position & ((1 << width) - 1)
                        difference = code - (1 << width) if width and code >> (width - 1) else code
                        unit[z, y, lane] = (predicted[lane] + difference) % 65536
                    position += width
        part = numbers[:, first_y : first_y + 16, first_x : first_x + 16]
        part[...] = unit[:, :, : part.shape[2]]
    return numbers


def prediction(unit, base, z, y, predictor):
    above = unit[z, y - 1] if y else (unit[z - 1, 0] if z else np.full(16, base))
    if z == 0 or predictor == UP:
        return above
    before = unit[z - 1, y]
    if y == 0 or predictor == FRONT:
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


@pytest.mark.parametrize("predictor", [UP, FRONT, BOTH])
@pytest.mark.parametrize(("name", "numbers"), list(cases()), ids=[name for name, _ in cases()])
def test_the_bytes_mean_what_the_description_says(name, numbers, predictor):
    numbers = numbers.astype(np.int16)
    payload = packed(numbers, predictor=predictor)
    expected = numbers.astype(np.int64) - int(numbers.min())
    np.testing.assert_array_equal(decoded_slowly(payload, SHAPE, predictor=predictor), expected)
    assert (len(payload) == 2) == (name == "constant")


@pytest.mark.parametrize("predictor", [UP, FRONT, BOTH])
def test_every_box_is_the_same_part_of_the_whole(predictor):
    numbers = dict(cases())["noise"].astype(np.int16)
    content = np.frombuffer(packed(numbers, predictor=predictor), np.uint8)
    ends = np.array([0, len(content)])
    ends.setflags(write=False)
    random = np.random.default_rng(1)
    for dtype, step in ((np.int16, 0.0), (np.float32, 0.5)):
        for _ in range(100):
            corners = np.sort([random.integers(0, np.add(SHAPE, 1)) for _ in range(2)], axis=0)
            around = np.full(corners[1] - corners[0] + 4, 99, dtype)
            arguments = (np.array(SHAPE), np.array([16, 64, 64]), corners, corners[0] - 2)
            broken = read_box(content, ends, 0, *arguments, step, int(numbers.min()), predictor, around)
            assert broken == WHOLE
            expected = np.full(around.shape, 99, dtype)
            part = numbers[tuple(slice(a, b) for a, b in corners.T)]
            expected[2:-2, 2:-2, 2:-2] = part * step if step else part
            np.testing.assert_array_equal(around, expected, err_msg="nothing beside the box is written")
