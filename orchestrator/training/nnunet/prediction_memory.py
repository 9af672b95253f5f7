"""What a prediction will take of the memory of a process, known before it starts."""

import math
import resource
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.windows.line_survey import find_best
from orchestrator.storage.json_values import JsonObject
from orchestrator.training.nnunet.classes import DEFAULT_TRAINER, network_for_prediction
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.resampled_image import network_spacing, resampling_of
from orchestrator.training.nnunet.stock_export import resampling_bytes_of_stock
from orchestrator.training.nnunet.window_sweep import SweepPlan

_HALF, _FLOAT32, _FLOAT64 = 2, 4, 8
_MARGIN, _LITTLE_MARGIN = 1.1, 1.05
BESIDE_BYTES = 168 * 2**20
"""Of compiled kernels, threads, weights in the order of oneDNN, and what allocators keep."""
_KERNELS_BYTES, _KEPT_BYTES = 80 * 2**20, 24 * 2**20
_TURNING, _ITK_TURNING = "NibabelIOWithReorient", "SimpleITKIOWithReorient"
_NIBABEL = frozenset({"NibabelIO", _TURNING})
_SMALL_CONVOLUTION, _SMALL_KERNEL = 20480, 3
"""Channels times all sizes but the last of an image, and voxels of a kernel, up to which PyTorch does without oneDNN
(`use_mkldnn` in aten/src/ATen/native/Convolution.cpp)."""
_MASK = 3
_NORMALISED_IN_PLACE = {
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
}
_SPLINE_MARGIN = 24
"""Voxels that scipy adds to each axis before it interpolates cubically."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """What is known of an image before its voxels are read."""

    shape: tuple[int, int, int]
    """(z, y, x)."""
    spacing_mm: tuple[float, float, float]
    """(z, y, x)."""
    voxel_bytes: int
    is_scaled: bool = False
    """Whether voxels are numbers of the file times a slope plus an intercept (NIfTI)."""
    unscaled_bytes: int = 0
    """Of a number of the file, where ITK makes voxels of them by a slope or an intercept (NIfTI)."""


def read_header(image: Path) -> StoredImage | None:
    """Return the header of an image; None if it cannot be read, which reading the image will tell."""
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(str(image))
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    size, spacing = reader.GetSize(), reader.GetSpacing()
    if len(size) not in {2, 3}:
        return None
    if len(size) == 2:
        size, spacing = (*size, 1), (*spacing, 999 * max(spacing))
    words = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    slope, intercept = _number_in(reader, "scl_slope"), _number_in(reader, "scl_inter")
    digits = "".join(character for character in words if character.isdigit())
    return StoredImage(
        shape=(size[2], size[1], size[0]),
        spacing_mm=(spacing[2], spacing[1], spacing[0]),
        voxel_bytes=int(digits or 64) // 8,
        is_scaled=slope not in {0.0, 1.0} and intercept != 0.0,
        unscaled_bytes=int(_number_in(reader, "bitpix")) // 8 if slope not in {0.0, 1.0} or intercept else 0,
    )


def _number_in(reader: sitk.ImageFileReader, key: str) -> float:
    """Return a number of a header; 0 if it has none of that name."""
    try:
        return float(reader.GetMetaData(key)) if reader.HasMetaDataKey(key) else 0.0
    except ValueError:
        return 0.0


def reading_bytes(header: StoredImage, plan: Plan) -> int:
    """Return the bytes that a prediction takes until its image is read, beside what the process has already."""
    num_channels = len(plan.channel_names)
    readers = plan.reader_names
    if readers & _NIBABEL:
        # All channels in double precision; then all in single precision, too, and one that was turned as it is in its
        # file. Where numbers are scaled, the last one is there once more before the intercept is added.
        stored = _FLOAT64 if header.is_scaled else header.voxel_bytes
        turned = header.voxel_bytes if _TURNING in readers else 0
        each = _FLOAT64 * num_channels + max(stored, _FLOAT32 * num_channels + turned)
    else:
        # ITK's image and all channels. But for a volume that `reader_of` reads, nnU-Net stacks copies of ITK's; while
        # ITK reads one, it has it twice itself, and three times to turn it.
        is_lean = plan.plans_manager.image_reader_writer_class is SimpleITKIO and num_channels == 1
        num_copies = 3 if _ITK_TURNING in readers else 2
        reading = header.voxel_bytes * (num_channels - 1 + num_copies) + header.unscaled_bytes
        each = max(reading, header.voxel_bytes * (1 if is_lean else num_channels + 1) + _FLOAT32 * num_channels)
    return math.prod(header.shape) * each + _loaded_bytes()


def _loaded_bytes() -> int:
    """Return what kernels take that cases before have loaded, unless they are there, and what allocators keep."""
    return _KEPT_BYTES if find_best.signatures else _KERNELS_BYTES  # type: ignore[attr-defined]


def normalising_bytes(header: StoredImage, plan: Plan) -> int:
    """Return the bytes that a prediction takes until its image is normalised, beside what the process has already."""
    configuration = plan.configuration_manager
    schemes = configuration.normalization_schemes
    beside = max(0 if scheme in _NORMALISED_IN_PLACE else _FLOAT32 for scheme in schemes)
    if any(configuration.use_mask_for_norm):
        # The mask, what is selected by it, and as much again.
        beside = _MASK + 2 * _FLOAT32
    return round(math.prod(header.shape) * (_FLOAT32 * len(schemes) + beside) * _MARGIN) + BESIDE_BYTES


def resampling_bytes(header: StoredImage, new_shape: Sequence[int], plan: Plan) -> int:
    """Return the bytes that a prediction takes while its image is resampled, beside what the process has already.

    `header` is that of the image in the order of axes of the plans, `new_shape` are voxels of the network's grid.
    """
    num_channels, configuration, here = len(plan.channel_names), plan.configuration_manager, header.spacing_mm
    taken = num_channels * _FLOAT32 * math.prod(header.shape)
    target = network_spacing(here, configuration)
    if resampling_of("data", configuration).keeps_slices(here, target) is None:
        shapes = header.shape, new_shape
        taken += resampling_bytes_of_stock(
            configuration, "data", shapes=shapes, spacing_mm=here, num_channels=num_channels
        )
    elif tuple(new_shape) != header.shape:
        num_slices, *plane = header.shape
        # Slices before and within a block, those that are summed up, and the last ones filtered along all axes.
        unfiltered = 2 * math.isqrt(num_slices + _SPLINE_MARGIN) + 6
        filtered = 6 * math.prod(size + _SPLINE_MARGIN for size in plane)
        new = num_channels * _FLOAT32 * math.prod(new_shape)
        taken += new + _FLOAT64 * (unfiltered * math.prod(plane) + filtered)
    return round(taken * _LITTLE_MARGIN) + _loaded_bytes()


def own_bytes() -> int:
    """Return the bytes that this process has in memory now; the most that it had so far where that is not told."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return pages * resource.getpagesize()


class _LiveTensors(TorchDispatchMode):  # type: ignore[misc]
    """Counts the bytes of the tensors that are alive at a time, views of one memory once."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0
        self.most_bytes = 0
        self._num_views: Counter[int] = Counter()

    def __torch_dispatch__(
        self,
        function: Callable[..., object],
        _types: object,
        args: tuple[object, ...] = (),
        kwargs: JsonObject | None = None,
    ) -> object:
        made = function(*args, **(kwargs or {}))
        results = [
            one for one in (made if isinstance(made, tuple | list) else (made,)) if isinstance(one, torch.Tensor)
        ]
        for tensor in results:
            memory = tensor.untyped_storage()
            place, num_bytes = memory._cdata, memory.nbytes()  # noqa: SLF001 - storages of no device have no address
            self.num_bytes += 0 if self._num_views[place] else num_bytes
            self._num_views[place] += 1
            weakref.finalize(tensor, self._freed, place, num_bytes)
        beside = _bytes_of_convolving(results[0], args) if "convolution" in str(function) else 0
        self.most_bytes = max(self.most_bytes, self.num_bytes + beside)
        return made

    def _freed(self, place: int, num_bytes: int) -> None:
        self._num_views[place] -= 1
        self.num_bytes -= 0 if self._num_views[place] else num_bytes


def _bytes_of_convolving(made: torch.Tensor, args: Sequence[Any]) -> int:
    """Return the bytes that a convolution takes on a CPU beside its image and its result.

    oneDNN convolves copies of both in an order of its own. What is small is left to code of PyTorch's own, which writes
    all values that each voxel is made of side by side: 27 times the image for a kernel of 3 x 3 x 3.
    """
    image: torch.Tensor
    weight: torch.Tensor
    image, weight, is_transposed, num_groups = args[0], args[1], args[6], args[8]
    is_small = len(image) == num_groups == 1 and math.prod(image.shape[:4]) <= _SMALL_CONVOLUTION
    if is_small and min(weight.shape[-2:]) <= _SMALL_KERNEL:
        grid = image if is_transposed else made
        return _FLOAT32 * int(math.prod(weight.shape[1:]) * math.prod(grid.shape[2:]))
    return sum(one.numel() * one.element_size() for one in (made, image))


def network_of_shapes(plan: Plan, *, trainer_name: str) -> torch.nn.Module:
    """Return the network that a trainer builds, on the meta device: nnU-Net's own takes no memory at any time."""
    # Networks of others may ask for values while they are built.
    with torch.device("meta") if trainer_name == DEFAULT_TRAINER else nullcontext():
        network: torch.nn.Module = network_for_prediction(
            trainer_name, plan.plans_manager, configuration=plan.configuration, dataset_json=plan.dataset_json
        )
    return network.to("meta")


def activation_bytes(plan: Plan, *, trainer_name: str, num_channels: int) -> int | None:
    """Return the bytes of what a network holds at a time for one window: its forward pass without any numbers.

    None where that is not known before, since a network of others asks for numbers on the way.
    """
    network = network_of_shapes(plan, trainer_name=trainer_name).eval()
    window = torch.empty((1, num_channels, *plan.configuration_manager.patch_size), device="meta")
    try:
        return forward_bytes(network, window)
    except Exception:  # a network of others may raise anything
        if trainer_name == DEFAULT_TRAINER:
            raise
        return None


def forward_bytes(network: torch.nn.Module, window: torch.Tensor) -> int:
    """Return the bytes that a network holds at a time for one window; both are on the meta device."""
    live = _LiveTensors()
    with torch.no_grad(), live:
        network(window)
    return live.most_bytes


def sweep_bytes(
    header: StoredImage,
    plan: SweepPlan,
    *,
    num_channels: int,
    activations: int,
    mirrors: bool,
    stock: tuple[int, int] | None,
) -> int:
    """Return the bytes that a prediction takes once its image is prepared, beside what the process has already.

    Parameters
    ----------
    header
        Of the image, in the order of axes of the plans.
    plan
        Of its windows.
    num_channels
        Of the image.
    activations
        Bytes that the network holds for a window; 0 on a GPU.
    mirrors
        Whether predictions are averaged over mirrored images.
    stock
        What nnU-Net's own prediction and export take, as `stock_bytes` tells; None if labels are made slice by slice.
    """
    num_new = math.prod(plan.shape)
    is_padded = plan.unpadded_shape != plan.shape
    image = num_channels * _FLOAT32 * num_new * (2 if is_padded else 1)
    held = image + label_map_bytes(header, num_classes=plan.num_classes)
    sums, export = stock or (plan.num_sum_bytes, 0)
    window = plan.num_classes * math.prod(plan.patch_shape) * _FLOAT32
    # Of a GPU, halves come to the host and become single precision there.
    forward = activations or window * 3 // 2
    sweep = held + max(sums + (max(forward + window, 3 * window) if mirrors else forward), export)
    return round(sweep * _MARGIN) + BESIDE_BYTES


def label_map_bytes(header: StoredImage, *, num_classes: int) -> int:
    """Return the bytes of the label map of an image."""
    return math.prod(header.shape) * (1 if num_classes <= 255 else 2)
