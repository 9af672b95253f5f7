"""What slices cannot do is left to nnU-Net's own prediction and export, which hold all classes at once."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import numpy as np
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray

from orchestrator.training.nnunet.prepared_image import PreparedImage


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
    current = list(configuration.spacing)
    if len(current) < len(shape):
        current = [spacing[0], *current]
    logits = stock_logits(predictor, image)
    resampled = configuration.resampling_fn_probabilities(logits, shape, current, spacing)
    values = resampled.numpy() if isinstance(resampled, torch.Tensor) else resampled
    for z in range(values.shape[1]):
        yield np.ascontiguousarray(values[:, z])


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
