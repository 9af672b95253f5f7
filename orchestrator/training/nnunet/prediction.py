"""Predicts whole images as nnU-Net does, one at a time, in this process."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray

from orchestrator.benchmark.presets import Preset
from orchestrator.errors import DataError, IntegrityError
from orchestrator.images.geometry import Geometry, grid_difference, order_onto, placed
from orchestrator.images.label_maps import open_volume
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import read_nifti_geometry
from orchestrator.patches.layout import Properties
from orchestrator.storage.json_values import JsonObject
from orchestrator.training.checkpoint import fitting
from orchestrator.training.nnunet.classes import DEFAULT_TRAINER, network_for_prediction
from orchestrator.training.nnunet.environment import prints_to_log
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.prediction_memory import (
    StoredImage,
    activation_bytes,
    network_of_shapes,
    normalising_bytes,
    reading_bytes,
    resampling_bytes,
    sweep_bytes,
)
from orchestrator.training.nnunet.prepared_image import PreparedImage, prepare_image, read_images, shape_in_spacing
from orchestrator.training.nnunet.resampled_image import network_spacing
from orchestrator.training.nnunet.stock_export import stock_bytes, stock_labels, stock_values
from orchestrator.training.nnunet.window_sweep import SweepPlan, can_stream, plan_sweep, stream_labels, stream_values

_DESCRIPTION = "ITK_FileNotes"
"""What ITK calls the field `descrip` of a NIfTI header."""


class Predictor:
    """A model that is ready to predict."""

    def __init__(self, predictor: nnUNetPredictor, networks: Sequence[torch.nn.Module], *, plan: Plan) -> None:
        """Take over what is ready.

        Parameters
        ----------
        predictor
            nnU-Net's.
        networks
            One for each fold, whose predictions are averaged.
        plan
            Of the model.
        """
        self._predictor = predictor
        self._networks = tuple(networks)
        self.plan = plan
        """Plans of the model."""
        self.streams = can_stream(predictor)
        """Whether it predicts slice by slice. What it cannot do so, it leaves to nnU-Net's own export."""

    def prepared(self, images: Sequence[Path]) -> PreparedImage:
        """Read an image, a file for each channel, with the reader that the plans name, and prepare it.

        Raises DataError if it cannot be read, or is not one for this model.
        """
        return prepare_image(*read_images(images, self.plan), self.plan)

    def write(self, labels: NDArray[Any], output: Path, *, properties: Properties) -> None:
        """Write the label map of an image with the writer that the plans name, in the geometry of its file."""
        with prints_to_log():
            self.plan.plans_manager.image_reader_writer_class().write_seg(labels, str(output), properties)

    def expected_bytes(self, header: StoredImage) -> tuple[int, int] | None:
        """Return what a prediction takes at most beside what this process has in memory, by the header of an image.

        The first number is until the image is prepared, the second one with all that follows. They are upper bounds:
        zeros around the body, which are cut off, are not known before the image is read. None where it is not known
        what the network takes.
        """
        activations = self._activation_bytes
        if activations is None:
            return None
        turned, plan = self._sweep_of(header)
        resampling = resampling_bytes(turned, plan.unpadded_shape, self.plan)
        preparing = max(resampling, normalising_bytes(header, self.plan), reading_bytes(header, self.plan))
        predicting = sweep_bytes(
            turned,
            plan,
            num_channels=self._num_channels,
            activations=activations,
            mirrors=self._predictor.use_mirroring,
            stock=None
            if self.streams
            else stock_bytes(self._predictor, plan, shape=turned.shape, spacing_mm=turned.spacing_mm),
        )
        return preparing, max(preparing, predicting)

    def _sweep_of(self, header: StoredImage) -> tuple[StoredImage, SweepPlan]:
        """Return the header in the plan's order of axes, and what is known of the windows over such an image."""
        configuration, transpose = self._predictor.configuration_manager, self.plan.plans_manager.transpose_forward
        shape = [header.shape[axis] for axis in transpose]
        spacing = [header.spacing_mm[axis] for axis in transpose]
        new_shape = shape_in_spacing(shape, spacing, network_spacing(spacing, configuration))
        properties = {"spacing": header.spacing_mm, "shape_after_cropping_and_before_resampling": shape}
        plan = plan_sweep(self._predictor, shape=new_shape, properties=properties)
        (z, y, x), (z_mm, y_mm, x_mm) = shape, spacing
        return replace(header, shape=(z, y, x), spacing_mm=(z_mm, y_mm, x_mm)), plan

    @cached_property
    def _activation_bytes(self) -> int | None:
        is_on_host = self._predictor.device.type == "cpu"
        name = self._predictor.trainer_name
        return activation_bytes(self.plan, trainer_name=name, num_channels=self._num_channels) if is_on_host else 0

    @cached_property
    def _num_channels(self) -> int:
        return len(self.plan.channel_names)

    def labels(self, image: PreparedImage) -> NDArray[Any]:
        """Return the label map, uint8 or uint16, in the voxels and the order of axes of the file that was read."""
        with prints_to_log():
            if self.streams:
                plan = plan_sweep(self._predictor, shape=image.data.shape[1:], properties=image.properties)
                return stream_labels(self._predictor, self._networks, image, plan=plan)
            return stock_labels(self._predictor, image)

    def value_slices(self, image: PreparedImage) -> Generator[NDArray[np.float16], None, None]:
        """Yield logits on the grid of the file, of each slice within the crop along the plan's first axis.

        Shape (classes, Y, X). Folds of the model are averaged, as nnU-Net averages them.
        """
        if not self.streams:
            return stock_values(self._predictor, image)
        plan = plan_sweep(self._predictor, shape=image.data.shape[1:], properties=image.properties)
        return stream_values(self._predictor, self._networks, image, plan=plan)


def label_writer(
    image: Path, output: Path, *, grid: Geometry | None, description: str
) -> Callable[[NDArray[Any]], None]:
    """Return what writes the label map of an image on a grid; arguments and errors as `ModelEnsemble.predict_onto`."""
    of_image = read_nifti_geometry(SourceFile(path=image), is_volume=False)
    target = grid or of_image
    order = order_onto(target, of_image)
    _check_grid(order.geometry(of_image), grid=target, image=image)
    return lambda labels: _write_label_map(order.array(labels), output, geometry=target, description=description)


def description_of(prediction: Path) -> str:
    """Return the description in the header of a label map; empty if it has none or cannot be read."""
    try:
        with open_volume(prediction) as opened:
            return opened.header.description
    except DataError:
        return ""


def _check_grid(found: Geometry, *, grid: Geometry, image: Path) -> None:
    difference = grid_difference(grid, found)
    if difference is not None:
        raise IntegrityError(f"{image}: not on the grid of the file that it was made from: {difference.words}")


def _write_label_map(labels: NDArray[np.uint8], output: Path, *, geometry: Geometry, description: str) -> None:
    """Write labels (z, y, x) on a grid."""
    label_map = placed(sitk.GetImageFromArray(labels), geometry)
    label_map.SetMetaData(_DESCRIPTION, description)
    sitk.WriteImage(label_map, str(output), useCompression=True)


def load_predictor(state: JsonObject, *, plan: Plan, preset: Preset, device: str) -> Predictor:
    """Build a predictor from a final checkpoint.

    Parameters
    ----------
    state
        Content of the checkpoint.
    plan
        nnU-Net plans of the training.
    preset
        Gives the step of the sliding window and whether predictions are averaged over mirrored images.
    device
        `cpu` or `cuda`.

    Raises
    ------
    IntegrityError
        If the checkpoint was trained with another plan, or is not that of a network of this plan.
    ConfigError
        If nnU-Net does not find the trainer that built the network.
    """
    with fitting("the final checkpoint"):
        plan_sha256, weights = state["origin"]["plan_sha256"], state["network_weights"]
        mirror_axes = tuple(map(int, state["inference_allowed_mirroring_axes"] or ()))
        if plan_sha256 != plan.sha256:
            raise IntegrityError(
                f"the checkpoint was trained with plan {plan_sha256}, not with {plan.sha256}: delete it to train "
                "again, or give the plan that belongs to it"
            )
        return ready_predictor(
            plan,
            [weights],
            mirror_axes=mirror_axes if preset.mirror_at_prediction else (),
            tile_step_size=preset.tile_step_size,
            device=device,
            trainer_name=str(state["trainer_name"]),
        )


def ready_predictor(
    plan: Plan,
    weights: Sequence[dict[str, torch.Tensor]],
    *,
    mirror_axes: Sequence[int],
    tile_step_size: float,
    device: str,
    trainer_name: str = DEFAULT_TRAINER,
) -> Predictor:
    """Build the networks of a model.

    Parameters
    ----------
    plan
        Of the model.
    weights
        Of each network whose predictions are averaged.
    mirror_axes
        Axes of a window along which predictions are mirrored and averaged; none for no mirroring.
    tile_step_size
        Step of the sliding window as a share of its size.
    device
        `cpu` or `cuda`.
    trainer_name
        Of the class that builds the network.

    Raises IntegrityError for weights of other names or shapes than those of the plan's network.
    """
    managers = plan.plans_manager, plan.configuration_manager
    with prints_to_log():
        networks = [_network(plan, one, trainer_name=trainer_name).to(device).eval() for one in weights]
        predictor = nnUNetPredictor(
            tile_step_size=tile_step_size,
            use_gaussian=True,
            # nnU-Net cannot mirror along no axis at all.
            use_mirroring=bool(mirror_axes),
            perform_everything_on_device=device != "cpu",
            device=torch.device(device),
            verbose=False,
            verbose_preprocessing=False,
            allow_tqdm=False,
        )
        rest = (list(weights), plan.dataset_json, trainer_name, tuple(mirror_axes))
        predictor.manual_initialization(networks[0], *managers, *rest)
    return Predictor(predictor, networks, plan=plan)


def _network(plan: Plan, weights: dict[str, torch.Tensor], *, trainer_name: str) -> torch.nn.Module:
    """Build a network with its weights; what does not fit one of nnU-Net's is found before any memory is taken."""
    of_shapes = network_of_shapes(plan, trainer_name=trainer_name)
    expected = {name: tuple(tensor.shape) for name, tensor in of_shapes.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != expected:
        name = next(name for name in {**expected, **found} if found.get(name) != expected.get(name))
        raise IntegrityError(
            f"weights {name} of shape {found.get(name, 'none')}; expected {expected.get(name, 'none')}, as the network "
            "of these plans has. The checkpoint is of other plans, or of a trainer with a network of its own"
        )
    network: torch.nn.Module = network_for_prediction(
        trainer_name, plan.plans_manager, configuration=plan.configuration, dataset_json=plan.dataset_json
    )
    network.load_state_dict(weights)
    return network
