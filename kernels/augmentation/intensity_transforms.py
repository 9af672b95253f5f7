"""Changes of a patch in place: noise, blur, brightness, contrast, low resolution, gamma, mirroring; labels for a loss.

Images are float32 and C-ordered: one channel, shape (Z, Y, X), or all of them, shape (C, Z, Y, X). Definitions are
those of batchgeneratorsv2, which nnU-Net trains with; a 2d patch is one slice.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.compiled import compiled

_LEAST_RANGE = np.float32(1e-7)
# It stands for 0, of which numpy takes powers eight times as slowly; its own powers vanish beside all others.
_NEXT_TO_ZERO = np.float32(1e-20)
# Voxels that are changed while they are in the cache.
_BLOCK = 1 << 15
# Sums that are added up side by side, so that the processor need not wait for one addition to begin the next.
_LANES = 32


def add_noise(image: NDArray[np.float32], generator: np.random.Generator, *, sigma: float) -> None:
    """Add normal noise with the standard deviation `sigma` to any image."""
    flat = image.reshape(-1)
    noise = np.empty(min(_BLOCK, flat.size), np.float32)
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        generator.standard_normal(out=noise[: part.size], dtype=np.float32)
        _add_scaled(part, noise, np.float32(sigma))


def blur(channel: NDArray[np.float32], *, sigmas: tuple[float, float, float]) -> None:
    """Blur along (z, y, x) with Gaussians of 3 to 7 voxels, borders reflected; a sigma of 0 leaves an axis alone."""
    _blur(channel, *(_gaussian(sigma) for sigma in sigmas))


def scale_brightness(channel: NDArray[np.float32], *, factor: float) -> None:
    """Multiply by `factor`."""
    np.multiply(channel, np.float32(factor), out=channel)


def change_contrast(channel: NDArray[np.float32], *, factor: float) -> None:
    """Multiply distances to the mean by `factor`; values stay within the range that they had."""
    mean, _, low, high = _statistics(channel.reshape(-1))
    _stretch(channel.reshape(-1), np.float32(mean), np.float32(factor), low, high)


def lower_resolution(channel: NDArray[np.float32], *, scales: tuple[float, float, float]) -> None:
    """Take the nearest voxels on a grid coarser by `scales` along (z, y, x), then interpolate linearly between them."""
    shape = channel.shape
    sizes = [max(1, round(size * float(np.float32(scale)))) for size, scale in zip(shape, scales, strict=True)]
    kept = [_nearest_exact(size, number) for size, number in zip(shape, sizes, strict=True)]
    coarse = np.ascontiguousarray(channel[np.ix_(*kept)])
    along_z, along_y, along_x = (_linear(size, number) for size, number in zip(sizes, shape, strict=True))
    _interpolate(coarse, along_z, along_y, along_x, channel)


def change_gamma(channel: NDArray[np.float32], *, gamma: float, invert: bool) -> None:
    """Raise values, scaled to [0, 1], to the power `gamma`; range, then mean and standard deviation are restored.

    With `invert` this is done to the negative of the image.
    """
    flat = channel.reshape(-1)
    mean, deviation, low, high = _statistics(flat)
    sign = np.float32(-1 if invert else 1)
    if invert:
        mean, low, high = -mean, -high, -low
    extent = np.float32(high - low)
    divisor = max(extent, _LEAST_RANGE)
    total, squares = 0.0, 0.0
    exponent = np.float32(gamma)
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        _to_unit(part, sign, low, np.float32(1) / divisor)
        np.power(part, exponent, out=part)
        part_total, part_squares = _sums(part)
        total, squares = total + part_total, squares + part_squares
    # Of the powers; mean and deviation of what stretches them over the range follow.
    mean_here = total / flat.size
    variance = max(squares - flat.size * mean_here**2, 0.0) / max(flat.size - 1, 1)
    deviation_here = float(extent) * variance**0.5
    factor = float(extent) * deviation / max(deviation_here, float(_LEAST_RANGE))
    _scale_and_shift(flat, np.float32(sign * factor), np.float32(sign * (mean - mean_here * factor)))


def mirror(image: NDArray[np.float32], *, axes: tuple[int, ...]) -> None:
    """Turn all channels around along axes of (z, y, x)."""
    if axes:
        for channel in image:
            _mirror(channel, 0 in axes, 1 in axes, 2 in axes)


def mask_outside(channel: NDArray[np.float32], segmentation: NDArray[np.int16]) -> None:
    """Set a channel to 0 where the label is negative, which is outside of what was cropped."""
    channel[segmentation < 0] = 0


def write_labels(segmentation: NDArray[np.int16], target: NDArray[np.int16], *, axes: tuple[int, ...]) -> None:
    """Copy labels, turned around along `axes`, with negative labels as 0; both have the shape (Z, Y, X)."""
    _write_labels(segmentation, target, 0 in axes, 1 in axes, 2 in axes)


def shrink_labels(labels: NDArray[np.int16], target: NDArray[np.int16]) -> None:
    """Take the nearest labels on the coarser grid of `target`, as deep supervision compares them."""
    kept_z, kept_y, kept_x = (
        _nearest_exact(size, number) for size, number in zip(labels.shape, target.shape, strict=True)
    )
    _take(labels, kept_z, kept_y, kept_x, target)


def _gaussian(sigma: float) -> NDArray[np.float32]:
    """Return batchgeneratorsv2's kernel with truncate 6; a single 1 for a sigma of 0."""
    if sigma == 0:
        return np.ones(1, np.float32)
    length = sigma * 6 + 0.5
    size = round(length)
    if size % 2 == 0:
        size += 1 if length >= size else -1
    steps = np.arange(size, dtype=np.float64) - (size - 1) / 2
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    normalised: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return normalised


def _nearest_exact(size: int, number: int) -> NDArray[np.int64]:
    """Return which of `size` voxels torch's `nearest-exact` takes for each of `number`."""
    steps = (np.arange(number, dtype=np.float32) + np.float32(0.5)) * np.float32(size / number)
    return np.minimum(steps.astype(np.int64), size - 1)


def _linear(size: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the two of `size` voxels, and the weight of the second, from which each of `number` is interpolated."""
    steps = np.float32(size / number) * (np.arange(number, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    steps = np.maximum(steps, np.float32(0))
    first = np.minimum(steps.astype(np.int64), size - 1)
    return first, np.minimum(first + 1, size - 1), (steps - first).astype(np.float32)


@compiled
def _add_scaled(values: NDArray[np.float32], noise: NDArray[np.float32], sigma: np.float32) -> None:
    for i in range(values.size):
        values[i] += sigma * noise[i]


@compiled
def _statistics(values: NDArray[np.float32]) -> tuple[float, float, np.float32, np.float32]:
    """Return mean, standard deviation (of N - 1), least and greatest."""
    # Deviations from the first value, so that squares stay small.
    lanes, lanes_squared = np.zeros(_LANES), np.zeros(_LANES)
    lows, highs = np.full(_LANES, values[0]), np.full(_LANES, values[0])
    origin = np.float64(values[0])
    whole = values.size // _LANES
    for i in range(whole):
        for k in range(_LANES):
            value = values[_LANES * i + k]
            step = np.float64(value) - origin
            lanes[k] += step
            lanes_squared[k] += step * step
            lows[k] = min(lows[k], value)
            highs[k] = max(highs[k], value)
    total, squares = lanes.sum(), lanes_squared.sum()
    low, high = lows.min(), highs.max()
    for i in range(_LANES * whole, values.size):
        step = np.float64(values[i]) - origin
        total += step
        squares += step * step
        low, high = min(low, values[i]), max(high, values[i])
    mean = total / values.size
    variance = max(squares - values.size * mean * mean, 0.0) / max(values.size - 1, 1)
    return origin + mean, variance**0.5, low, high


@compiled
def _sums(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the sum and the sum of squares."""
    lanes, lanes_squared = np.zeros(_LANES), np.zeros(_LANES)
    whole = values.size // _LANES
    for i in range(whole):
        for k in range(_LANES):
            value = np.float64(values[_LANES * i + k])
            lanes[k] += value
            lanes_squared[k] += value * value
    total, squares = lanes.sum(), lanes_squared.sum()
    for i in range(_LANES * whole, values.size):
        value = np.float64(values[i])
        total += value
        squares += value * value
    return total, squares


@compiled
def _stretch(
    values: NDArray[np.float32], mean: np.float32, factor: np.float32, low: np.float32, high: np.float32
) -> None:
    for i in range(values.size):
        value = (values[i] - mean) * factor + mean
        value = max(value, low)
        values[i] = min(value, high)


@compiled
def _to_unit(values: NDArray[np.float32], sign: np.float32, low: np.float32, factor: np.float32) -> None:
    for i in range(values.size):
        value = (sign * values[i] - low) * factor
        values[i] = max(_NEXT_TO_ZERO, value)


@compiled
def _scale_and_shift(values: NDArray[np.float32], factor: np.float32, shift: np.float32) -> None:
    for i in range(values.size):
        values[i] = values[i] * factor + shift


@compiled
def _reflected(i: int, size: int) -> int:
    """Return the voxel that stands for one beyond the border; an axis of one voxel repeats it."""
    if size == 1:
        return 0
    while not 0 <= i < size:
        i = -i if i < 0 else 2 * (size - 1) - i
    return i


@compiled
def _blur(
    channel: NDArray[np.float32],
    weights_z: NDArray[np.float32],
    weights_y: NDArray[np.float32],
    weights_x: NDArray[np.float32],
) -> None:
    """Blur slice by slice along z into a slice, along y into another, and along x back, with a copy as the source."""
    size_z, size_y, size_x = channel.shape
    source = channel.copy()
    half_z, half_y, half_x = weights_z.size // 2, weights_y.size // 2, weights_x.size // 2
    along_z = np.empty((size_y, size_x), np.float32)
    flat_z = along_z.reshape(-1)
    row = np.empty(size_x + 2 * half_x, np.float32)
    for z in range(size_z):
        flat_z[:] = np.float32(0)
        for k in range(weights_z.size):
            weight, flat = weights_z[k], source[_reflected(z + k - half_z, size_z)].reshape(-1)
            for i in range(flat.size):
                flat_z[i] += weight * flat[i]
        for y in range(size_y):
            middle = row[half_x : half_x + size_x]
            middle[:] = np.float32(0)
            for k in range(weights_y.size):
                weight, other = weights_y[k], along_z[_reflected(y + k - half_y, size_y)]
                for x in range(size_x):
                    middle[x] += weight * other[x]
            for k in range(half_x):
                row[k] = middle[_reflected(k - half_x, size_x)]
                row[half_x + size_x + k] = middle[_reflected(size_x + k, size_x)]
            out = channel[z, y]
            out[:] = np.float32(0)
            for k in range(weights_x.size):
                weight, shifted = weights_x[k], row[k : k + size_x]
                for x in range(size_x):
                    out[x] += weight * shifted[x]


@compiled
def _interpolate(
    coarse: NDArray[np.float32],
    along_z: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]],
    along_y: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]],
    along_x: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]],
    channel: NDArray[np.float32],
) -> None:
    """Interpolate along z into a slice, along y into a row, along x into the channel."""
    one = np.float32(1)
    in_slice = np.empty(coarse.shape[1] * coarse.shape[2], np.float32)
    row = np.empty(coarse.shape[2], np.float32)
    first_x, second_x, weights_x = along_x
    for z in range(channel.shape[0]):
        weight = along_z[2][z]
        a, b = coarse[along_z[0][z]].reshape(-1), coarse[along_z[1][z]].reshape(-1)
        for i in range(in_slice.size):
            in_slice[i] = (one - weight) * a[i] + weight * b[i]
        for y in range(channel.shape[1]):
            weight = along_y[2][y]
            start_a, start_b = along_y[0][y] * row.size, along_y[1][y] * row.size
            for x in range(row.size):
                row[x] = (one - weight) * in_slice[start_a + x] + weight * in_slice[start_b + x]
            out = channel[z, y]
            for x in range(out.size):
                out[x] = (one - weights_x[x]) * row[first_x[x]] + weights_x[x] * row[second_x[x]]


@compiled
def _mirror(channel: NDArray[np.float32], flip_z: bool, flip_y: bool, flip_x: bool) -> None:
    """Exchange pairs of rows; the rows that are their own partner are turned around alone."""
    size_z, size_y, size_x = channel.shape
    row = np.empty(size_x, np.float32)
    for z in range(size_z):
        other_z = size_z - 1 - z if flip_z else z
        for y in range(size_y):
            other_y = size_y - 1 - y if flip_y else y
            here, there = z * size_y + y, other_z * size_y + other_y
            if here > there or (here == there and not flip_x):
                continue
            a, b = channel[z, y], channel[other_z, other_y]
            row[:] = a
            if flip_x:
                for x in range(size_x):
                    a[x] = b[size_x - 1 - x]
                for x in range(size_x):
                    b[x] = row[size_x - 1 - x]
            else:
                a[:] = b
                b[:] = row


@compiled
def _write_labels(
    segmentation: NDArray[np.int16], target: NDArray[np.int16], flip_z: bool, flip_y: bool, flip_x: bool
) -> None:
    size_z, size_y, size_x = target.shape
    for z in range(size_z):
        for y in range(size_y):
            source = segmentation[size_z - 1 - z if flip_z else z, size_y - 1 - y if flip_y else y]
            out = target[z, y]
            if flip_x:
                for x in range(size_x):
                    out[x] = max(source[size_x - 1 - x], np.int16(0))
            else:
                for x in range(size_x):
                    out[x] = max(source[x], np.int16(0))


@compiled
def _take(
    labels: NDArray[np.int16],
    kept_z: NDArray[np.int64],
    kept_y: NDArray[np.int64],
    kept_x: NDArray[np.int64],
    target: NDArray[np.int16],
) -> None:
    for z in range(target.shape[0]):
        for y in range(target.shape[1]):
            source, out = labels[kept_z[z], kept_y[y]], target[z, y]
            for x in range(out.size):
                out[x] = source[kept_x[x]]
