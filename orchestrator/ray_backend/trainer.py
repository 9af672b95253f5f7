"""Ray Train's trainer without the processes that a training here has no use for: part of the one door to Ray."""

import os
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

_UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)
"""One hands out Ray's own data sets; the other gives back what a dead controller has reserved, in a process that is
always on the head, which `leftovers.py` does for all trainings. Each takes 0.1 GiB for every training."""
_SETTINGS = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
"""It takes 0.1 GiB, too, on any node; trainings look for a drain themselves."""


class LeanTrainer(TorchTrainer):  # type: ignore[misc]
    """A TorchTrainer for a loop that brings its own data and knows when to stop."""

    def fit(self) -> Any:
        """Train; raises what Ray Train raises."""
        # The controller gets them from here.
        os.environ.update(_SETTINGS)
        return super().fit()

    def _register_sigint_handler(self, controller: object) -> None:
        """Set none: it would keep the controller alive after the training, and Ctrl-C reaches trainings otherwise."""

    def _create_default_callbacks(self) -> list[object]:
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, _UNUSED)]
