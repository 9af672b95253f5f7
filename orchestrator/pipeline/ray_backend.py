"""A Ray Train backend for trainings with one worker."""

from dataclasses import dataclass
from typing import Any

from ray.train.backend import Backend
from ray.train.torch import TorchConfig


class SingleWorkerBackend(Backend):  # type: ignore[misc]
    """Starts no process group.

    Ray's torch backend starts one even for a single worker; nnU-Net then takes itself for distributed, moves to CUDA
    and divides the batch.
    """

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Leave torch as it is."""

    def on_training_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Leave torch as it is."""


@dataclass
class SingleWorkerConfig(TorchConfig):  # type: ignore[misc]
    """Torch configuration for trainings with one worker."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The backend that starts no process group."""
        return SingleWorkerBackend
