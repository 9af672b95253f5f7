"""An image as a network wants it: cropped, normalised and resampled by nnU-Net's own parts, and nothing beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import DataError
from orchestrator.patches.layout import Properties
from orchestrator.training.nnunet.environment import prints_to_log, read_with_nnunet
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.resampled_image import resample_image

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


def read_images(images: Sequence[Path], plan: Plan) -> tuple[NDArray[np.float32], Properties]:
    """Read the files of one image, one for each channel, with the reader that the plans name.

    Returns the intensities, shape (channels, Z, Y, X), and nnU-Net's properties. Raises DataError if a file cannot be
    read, if they are no image together, or if the channels are not those of the model.
    """
    names = plan.channel_names
    reader = plan.plans_manager.image_reader_writer_class()
    with prints_to_log():
        voxels, properties = read_with_nnunet(reader.read_images, list(map(str, images)), paths=images)
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
    mask is not resampled.

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
    with prints_to_log():
        preprocessor = configuration.preprocessor_class(verbose=False)
        if type(preprocessor) is DefaultPreprocessor:
            data = _prepare(voxels, properties, plan, preprocessor=preprocessor)
        else:
            data, _, properties = preprocessor.run_case_npy(
                voxels, None, properties, manager, configuration, plan.dataset_json
            )
    return PreparedImage(data=np.asarray(data, np.float32), properties=properties, sample=sample, sample_step=step)


def _prepare(
    voxels: NDArray[np.float32], properties: Properties, plan: Plan, *, preprocessor: Any
) -> NDArray[np.float32]:
    from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice, get_bbox_from_mask
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    manager, configuration = plan.plans_manager, plan.configuration_manager
    data = voxels.astype(np.float32, copy=False).transpose([0, *(axis + 1 for axis in manager.transpose_forward)])
    spacing = [properties["spacing"][axis] for axis in manager.transpose_forward]
    properties["shape_before_cropping"] = data.shape[1:]
    if any(configuration.use_mask_for_norm):
        data, mask, box = crop_to_nonzero(data)
    else:
        # To fill holes changes no bounding box.
        box = get_bbox_from_mask((data != 0).any(axis=0))
        data = data[(slice(None), *bounding_box_to_slice(box))]
        mask = np.broadcast_to(np.int8(0), (1, *data.shape[1:]))
    properties["bbox_used_for_cropping"] = box
    properties["shape_after_cropping_and_before_resampling"] = data.shape[1:]
    target = list(configuration.spacing)
    if len(target) < len(spacing):
        target = [spacing[0], *target]
    new_shape = compute_new_shape(data.shape[1:], spacing, target)
    data = preprocessor._normalize(  # noqa: SLF001 - nnU-Net offers it in no other way
        data, mask, configuration, manager.foreground_intensity_properties_per_channel
    )
    return resample_image(data, new_shape, spacing, target, configuration)
