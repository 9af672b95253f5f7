"""Whole validation cases, predicted as they were preprocessed and scored, while a training runs."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

from orchestrator.training.nnunet.environment import prints_to_log
from orchestrator.training.nnunet.trainers.learning_curve import CurvePoint, CurveSettings, LearningCurve
from orchestrator.training.nnunet.trainers.structures import Scores, Structures, score_case

if TYPE_CHECKING:
    from orchestrator.training.nnunet.trainers.divided_trainer import DividedTrainer

MOST_BYTES = 4 * 2**30
"""Of what the network says of a case: those that need more are not looked at."""
STEP = 0.5
"""Of the windows, as a share of them."""


class Volumes:
    """Validation cases of a training."""

    def __init__(self, trainer: "DividedTrainer", structures: Structures, *, identifiers: Sequence[str]) -> None:
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
        network = trainer.plain_network()
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


class WholeCases:
    """The learning curve of whole validation cases of a training."""

    def __init__(
        self,
        trainer: "DividedTrainer",
        structures: Structures,
        *,
        identifiers: Sequence[str],
        names: Sequence[str],
        settings: CurveSettings,
        clock: Callable[[], float],
    ) -> None:
        """Prepare.

        Parameters
        ----------
        trainer
            Which has been initialised.
        structures
            What is scored.
        identifiers
            Of the validation cases.
        names
            Of the structures.
        settings
            How often, and at what cost.
        clock
            Gives monotonic seconds.
        """
        self._volumes = Volumes(trainer, structures, identifiers=identifiers)
        self._settings = settings
        self.curve = LearningCurve(
            settings, cases=self._volumes.in_order, structures=names, score=self._volumes.score, clock=clock
        )
        """What a checkpoint keeps the state of."""

    def look(
        self, num_epochs: int, *, elapsed_s: float, patch_s: float, log: Callable[[str], None]
    ) -> CurvePoint | None:
        """Score the cases where that is due and there is time for it, and say so.

        Parameters
        ----------
        num_epochs
            That are done.
        elapsed_s
            That these have taken, looks left out.
        patch_s
            That a patch takes in validation.
        log
            Called with a line.
        """
        if not self.curve.is_due(num_epochs):
            return None
        look = self.curve.look(num_epochs, elapsed_s=elapsed_s, expected_case_s=self._volumes.expected_s(patch_s))
        if look is None:
            log(f"Whole cases: not looked at; that would take more than {self._settings.share:.0%}")
            return None
        num_cases = len({row.case for row in look.rows})
        log(
            f"Whole cases: DSC {look.mean_dsc:.4f}, NSD {look.mean_nsd:.4f} of {num_cases} validation cases, "
            f"{look.elapsed_s:.1f} s"
        )
        return look
