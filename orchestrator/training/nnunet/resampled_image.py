"""Images on the grid of a network, as nnU-Net resamples them, to the last bit, in less memory."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import resize

from kernels.windows.cubic_zoom import MARGIN, zoom_cubic
from kernels.windows.zoom_taps import nearest_taps

_USUAL = {"is_seg": False, "order": 3, "order_z": 0}


def resample_image(
    data: NDArray[np.float32], new_shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], manager: Any
) -> NDArray[np.float32]:
    """Return an image, shape (channels, Z, Y, X), on another grid, as the plans' function of the data does.

    nnU-Net's usual function holds the whole image several times in double precision. Here the coefficients of the
    spline are held once, and slices that are kept apart are resampled one by one.

    Parameters
    ----------
    data
        The image.
    new_shape
        Voxels (z, y, x) of the grid.
    spacing, target
        Of image and grid in mm, which decide whether slices are kept apart.
    manager
        nnU-Net's ConfigurationManager.
    """
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

    shape = tuple(int(size) for size in new_shape)
    arguments = dict(manager.configuration["resampling_fn_data_kwargs"])
    separation = {"force_separate_z": arguments.pop("force_separate_z", False)}
    if "separate_z_anisotropy_threshold" in arguments:
        separation["separate_z_anisotropy_threshold"] = arguments.pop("separate_z_anisotropy_threshold")
    is_separate, axis = determine_do_sep_z_and_axis(current_spacing=spacing, new_spacing=target, **separation)
    is_usual = manager.configuration["resampling_fn_data"] == "resample_data_or_seg_to_shape" and arguments == _USUAL
    if not is_usual or (is_separate and axis != 0) or not np.isfinite(data).all() or not _zooms_as_expected():
        resampled: NDArray[np.float32] = manager.resampling_fn_data(data, new_shape, spacing, target)
        return resampled
    if shape == data.shape[1:]:
        return data
    output = np.empty((len(data), *shape), np.float32)
    for channel, made in zip(data, output, strict=True):
        (_resample_slices if is_separate else _resample_volume)(channel, made)
    return output


def _resample_slices(image: NDArray[np.float32], output: NDArray[np.float32]) -> None:
    """Resample slices in their plane, and take the nearest one for each slice of the output."""
    nearest, last = nearest_taps(len(image), len(output)).lower, -1
    for z, index in enumerate(nearest):
        if index == last:
            output[z] = output[z - 1]
            continue
        output[z] = resize(  # type: ignore[no-untyped-call]
            image[index].astype(float), output.shape[1:], 3, mode="edge", anti_aliasing=False
        )
        last = index


def _resample_volume(image: NDArray[np.float32], output: NDArray[np.float32]) -> None:
    coefficients = np.empty([size + 2 * MARGIN for size in image.shape])
    inner = tuple(slice(MARGIN, MARGIN + size) for size in image.shape)
    coefficients[inner] = image
    for axis in range(3):
        part = np.moveaxis(coefficients, axis, 0)
        part[:MARGIN] = part[MARGIN]
        part[-MARGIN:] = part[-MARGIN - 1]
    # In place, as scipy itself goes on after the first axis.
    ndimage.spline_filter(coefficients, 3, output=coefficients, mode="nearest")
    zoom_cubic(coefficients, output, lowest=float(image.min()), highest=float(image.max()))


@cache
def _zooms_as_expected() -> bool:
    """Whether scipy interpolates to the same bits as the kernel: on some processors it may join products and sums."""
    image = np.random.default_rng(0).standard_normal((5, 7, 9)).astype(np.float32)
    found = np.empty((9, 11, 17), np.float32)
    _resample_volume(image, found)
    expected = resize(image.astype(float), found.shape, 3, mode="edge", anti_aliasing=False)  # type: ignore[no-untyped-call]
    return bool(np.array_equal(found, expected.astype(np.float32)))
