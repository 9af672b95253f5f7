"""Prediction of one image in a bounded amount of memory, with the labels of nnU-Net's own prediction and export.

The windows go over the image as nnU-Net's do, in the same order, with the same arithmetic
(`kernels/windows/label_stream.py`); only that what no window touches any more becomes labels at once, instead of when
everything is predicted.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.utilities.helpers import softmax_helper_dim0
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from numpy.typing import NDArray
from skimage.transform import resize

from kernels.resampling.zoom_taps import Taps, linear_taps, nearest_taps, same_taps
from kernels.windows.label_stream import MOST_REGIONS, LabelStream, StreamGrid, WindowStream
from kernels.windows.line_pool import Steps
from kernels.windows.value_stream import ValueStream
from orchestrator.errors import TrainingError
from orchestrator.patches.layout import Properties
from orchestrator.training.nnunet.prepared_image import PreparedImage
from orchestrator.training.nnunet.resampled_image import network_spacing, resampling_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Where a window begins, in voxels of the padded image."""

    start: tuple[int, int, int]
    is_first_of_slices: bool
    """Whether no window before it began at the same place along the first axis."""
    is_first_of_lines: bool
    """Whether none before it began at the same places along the first two axes."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SweepPlan:
    """All that is known of a prediction before it starts."""

    grid: StreamGrid
    patch_shape: tuple[int, int, int]
    """Voxels (z, y, x) of a window."""
    windows: tuple[Window, ...]
    padding: tuple[slice, slice, slice]
    """Where the image lies in what is padded to the size of a window."""
    num_classes: int
    num_models: int
    region_labels: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) that the windows cover, with what was padded."""
        return (*self.grid.steps.shape, self.grid.size_x)

    @property
    def unpadded_shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of the image."""
        z, y, x = (part.stop - part.start for part in self.padding)
        return z, y, x

    @property
    def num_sum_bytes(self) -> int:
        """Bytes of the sums of predictions that are held at a time."""
        return self.grid.num_sum_bytes(num_classes=self.num_classes, num_models=self.num_models)


def can_stream(predictor: nnUNetPredictor) -> bool:
    """Whether labels can be made in this way: for nnU-Net's usual resampling of predictions and rule of labels."""
    labels = predictor.label_manager
    return (
        resampling_of("probabilities", predictor.configuration_manager).is_usual
        and type(labels) is LabelManager
        and labels.inference_nonlin in {torch.sigmoid, softmax_helper_dim0}
        and (not labels.has_regions or len(labels.foreground_regions) <= MOST_REGIONS)
        and _zooms_as_expected()
    )


def plan_sweep(predictor: nnUNetPredictor, *, shape: Sequence[int], properties: Properties) -> SweepPlan:
    """Return what a prediction of a prepared image of this shape (Z, Y, X) takes; nothing is calculated."""
    patch = tuple(predictor.configuration_manager.patch_size)
    labels = predictor.label_manager
    padded = (*shape[: 3 - len(patch)], *np.maximum(shape[3 - len(patch) :], patch))
    before = [(full - size) // 2 for full, size in zip(padded, shape, strict=True)]
    steps = compute_steps_for_sliding_window(padded[3 - len(patch) :], patch, predictor.tile_step_size)
    if len(patch) == 2:
        steps = [list(range(padded[0])), *steps]
        patch = (1, *patch)
    windows = tuple(
        Window(
            start=(int(z), int(y), int(x)),
            is_first_of_slices=(y, x) == (steps[1][0], steps[2][0]),
            is_first_of_lines=x == steps[2][0],
        )
        for z, y, x in product(*steps)
    )
    output_shape = tuple(map(int, properties["shape_after_cropping_and_before_resampling"]))
    starts = tuple(tuple(map(int, along)) for along in steps)
    grid = StreamGrid(
        steps=Steps(shape=_three(padded)[:2], patch_shape=_three(patch)[:2], starts=(starts[0], starts[1])),
        size_x=int(padded[2]),
        taps=_taps(predictor, shape=_three(shape), output_shape=_three(output_shape), before=before, given=properties),
    )
    return SweepPlan(
        grid=grid,
        patch_shape=_three(patch),
        windows=windows,
        padding=tuple(slice(at, at + size) for at, size in zip(before, shape, strict=True)),  # type: ignore[arg-type]
        num_classes=labels.num_segmentation_heads,
        num_models=len(predictor.list_of_parameters),
        region_labels=tuple(labels.regions_class_order) if labels.has_regions else (),
    )


def _three(values: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = map(int, values)
    return first, second, third


def _taps(
    predictor: nnUNetPredictor,
    *,
    shape: tuple[int, int, int],
    output_shape: tuple[int, int, int],
    before: Sequence[int],
    given: Properties,
) -> tuple[Taps, Taps, Taps]:
    """Return what each label is interpolated from, as nnU-Net's export chooses it."""
    if shape == output_shape:
        first, second, third = (same_taps(num).shifted(offset) for num, offset in zip(shape, before, strict=True))
        return first, second, third
    configuration = predictor.configuration_manager
    spacing = [given["spacing"][axis] for axis in predictor.plans_manager.transpose_forward]
    current = network_spacing(spacing, configuration)
    axis = resampling_of("probabilities", configuration).separate_axis(current, spacing)
    first, second, third = (
        (nearest_taps if number == axis else linear_taps)(num_in, num_out).shifted(offset)
        for number, (num_in, num_out, offset) in enumerate(zip(shape, output_shape, before, strict=True))
    )
    return first, second, third


def stream_labels(
    predictor: nnUNetPredictor,
    networks: Sequence[torch.nn.Module],
    image: PreparedImage,
    *,
    plan: SweepPlan,
) -> NDArray[Any]:
    """Return the label map, uint8 or uint16, in the voxels and the order of axes of the file that was read.

    Parameters
    ----------
    predictor
        nnU-Net's, which gives windows, mirroring and rules.
    networks
        One for each fold, ready to predict.
    image, plan
        What is predicted, and the plan of `plan_sweep` for it.

    Raises
    ------
    TrainingError
        If a network gives numbers that no half can hold, as nnU-Net then does.
    """
    labels, box = predictor.label_manager, image.properties["bbox_used_for_cropping"]
    dtype = np.uint8 if len(labels.foreground_labels) < 255 else np.uint16
    whole: NDArray[Any] = np.zeros(image.properties["shape_before_cropping"], dtype)
    inside = whole[tuple(slice(start, end) for start, end in box)]
    stream = LabelStream(
        plan.grid,
        num_classes=plan.num_classes,
        num_models=plan.num_models,
        weights=_window_weights(predictor, plan),
        region_labels=plan.region_labels,
        output=inside,
    )
    for model, window, prediction in _predictions(predictor, networks, image, plan=plan):
        if window.is_first_of_lines and model == 0:
            stream.begin()
        _add(stream, prediction, model=model, window=window)
        # The next one is made before the name stands for it: two would be held.
        del prediction
    stream.end()
    _check_finite(stream)
    return whole.transpose(predictor.plans_manager.transpose_backward)


def stream_values(
    predictor: nnUNetPredictor, networks: Sequence[torch.nn.Module], image: PreparedImage, *, plan: SweepPlan
) -> Generator[NDArray[np.float16], None, None]:
    """Yield what the networks say of each slice within the crop of an image, in the plan's order of axes.

    Shape (classes, Y, X): logits on the grid of the file that was read, as nnU-Net resamples and rounds them; what
    becomes of them `stream_labels` decides. Parameters and errors as there.
    """
    stream = ValueStream(
        plan.grid,
        num_classes=plan.num_classes,
        num_models=plan.num_models,
        weights=_window_weights(predictor, plan),
    )
    for model, window, prediction in _predictions(predictor, networks, image, plan=plan):
        if window.is_first_of_slices and model == 0:
            yield from stream.begin()
        _add(stream, prediction, model=model, window=window)
        del prediction
    yield from stream.end()
    _check_finite(stream)


def _window_weights(predictor: nnUNetPredictor, plan: SweepPlan) -> NDArray[np.float32]:
    """Return the weights of the voxels of a window, shape (z, y, x)."""
    weights = compute_gaussian(
        tuple(predictor.configuration_manager.patch_size),
        sigma_scale=1.0 / 8,
        value_scaling_factor=10,
        device=torch.device("cpu"),
    )
    reshaped: NDArray[np.float32] = weights.float().numpy().reshape(plan.patch_shape)
    return reshaped


def _add(stream: WindowStream, prediction: torch.Tensor, *, model: int, window: Window) -> None:
    stream.add(prediction.float().numpy(), model=model, start=window.start, is_half=prediction.dtype == torch.float16)


def _check_finite(stream: WindowStream) -> None:
    if not stream.is_finite:
        raise TrainingError(
            "the network's predictions add up to infinity in half precision, and nnU-Net stops there as well; expected "
            "logits of less than about 6000. Train it again, or look at the intensities of the image"
        )


def _predictions(
    predictor: nnUNetPredictor, networks: Sequence[torch.nn.Module], image: PreparedImage, *, plan: SweepPlan
) -> Iterator[tuple[int, Window, torch.Tensor]]:
    """Yield what each network says of each window, shape (classes, z, y, x), in nnU-Net's order of windows."""
    patch = predictor.configuration_manager.patch_size
    data, _ = pad_nd_image(torch.from_numpy(image.data), patch, "constant", {"value": 0}, True, None)
    device = predictor.device
    num_threads = torch.get_num_threads()
    torch.set_num_threads(min(default_num_processes, num_threads))
    try:
        for window in plan.windows:
            z, y, x = (slice(start, start + size) for start, size in zip(window.start, plan.patch_shape, strict=True))
            part = (slice(None), window.start[0] if len(patch) == 2 else z, y, x)
            given = torch.clone(data[part][None], memory_format=torch.contiguous_format).to(device)
            for model, network in enumerate(networks):
                predictor.network = network
                yield model, window, _predicted(predictor, given).view(plan.num_classes, *plan.patch_shape)
    finally:
        torch.set_num_threads(num_threads)


def _predicted(predictor: nnUNetPredictor, given: torch.Tensor) -> torch.Tensor:
    """Return what the network says of a window on the host.

    `inference_mode` around a generator would hold what it gave last while the next one is made.
    """
    with torch.inference_mode(), torch.autocast(predictor.device.type, enabled=predictor.device.type == "cuda"):
        predicted: torch.Tensor = predictor._internal_maybe_mirror_and_predict(given)[0]  # noqa: SLF001
    return predicted.cpu().contiguous()


@cache
def _zooms_as_expected() -> bool:
    """Whether scipy interpolates to the same bits as the kernels: on some processors it may join products and sums."""
    values = np.random.default_rng(0).standard_normal((5, 7, 9))
    z, y, x = (linear_taps(num_in, num_out) for num_in, num_out in zip(values.shape, (9, 11, 17), strict=True))
    total = np.zeros((9, 11, 17))
    for along_z, along_y, along_x in product(("lower", "upper"), repeat=3):
        index = np.ix_(getattr(z, along_z), getattr(y, along_y), getattr(x, along_x))
        weights = (getattr(taps, f"{name}_weight") for taps, name in ((z, along_z), (y, along_y), (x, along_x)))
        weight_z, weight_y, weight_x = weights
        total += values[index] * weight_z[:, None, None] * weight_y[:, None] * weight_x
    expected = resize(  # type: ignore[no-untyped-call]
        values, total.shape, 1, mode="edge", anti_aliasing=False
    )
    return bool(np.array_equal(total, expected))
