"""Whole validation cases, predicted as they were preprocessed and scored, while a training runs."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

from orchestrator.training.nnunet.environment import prints_to_log
from orchestrator.training.nnunet.trainers.structures import Scores, Structures, score_case

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

MOST_BYTES = 4 * 2**30
"""Of what the network says of a case: those that need more are not looked at."""
STEP = 0.5
"""Of the windows, as a share of them."""


class Volumes:
    """Validation cases of a trainer of nnU-Net's."""

    def __init__(self, trainer: "nnUNetTrainer", structures: Structures, *, identifiers: Sequence[str]) -> None:
        self._trainer = trainer
        self._structures = structures
        folder = trainer.preprocessed_dataset_folder
        self._dataset = trainer.dataset_class(folder, list(identifiers))

    @cached_property
    def in_order(self) -> tuple[str, ...]:
        """Cases to look at, in an order that has nothing to do with their names."""
        heads = self._trainer.label_manager.num_segmentation_heads
        fitting = [name for name in self._dataset.identifiers if 4 * heads * np.prod(self._shape(name)) <= MOST_BYTES]
        return tuple(sorted(fitting, key=lambda name: hashlib.sha256(name.encode()).digest()))

    def expected_s(self, patch_s: float) -> float:
        """Return what the first case will take where a patch takes so long."""
        return self._num_windows(self.in_order[0]) * patch_s if self.in_order else 0.0

    def score(self, identifier: str) -> Scores:
        """Predict a case without mirroring, and score it."""
        data, seg, _, _ = self._dataset.load_case(identifier)
        output = self._predict(torch.from_numpy(np.asarray(data[:], np.float32)))
        return score_case(np.asarray(seg[:])[0], output, self._structures)

    def _predict(self, image: torch.Tensor) -> torch.Tensor:
        trainer = self._trainer
        network = getattr(trainer.network, "_orig_mod", trainer.network)
        with prints_to_log():
            predictor = nnUNetPredictor(
                tile_step_size=STEP, use_mirroring=False, device=trainer.device, allow_tqdm=False
            )
        predictor.manual_initialization(
            *(network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json),
            *(type(trainer).__name__, None),
        )
        trainer.set_deep_supervision_enabled(False)
        try:
            output: torch.Tensor = predictor.predict_sliding_window_return_logits(image)
        finally:
            trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
            network.train()
        return output

    def _shape(self, identifier: str) -> tuple[int, ...]:
        data, *_ = self._dataset.load_case(identifier)
        return tuple(data.shape[1:])

    def _num_windows(self, identifier: str) -> int:
        patch = tuple(self._trainer.configuration_manager.patch_size)
        shape = self._shape(identifier)
        size = tuple(max(extent, least) for extent, least in zip(shape[-len(patch) :], patch, strict=True))
        steps = compute_steps_for_sliding_window(size, patch, STEP)
        slices = 1 if len(patch) == 3 else shape[0]
        return int(np.prod([len(along) for along in steps])) * slices
