"""Claims about labels of overlapping windows: those of torch's sums, scikit-image's resize and numpy's argmax."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from scipy import ndimage

from kernels.resampling.zoom_taps import linear_taps, nearest_taps, same_taps
from kernels.windows.label_stream import LabelStream, StreamGrid
from kernels.windows.line_pool import LinePool, Steps


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scene:
    """Windows of random predictions."""

    patch: tuple[int, int, int]
    shape: tuple[int, int, int]
    padded: tuple[int, int, int]
    output: tuple[int, int, int]
    spacing: tuple[float, float, float]
    num_classes: int
    num_models: int
    regions: tuple[int, ...]
    is_half: bool
    starts: tuple[tuple[int, int, int], ...]
    predictions: tuple[np.ndarray, ...]


def random_scene(random, *, is_2d):
    patch = tuple(int(size) for size in random.integers(2, 9, 3))
    if is_2d:
        patch = (1, *patch[1:])
    shape = tuple(int(size) for size in random.integers(1, 20, 3))
    padded = tuple(map(max, shape, patch))
    first = int(is_2d)
    steps = compute_steps_for_sliding_window(padded[first:], patch[first:], float(random.choice([0.5, 0.75, 1.0])))
    steps = [list(range(padded[0])), *steps] if is_2d else steps
    starts = tuple((z, y, x) for z in steps[0] for y in steps[1] for x in steps[2])
    num_classes, num_models = int(random.choice([1, 2, 3, 7, 40])), int(random.choice([1, 1, 2, 3]))
    has_regions, is_half = num_classes > 1 and random.random() < 0.3, random.random() < 0.3
    predictions = [predicted(random, (num_classes, *patch)) for _ in range(len(starts) * num_models)]
    spacing = [1.0, 1.0, 1.0]
    if random.random() < 0.4:
        spacing[random.integers(3)] = 5.0
    return Scene(
        patch=patch,
        shape=shape,
        padded=padded,
        output=shape if random.random() < 0.2 else tuple(int(size) for size in random.integers(1, 36, 3)),
        spacing=tuple(spacing),
        num_classes=num_classes,
        num_models=num_models,
        regions=tuple(int(label) for label in random.integers(1, 300, num_classes)) if has_regions else (),
        is_half=is_half,
        starts=starts,
        predictions=tuple(one.astype(np.float16).astype(np.float32) if is_half else one for one in predictions),
    )


def predicted(random, shape):
    """Values of any size, some of which are the same in many voxels, or no numbers."""
    values = random.standard_normal(shape).astype(np.float32) * np.float32(10.0 ** random.uniform(-8, 3))
    if random.random() < 0.5:
        values = np.broadcast_to(np.round(values[:, :1, :1, :1] * 4) / 4, shape).copy()
    if random.random() < 0.02:
        values[random.integers(shape[0]), 0] = np.nan
    return -abs(values) if random.random() < 0.1 else values


def weights_of(scene):
    patch = scene.patch[1:] if scene.patch[0] == 1 else scene.patch
    weights = compute_gaussian(patch, 1.0 / 8, 10, device=torch.device("cpu"))
    return weights.reshape(scene.patch)


def expected_labels(scene):
    """As nnU-Net's predictor and export calculate them, all classes of all voxels at once."""
    total = None
    for model in range(scene.num_models):
        sums = torch.zeros((scene.num_classes, *scene.padded), dtype=torch.half)
        weights = torch.zeros(scene.padded, dtype=torch.half)
        for number, start in enumerate(scene.starts):
            where = tuple(slice(at, at + size) for at, size in zip(start, scene.patch, strict=True))
            values = torch.from_numpy(scene.predictions[number * scene.num_models + model].copy())
            values = values.half() if scene.is_half else values
            values *= weights_of(scene)
            sums[(slice(None), *where)] += values
            weights[where] += weights_of(scene)
        sums /= weights
        total = sums if total is None else total.add_(sums)
    if scene.num_models > 1:
        total /= scene.num_models
    where = tuple(slice((p - s) // 2, (p - s) // 2 + s) for p, s in zip(scene.padded, scene.shape, strict=True))
    logits = resample_data_or_seg_to_shape(
        total[(slice(None), *where)], scene.output, scene.spacing, scene.spacing, False, 1, 0, None
    )
    if not scene.regions:
        return logits.argmax(0)
    labels = np.zeros(scene.output, np.uint16)
    for probability, label in zip(torch.sigmoid(torch.from_numpy(logits).float()), scene.regions, strict=True):
        labels[probability.numpy() > 0.5] = label
    return labels


def grid_of(scene):
    is_separate, axis = determine_do_sep_z_and_axis(None, scene.spacing, scene.spacing)
    offset = tuple((p - s) // 2 for p, s in zip(scene.padded, scene.shape, strict=True))
    taps = tuple(
        same_taps(scene.shape[k])
        if scene.output == scene.shape
        else (nearest_taps if is_separate and k == axis else linear_taps)(scene.shape[k], scene.output[k])
        for k in range(3)
    )
    return StreamGrid(
        steps=Steps(
            shape=scene.padded[:2],
            patch_shape=scene.patch[:2],
            starts=tuple(tuple(sorted({start[k] for start in scene.starts})) for k in range(2)),
        ),
        size_x=scene.padded[2],
        taps=tuple(one.shifted(at) for one, at in zip(taps, offset, strict=True)),
    )


def streamed_labels(scene):
    found = np.full(scene.output, 9999, np.uint16)
    stream = LabelStream(
        grid_of(scene),
        num_classes=scene.num_classes,
        num_models=scene.num_models,
        weights=weights_of(scene).float().numpy(),
        region_labels=scene.regions,
        output=found,
    )
    for number, start in enumerate(scene.starts):
        if start[2] == scene.starts[0][2]:
            stream.begin()
        for model in range(scene.num_models):
            prediction = scene.predictions[number * scene.num_models + model]
            stream.add(prediction, model=model, start=start, is_half=scene.is_half)
    stream.end()
    assert stream.is_finite
    return found


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
@pytest.mark.parametrize("seed", range(60))
def test_labels_of_a_stream_are_those_of_everything_at_once(seed):
    scene = random_scene(np.random.default_rng(seed), is_2d=seed % 4 == 0)
    np.testing.assert_array_equal(streamed_labels(scene), expected_labels(scene))


@pytest.mark.parametrize("seed", range(20))
def test_no_more_lines_are_held_than_said_and_none_is_left(seed):
    scene = random_scene(np.random.default_rng(seed), is_2d=seed % 4 == 0)
    grid = grid_of(scene)
    lines = LinePool(grid.steps, grid.taps)
    most, num_labels = 0, 0
    for _ in range(len(grid.steps.starts[0]) * len(grid.steps.starts[1])):
        lines.open_step()
        held = lines.places[lines.places >= 0]
        assert np.unique(held).size == held.size
        most = max(most, held.size)
        slices, rows = lines.ready()
        num_labels += (slices.stop - slices.start) * (rows.stop - rows.start)
        lines.close_step()
    assert most == lines.most_lines <= scene.padded[0] * scene.padded[1]
    assert num_labels == scene.output[0] * scene.output[1]
    assert (lines.places == -1).all()


def test_a_sum_that_no_half_holds_is_told():
    grid = StreamGrid(
        steps=Steps(shape=(1, 1), patch_shape=(1, 1), starts=((0,), (0,))),
        size_x=2,
        taps=(same_taps(1), same_taps(1), same_taps(2)),
    )
    found = np.zeros((1, 1, 2), np.uint16)
    weights = np.ones((1, 1, 2), np.float32)
    stream = LabelStream(grid, num_classes=1, num_models=1, weights=weights, region_labels=(), output=found)
    stream.begin()
    stream.add(np.full((1, 1, 1, 2), 7e4, np.float32), model=0, start=(0, 0, 0), is_half=False)
    stream.end()
    assert not stream.is_finite


def test_taps_are_those_of_scipy_bit_for_bit():
    random = np.random.default_rng(0)
    for _ in range(300):
        num_in, num_out = (int(size) for size in random.integers(1, 60, 2))
        values = random.standard_normal(num_in)
        taps = linear_taps(num_in, num_out)
        found = values[taps.lower] * taps.lower_weight + values[taps.upper] * taps.upper_weight
        # A second axis, whose scale is 1, keeps scipy from rounding the size to another one.
        expected = ndimage.zoom(values[None], (1, num_out / num_in), order=1, mode="nearest", grid_mode=True)[0]
        if expected.size == num_out:
            np.testing.assert_array_equal(found, expected)
        positions = float(num_in) / num_out * (np.arange(num_out) + 0.5) - 0.5
        expected = ndimage.map_coordinates(values, positions[None], order=0, mode="nearest")
        np.testing.assert_array_equal(values[nearest_taps(num_in, num_out).lower], expected)
