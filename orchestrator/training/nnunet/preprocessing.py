"""Preprocessing of one case with nnU-Net's DefaultPreprocessor, in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import DataError
from orchestrator.patches.layout import Properties
from orchestrator.training.nnunet.environment import prints_to_log, read_with_nnunet
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.prepared_image import (
    body_mask,
    crop_image,
    grid_of,
    normalise_and_resample,
    read_images,
    reader_of,
    whole_numbers,
)
from orchestrator.training.nnunet.resampled_image import resample_labels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreprocessedCase:
    """What a network is trained on."""

    data: NDArray[np.float32]
    """Normalised intensities, shape (channels, Z, Y, X), in the plan's spacing and order of axes."""
    seg: NDArray[np.generic]
    """Labels of the same voxels, int8 or int16; -1 where the image is zero around the body."""
    properties: Properties
    """nnU-Net's: geometry before preprocessing and `class_locations` {label: int16 array (n, 4)}."""


def preprocess_case(images: Sequence[Path], labels: Path, plan: Plan) -> PreprocessedCase:
    """Crop, normalise and resample one case as nnU-Net does.

    Parameters
    ----------
    images : sequence of Path
        NIfTI volumes, one for each channel.
    labels : Path
        Label map in the geometry of the image.
    plan : Plan
        Of the training that will use the case.

    Raises
    ------
    DataError
        If a file cannot be read, shapes differ, or there are other channels than the plan has.
    """
    configuration = plan.configuration_manager
    with prints_to_log():
        voxels, properties = read_images(images, plan)
        shape = voxels.shape[1:]
        data = crop_image(voxels, properties, plan)
        mask = body_mask(data)
        seg = _labels_within(mask, _read_labels(labels, plan, shape=shape, image=images[0]), properties, plan)
        del voxels, mask
        data = normalise_and_resample(data, seg, properties, plan)
        seg = resample_labels(seg, *grid_of(properties, plan), configuration)
        properties["class_locations"] = _class_locations(seg, plan)
    seg = seg.astype(np.int16 if seg.max() > np.iinfo(np.int8).max else np.int8)
    return PreprocessedCase(data=data, seg=seg, properties=properties)


def _read_labels(path: Path, plan: Plan, *, shape: tuple[int, ...], image: Path) -> NDArray[np.generic]:
    """Return a label map, shape (1, Z, Y, X): int16 if it is of whole numbers, else as nnU-Net reads it."""
    labels, _ = read_with_nnunet(reader_of(plan).read_seg, str(path), paths=[path])
    if labels.shape[1:] != shape:
        raise DataError(f"{path}: shape {labels.shape[1:]}; expected {shape} as in {image}")
    whole = None if labels.dtype == np.int16 else whole_numbers(labels)
    return labels if whole is None else whole


def _labels_within(
    mask: NDArray[np.int8], labels: NDArray[np.generic], properties: Properties, plan: Plan
) -> NDArray[np.generic]:
    """Crop labels as the image was, and set those around the body to -1 unless they are labelled."""
    labels = labels.transpose([0, *(axis + 1 for axis in plan.plans_manager.transpose_forward)])
    labels = labels[(slice(None), *(slice(*part) for part in properties["bbox_used_for_cropping"]))]
    for channel in labels:
        for plane, is_around in zip(channel, mask[0] < 0, strict=True):
            plane[is_around & (plane == 0)] = -1
    return labels


def _class_locations(seg: NDArray[np.generic], plan: Plan) -> dict[int | tuple[int, ...], NDArray[np.generic]]:
    """Return voxels of each class or region, as nnU-Net draws them."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    manager = plan.plans_manager.get_label_manager(plan.dataset_json)
    classes = [*(manager.foreground_regions if manager.has_regions else manager.foreground_labels)]
    if manager.has_ignore_label:
        classes.append([-1, *manager.all_labels])
    # Whole numbers are sorted in a fraction of the time.
    places = DefaultPreprocessor._sample_foreground_locations(seg, classes)  # noqa: SLF001 - offered in no other way
    # nnU-Net draws at least 10000 voxels a label as int64: more bytes than a small case has itself.
    return {
        label: np.asarray(place, np.int16).reshape(-1, 4) if max(seg.shape) < 2**15 else place
        for label, place in places.items()
    }
