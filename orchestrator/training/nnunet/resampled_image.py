"""Images and label maps on the grid of a network: nnU-Net's numbers to the last bit, in less time and memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

from kernels.resampling.cubic_zoom import zoom_cubic, zoom_cubic_slice
from kernels.resampling.label_zoom import zoom_labels
from kernels.resampling.zoom_taps import nearest_taps

_USUAL = {
    "data": {"is_seg": False, "order": 3, "order_z": 0},
    "seg": {"is_seg": True, "order": 1, "order_z": 0},
    "probabilities": {"is_seg": False, "order": 1, "order_z": 0},
}
"""What plans tell nnU-Net's usual function, beside when slices are kept apart."""


def resample_image(
    data: NDArray[np.float32], new_shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], manager: Any
) -> NDArray[np.float32]:
    """Return an image, shape (channels, Z, Y, X), on another grid, as the plans' function of the data does.

    nnU-Net's usual function holds the whole image several times in double precision; here a few slices are.

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
    keeps_slices = resampling_of("data", manager).keeps_slices(spacing, target)
    # Not a number if any is not; without a mask of all voxels.
    is_finite = all(np.isfinite(channel.min()) and np.isfinite(channel.max()) for channel in data)
    if keeps_slices is None or not is_finite or not _zooms_as_expected():
        resampled: NDArray[np.float32] = manager.resampling_fn_data(data, new_shape, spacing, target)
        return resampled
    shape = tuple(int(size) for size in new_shape)
    if shape == data.shape[1:]:
        return data
    output = np.empty((len(data), *shape), np.float32)
    for channel, made in zip(data, output, strict=True):
        (_resample_slices if keeps_slices else zoom_cubic)(channel, made)
    return output


def resample_labels(
    labels: NDArray[np.generic],
    new_shape: Sequence[int],
    spacing: Sequence[float],
    target: Sequence[float],
    manager: Any,
) -> NDArray[np.generic]:
    """Return label maps, shape (channels, Z, Y, X), on another grid, as the plans' function of segmentations does.

    nnU-Net's usual function interpolates a mask of each label in double precision; here each voxel is decided at once.
    Labels are int16, or whatever nnU-Net has read; other parameters are those of `resample_image`.
    """
    keeps_slices = resampling_of("seg", manager).keeps_slices(spacing, target)
    if labels.dtype not in (np.int16, np.int8) or keeps_slices is None or not _votes_as_expected():
        read = labels.astype(np.float32) if labels.dtype == np.int16 else labels
        resampled: NDArray[np.generic] = manager.resampling_fn_seg(read, new_shape, spacing, target)
        return resampled
    shape = tuple(int(size) for size in new_shape)
    if shape == labels.shape[1:]:
        return labels
    output = np.empty((len(labels), *shape), np.int16)
    for channel, made in zip(labels, output, strict=True):
        zoom_labels(channel.astype(np.int16, copy=False), made, keeps_slices=keeps_slices)
    return output


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """The function that plans name for data, segmentations or probabilities."""

    is_usual: bool
    """Whether it is nnU-Net's usual one, with the usual interpolation."""
    is_of_torch: bool
    separation: Mapping[str, float | None]
    """What plans say of when slices are kept apart."""

    def separate_axis(self, spacing: Sequence[float], target: Sequence[float]) -> int | None:
        """Return the axis along which slices are kept apart between two grids; None if they are not."""
        from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

        is_separate, axis = determine_do_sep_z_and_axis(current_spacing=spacing, new_spacing=target, **self.separation)
        return int(axis) if is_separate else None

    def keeps_slices(self, spacing: Sequence[float], target: Sequence[float]) -> bool | None:
        """Whether slices along z are kept apart; None if the function is not the usual one, or it is another axis."""
        axis = self.separate_axis(spacing, target)
        return axis == 0 if self.is_usual and axis in {None, 0} else None


def resampling_of(kind: str, manager: Any) -> Resampling:
    """Return how nnU-Net's ConfigurationManager resamples `data`, `seg` or `probabilities`."""
    function = str(manager.configuration[f"resampling_fn_{kind}"])
    arguments = dict(manager.configuration[f"resampling_fn_{kind}_kwargs"])
    is_of_torch = function.startswith("resample_torch")
    separation = {"force_separate_z": arguments.pop("force_separate_z", None if is_of_torch else False)}
    if "separate_z_anisotropy_threshold" in arguments:
        separation["separate_z_anisotropy_threshold"] = arguments.pop("separate_z_anisotropy_threshold")
    is_usual = function == "resample_data_or_seg_to_shape" and arguments == _USUAL[kind]
    return Resampling(is_usual=is_usual, is_of_torch=is_of_torch, separation=separation)


def network_spacing(spacing: Sequence[float], manager: Any) -> list[float]:
    """Return the spacing (z, y, x) of the network's grid for an image of a spacing: one of slices keeps its own z."""
    return [*spacing[: 3 - len(manager.spacing)], *manager.spacing]


def _resample_slices(image: NDArray[np.float32], output: NDArray[np.float32]) -> None:
    """Resample slices in their plane, and take the nearest one for each slice of the output."""
    nearest, last = nearest_taps(len(image), len(output)).lower, -1
    for z, index in enumerate(nearest):
        if index == last:
            output[z] = output[z - 1]
        elif image.shape[1:] == output.shape[1:]:
            output[z] = resize(  # type: ignore[no-untyped-call]
                image[index].astype(float), output.shape[1:], 3, mode="edge", anti_aliasing=False
            )
        else:
            zoom_cubic_slice(image[index], output[z])
        last = index


@cache
def _zooms_as_expected() -> bool:
    """Whether scipy interpolates to the same bits as the kernel: on some processors it may join products and sums."""
    image = np.random.default_rng(0).standard_normal((5, 7, 9)).astype(np.float32)
    found = np.empty((9, 11, 17), np.float32)
    zoom_cubic(image, found)
    expected = resize(image.astype(float), found.shape, 3, mode="edge", anti_aliasing=False)  # type: ignore[no-untyped-call]
    return bool(np.array_equal(found, expected.astype(np.float32)))


@cache
def _votes_as_expected() -> bool:
    """Whether the installed batchgenerators decides as the kernel: its rule for ties has changed with a version."""
    from batchgenerators.augmentations.utils import resize_segmentation

    labels = np.random.default_rng(0).integers(0, 4, (6, 8, 10)).astype(np.int16)
    for shape in ((3, 4, 5), (7, 12, 9)):
        found = np.empty(shape, np.int16)
        zoom_labels(labels, found, keeps_slices=False)
        if not np.array_equal(found, resize_segmentation(labels.astype(float), shape, 1)):
            return False
    return True
