"""What slices cannot do is left to nnU-Net's own prediction and export, which hold all classes at once."""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray

from orchestrator.training.nnunet.prepared_image import PreparedImage
from orchestrator.training.nnunet.resampled_image import network_spacing, resampling_of

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    from orchestrator.training.nnunet.window_sweep import SweepPlan

_HALF, _FLOAT32, _FLOAT64, _INT64 = 2, 4, 8, 8
_COORDINATES = 88
"""A voxel, where slices are kept apart: coordinates along three axes, of a channel and of the one before."""


def stock_logits(predictor: nnUNetPredictor, image: PreparedImage) -> torch.Tensor:
    """Return what nnU-Net's sliding window says of an image, shape (classes, Z, Y, X), on the grid of the network."""
    with _raising_worker_errors():
        return predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image.data)).cpu()


def stock_labels(predictor: nnUNetPredictor, image: PreparedImage) -> NDArray[Any]:
    """Return the label map, uint8 or uint16, in the voxels and the order of axes of the file that was read."""
    labels: NDArray[Any] = convert_predicted_logits_to_segmentation_with_correct_shape(
        stock_logits(predictor, image),
        predictor.plans_manager,
        predictor.configuration_manager,
        predictor.label_manager,
        image.properties,
        # nnU-Net's default is 8 threads, however many cores this process was given.
        num_threads_torch=torch.get_num_threads(),
    )
    return labels


def stock_values(predictor: nnUNetPredictor, image: PreparedImage) -> Generator[NDArray[np.float16], None, None]:
    """Yield logits as nnU-Net's export resamples them, shape (classes, Y, X), slice by slice within the crop."""
    manager, configuration = predictor.plans_manager, predictor.configuration_manager
    shape = image.properties["shape_after_cropping_and_before_resampling"]
    spacing = [image.properties["spacing"][axis] for axis in manager.transpose_forward]
    current = network_spacing(spacing, configuration)
    logits = stock_logits(predictor, image)
    resampled = configuration.resampling_fn_probabilities(logits, shape, current, spacing)
    values = resampled.numpy() if isinstance(resampled, torch.Tensor) else resampled
    for z in range(values.shape[1]):
        yield np.ascontiguousarray(values[:, z])


def stock_bytes(
    predictor: nnUNetPredictor, plan: "SweepPlan", *, shape: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[int, int]:
    """Return the bytes that logits take while windows go over an image, and those of their export at most.

    Parameters
    ----------
    predictor
        nnU-Net's.
    plan
        Of the windows.
    shape, spacing_mm
        Of the image, (z, y, x).
    """
    configuration, labels = predictor.configuration_manager, predictor.label_manager
    num_classes, num_new, num_voxels = plan.num_classes, math.prod(plan.shape), math.prod(shape)
    logits = _HALF * num_classes * num_new
    # What other folds said before; absolute values, and which of them are infinite.
    several = logits if plan.num_models > 1 else 0
    summing = logits + several + (_HALF + 1) * num_classes * num_new + _HALF * num_new
    shapes = plan.unpadded_shape, shape
    resampling = resampling_bytes_of_stock(
        configuration, "probabilities", shapes=shapes, spacing_mm=spacing_mm, num_channels=num_classes
    )
    each = _FLOAT32 if resampling and resampling_of("probabilities", configuration).is_of_torch else _HALF
    if labels.has_regions:
        # Single precision of halves, the sigmoid; the label map and a mask.
        deciding = num_classes * (_FLOAT32 + (_FLOAT32 if each == _HALF else 0)) + _HALF + 1
    else:
        # numpy finds the largest of a copy.
        deciding = num_classes * each + _INT64
    return summing, max(logits + resampling, (num_classes * each + deciding) * num_voxels)


def resampling_bytes_of_stock(
    configuration: "ConfigurationManager",
    kind: str,
    *,
    shapes: tuple[Sequence[int], Sequence[int]],
    spacing_mm: Sequence[float],
    num_channels: int,
) -> int:
    """Return the bytes that nnU-Net's function for `data` or `probabilities` takes beside what it is given.

    `shapes` are voxels (z, y, x) before and after, `spacing_mm` is that of the image, (z, y, x).
    """
    before, after = (tuple(map(int, shape)) for shape in shapes)
    if before == after:
        return 0
    here = network_spacing(spacing_mm, configuration)
    spacings = (spacing_mm, here) if kind == "data" else (here, spacing_mm)
    resampling, item = resampling_of(kind, configuration), _FLOAT32 if kind == "data" else _HALF
    axis = resampling.separate_axis(*spacings)
    old, new = math.prod(before), math.prod(after)
    # Slices that are resampled in their plane.
    between = before[axis] * new // after[axis] if axis is not None else 0
    if resampling.is_of_torch:
        copied = (0 if item == _FLOAT32 else _FLOAT32 * old) + (item * old if axis else 0)
        if not between:
            return num_channels * (copied + _FLOAT32 * new)
        return num_channels * _FLOAT32 * between + num_channels * max(copied, _FLOAT32 * new)
    # All channels in double precision, and one after the other while it is made.
    one = _FLOAT64 * between + _COORDINATES * new if axis is not None else _FLOAT64 * (new + old)
    return num_channels * (_FLOAT64 * old + item * new) + one


class _Failure:
    """Stands for a patch that could not be brought to the device: looked at, it raises the reason."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __eq__(self, other: object) -> bool:
        raise self._error

    __hash__ = None  # type: ignore[assignment]


class _Producer(Thread):
    """nnU-Net's thread that brings patches to the device, the last of whose arguments is the queue that they go to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        *_, self._queue = kwargs["args"]

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            self._queue.put(_Failure(error))


@contextmanager
def _raising_worker_errors() -> Iterator[None]:
    """Context in which nnU-Net's loop ends with the error of its thread; it would wait for its next patch for ever."""
    predict_from_raw_data.Thread = _Producer
    try:
        yield
    finally:
        predict_from_raw_data.Thread = Thread
