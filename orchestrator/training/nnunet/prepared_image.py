"""An image as a network wants it: cropped, normalised and resampled by nnU-Net's own parts, and nothing beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from numpy.typing import NDArray

from kernels.resampling.zeros_around import zeros_around
from orchestrator.errors import DataError
from orchestrator.patches.layout import Properties
from orchestrator.training.nnunet.environment import prints_to_log, read_with_nnunet
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.resampled_image import network_spacing, resample_image

_NUM_AXES = 3
_SAMPLED = 200_000
"""Voxels of an image whose intensities are kept, roughly."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreparedImage:
    """What a network predicts from."""

    data: NDArray[np.float32]
    """Normalised intensities, shape (channels, Z, Y, X), in the plan's spacing and order of axes."""
    properties: Properties
    """nnU-Net's: the geometry before it was prepared."""
    sample: NDArray[np.float32]
    """Some of the intensities as they were read, shape (channels, z, y, x): every `sample_step`-th of each axis."""
    sample_step: int
    num_not_finite: int = 0
    """Voxels of the image, of all channels, that are no numbers or infinite."""


class _LeanReader(SimpleITKIO):  # type: ignore[misc]
    """nnU-Net's reader, without copies between ITK's image of one volume and the array that is wanted."""

    def read_images(self, image_fnames: Sequence[str]) -> tuple[NDArray[np.float32], Properties]:
        image = _volume(image_fnames[0]) if len(image_fnames) == 1 else None
        if image is None:
            read: tuple[NDArray[np.float32], Properties] = super().read_images(image_fnames)
            return read
        spacing = image.GetSpacing()
        geometry = {"spacing": spacing, "origin": image.GetOrigin(), "direction": image.GetDirection()}
        voxels = sitk.GetArrayViewFromImage(image)[None].astype(np.float32)
        return voxels, {"sitk_stuff": geometry, "spacing": list(np.abs(spacing[::-1]))}

    def read_seg(self, seg_fname: str) -> tuple[NDArray[np.generic], Properties]:
        """Return int16 where that holds all labels."""
        image = _volume(seg_fname)
        whole = None if image is None else whole_numbers(sitk.GetArrayViewFromImage(image)[None])
        read: tuple[NDArray[np.generic], Properties] = super().read_seg(seg_fname) if whole is None else (whole, {})
        return read


def _volume(path: str) -> sitk.Image | None:
    """Return an image of three axes and one number a voxel; None for any other."""
    image = sitk.ReadImage(path)
    return image if image.GetDimension() == _NUM_AXES and image.GetNumberOfComponentsPerPixel() == 1 else None


def whole_numbers(labels: NDArray[np.generic]) -> NDArray[np.int16] | None:
    """Return labels as int16; None if they are no whole numbers of that size."""
    limits = np.iinfo(np.int16)
    if not (labels.min() >= limits.min and labels.max() <= limits.max):
        return None
    whole = labels.astype(np.int16)
    return whole if labels.dtype.kind in "iu" or np.array_equal(whole, labels) else None


def reader_of(plan: Plan) -> BaseReaderWriter:
    """Return the reader of images that the plans name."""
    named = plan.plans_manager.image_reader_writer_class
    return _LeanReader() if named is SimpleITKIO else named()


def read_images(images: Sequence[Path], plan: Plan) -> tuple[NDArray[np.float32], Properties]:
    """Read the files of one image, one for each channel, with the reader that the plans name.

    Returns the intensities, shape (channels, Z, Y, X), and nnU-Net's properties. Raises DataError if a file cannot be
    read, if they are no image together, or if the channels are not those of the model.
    """
    names = plan.channel_names
    with prints_to_log():
        voxels, properties = read_with_nnunet(reader_of(plan).read_images, list(map(str, images)), paths=images)
    if len(voxels) != len(names):
        raise DataError(
            f"{images[0]}: {len(voxels)} channels in {len(images)} files; expected {len(names)}: "
            f"{', '.join(map(str, names.values()))}"
        )
    if not voxels.size:
        raise DataError(f"{images[0]}: an image without voxels; expected at least one")
    return voxels, properties


def prepare_image(voxels: NDArray[np.float32], properties: Properties, plan: Plan) -> PreparedImage:
    """Crop, normalise and resample an image as nnU-Net's DefaultPreprocessor does; another one is run as it is.

    What only labels need, and nnU-Net calculates all the same, is left out: no holes in the body are filled, and its
    mask is not resampled. Raises DataError as `normalise_and_resample`.

    Parameters
    ----------
    voxels : float32 array, shape (channels, Z, Y, X)
        As `read_images` gives them; may be overwritten.
    properties
        Of the same; what nnU-Net's export needs is added to a copy.
    plan
        Of the model.
    """
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    manager, configuration = plan.plans_manager, plan.configuration_manager
    properties = dict(properties)
    step = max(1, math.ceil((math.prod(voxels.shape[1:]) / _SAMPLED) ** (1 / 3)))
    sample = voxels[:, ::step, ::step, ::step].astype(np.float32)
    num_not_finite = _num_not_finite(voxels)
    with prints_to_log():
        preprocessor = configuration.preprocessor_class(verbose=False)
        if type(preprocessor) is DefaultPreprocessor:
            data = crop_image(voxels, properties, plan)
            mask = body_mask(data) if any(configuration.use_mask_for_norm) else np.broadcast_to(np.int8(0), data.shape)
            data = normalise_and_resample(data, mask, properties, plan)
        else:
            data, _, properties = preprocessor.run_case_npy(
                voxels, None, properties, manager, configuration, plan.dataset_json
            )
    return PreparedImage(
        data=np.asarray(data, np.float32),
        properties=properties,
        sample=sample,
        sample_step=step,
        num_not_finite=num_not_finite,
    )


def _num_not_finite(data: NDArray[np.float32]) -> int:
    """Return how many numbers of shape (channels, Z, Y, X) are NaN or infinite."""
    return sum(int(plane.size - np.isfinite(plane).sum()) for channel in data for plane in channel)


def crop_image(voxels: NDArray[np.float32], properties: Properties, plan: Plan) -> NDArray[np.float32]:
    """Return the part of an image that is not zero around the body, in the order of axes of the plans.

    Adds what nnU-Net's cropping adds to the properties.
    """
    transpose = plan.plans_manager.transpose_forward
    data = voxels.astype(np.float32, copy=False).transpose([0, *(axis + 1 for axis in transpose)])
    properties["shape_before_cropping"] = data.shape[1:]
    box = []
    for axis in range(1, data.ndim):
        # To fill holes changes no bounding box. Whole masks are not needed: planes at the edges are nearly never zero.
        planes = np.moveaxis(data, axis, 0)
        filled = (number for number in range(len(planes)) if planes[number].any())
        start = next(filled, 0)
        stop = next((number for number in range(len(planes), start, -1) if planes[number - 1].any()), len(planes))
        data = np.moveaxis(planes[start:stop], 0, axis)
        box.append([start, stop])
    properties["bbox_used_for_cropping"] = box
    properties["shape_after_cropping_and_before_resampling"] = data.shape[1:]
    return data


def body_mask(data: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return nnU-Net's mask of a cropped image, shape (1, Z, Y, X): -1 where it is zero around the body, else 0."""
    return np.where(zeros_around(data), np.int8(-1), np.int8(0))[None]


def grid_of(properties: Properties, plan: Plan) -> tuple[Sequence[int], Sequence[float], Sequence[float]]:
    """Return voxels of the network's grid, and the spacing of a cropped image and of that grid, all (z, y, x).

    Raises DataError as `shape_in_spacing`.
    """
    spacing = [properties["spacing"][axis] for axis in plan.plans_manager.transpose_forward]
    target = network_spacing(spacing, plan.configuration_manager)
    shape = properties["shape_after_cropping_and_before_resampling"]
    return shape_in_spacing(shape, spacing, target), spacing, target


def shape_in_spacing(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> list[int]:
    """Return the shape of an image in another spacing; raises DataError if it has no voxel left along an axis."""
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    found = [int(size) for size in compute_new_shape(shape, spacing, target)]
    if not all(found):
        voxels, here, there = (" x ".join(f"{value:.4g}" for value in values) for values in (shape, spacing, target))
        raise DataError(
            f"an image of {voxels} voxels of {here} mm has no voxel left in the spacing of the network, {there} mm; "
            "expected a larger one. Look at the unit of its spacing, and at zeros around the body, which are cut off"
        )
    return found


def normalise_and_resample(
    data: NDArray[np.float32], labels: NDArray[np.generic], properties: Properties, plan: Plan
) -> NDArray[np.float32]:
    """Normalise a cropped image, which is overwritten, and bring it to the grid of the network.

    `labels`, shape (1, Z, Y, X), are negative around the body. Raises DataError where NaN is left, of which a network
    makes background: one voxel makes NaN of a whole image whose mean is taken; in CT infinite ones alone are clipped.
    """
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    manager, configuration = plan.plans_manager, plan.configuration_manager
    with np.errstate(invalid="ignore"):
        data = DefaultPreprocessor(verbose=False)._normalize(  # noqa: SLF001 - nnU-Net offers it in no other way
            data, labels, configuration, manager.foreground_intensity_properties_per_channel
        )
    if num_not_finite := _num_not_finite(data):
        raise DataError(
            f"{num_not_finite} of {data.size} intensities are no numbers (NaN or infinite) once they are normalised "
            "for the network, which finds nothing there; expected none. Write numbers in their place"
        )
    return resample_image(data, *grid_of(properties, plan), configuration)
