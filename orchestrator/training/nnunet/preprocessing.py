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
from orchestrator.training.nnunet.prepared_image import read_images


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreprocessedCase:
    """What a network is trained on and predicts from."""

    data: NDArray[np.float32]
    """Normalised intensities, shape (channels, Z, Y, X), in the plan's spacing and order of axes."""
    seg: NDArray[np.generic]
    """Labels of the same voxels, int8 or int16; -1 where the image is zero around the body. Zeros without labels."""
    properties: Properties
    """nnU-Net's: geometry before preprocessing and, with labels, `class_locations` {label: int16 array (n, 4)}."""


def preprocess_case(images: Sequence[Path], labels: Path | None, plan: Plan) -> PreprocessedCase:
    """Crop, normalise and resample one case as nnU-Net does.

    Parameters
    ----------
    images : sequence of Path
        NIfTI volumes, one for each channel.
    labels : Path or None
        Label map in the geometry of the image; None for a case that is only predicted.
    plan : Plan
        Of the training that will use the case.

    Raises
    ------
    DataError
        If a file cannot be read, shapes differ, or there are other channels than the plan has.
    """
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    manager = plan.plans_manager
    reader = manager.image_reader_writer_class()
    voxels, properties = read_images(images, plan)
    with prints_to_log():
        label_map = None
        if labels is not None:
            label_map, _ = read_with_nnunet(reader.read_seg, str(labels), paths=[labels])
            if label_map.shape[1:] != voxels.shape[1:]:
                raise DataError(f"{labels}: shape {label_map.shape[1:]}; expected {voxels.shape[1:]} as in {images[0]}")
        data, seg, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            voxels, label_map, properties, manager, manager.get_configuration(plan.configuration), plan.dataset_json
        )
    if "class_locations" in properties:
        # nnU-Net draws at least 10000 voxels a label as int64: more bytes than a small case has itself.
        properties["class_locations"] = {
            label: np.asarray(places, np.int16).reshape(-1, 4) if max(data.shape) < 2**15 else places
            for label, places in properties["class_locations"].items()
        }
    return PreprocessedCase(data=data.astype(np.float32, copy=False), seg=seg, properties=properties)
