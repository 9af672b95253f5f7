"""Predicts whole images with nnU-Net's sliding window, one at a time, in this process."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from orchestrator.benchmark.presets import Preset
from orchestrator.training.nnunet_environment import prints_to_log
from orchestrator.training.planning import Plan


class Predictor:
    """A model that is ready to predict."""

    def __init__(self, predictor: nnUNetPredictor) -> None:
        self._predictor = predictor

    def predict(self, image: Path, output: Path) -> None:
        """Predict one image.

        Parameters
        ----------
        image
            NIfTI image.
        output
            NIfTI file to write: the label map, uint8, in the geometry of the image.
        """
        voxels, properties = SimpleITKIO().read_images([str(image)])
        with prints_to_log():
            segmentation = self._predictor.predict_single_npy_array(voxels, properties, None, None, False)
        label_map = sitk.GetImageFromArray(np.asarray(segmentation, dtype=np.uint8))
        label_map.CopyInformation(sitk.ReadImage(str(image)))
        sitk.WriteImage(label_map, str(output), useCompression=True)


def load_predictor(state: dict[str, Any], *, plan: Plan, preset: Preset, device: str) -> Predictor:
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
    """
    plans_manager, configuration, labels = plan.plans_manager, plan.configuration_manager, plan.label_manager
    with prints_to_log():
        network = nnUNetTrainer.build_network_architecture(
            plans_manager,
            configuration,
            len(plan.dataset_json["channel_names"]),
            labels.num_segmentation_heads,
            enable_deep_supervision=False,
        )
        predictor = nnUNetPredictor(
            tile_step_size=preset.tile_step_size,
            use_gaussian=True,
            use_mirroring=preset.mirror_at_prediction,
            perform_everything_on_device=device != "cpu",
            device=torch.device(device),
            verbose=False,
            verbose_preprocessing=False,
            allow_tqdm=False,
        )
        predictor.manual_initialization(
            network.to(device),
            plans_manager,
            configuration,
            [state["network_weights"]],
            plan.dataset_json,
            state["trainer_name"],
            state["inference_allowed_mirroring_axes"],
        )
    network.eval()
    return Predictor(predictor)
