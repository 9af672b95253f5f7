"""nnU-Net's trainer as one of several workers that fit one model together, or as the only one.

Batch, loss and gradients are divided and brought together as nnU-Net's own `-num_gpus` does: each worker has a part of
every batch, gradients are averaged over the workers, the Dice of a loss over the batch is that of all parts, and what
is logged of an epoch is gathered. What differs: a network need not be on a GPU, a worker sees no GPU but its own, and
our loaders draw, together, the very samples of the batch that a single worker would have.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.nn.parallel import DistributedDataParallel

from orchestrator.training.workers import ALONE, Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class PartOfBatch:
    """What a worker makes of each batch."""

    batch_size: int
    """Of the whole batch."""
    own: range
    """Numbers of the samples of this worker."""
    oversample_foreground: float
    """Of the whole batch."""


class DividedTrainer(nnUNetTrainer):  # type: ignore[misc]
    """Mixin that divides each batch among workers: before nnU-Net's trainer, or another one, among the parents."""

    network: torch.nn.Module  # of nnU-Net's trainer, which has no types
    _worker = ALONE
    oversampling_of_all: float | None = None
    """Share of the samples of whole batches, not only of the part of this worker, that hold foreground."""

    def join(self, worker: Worker) -> None:
        """Be one of several workers; to be called before anything is built, and before these are together.

        nnU-Net's constructor would choose the GPU by the number of the worker, also where there is none.
        """
        self._worker = worker
        self.local_rank = worker.rank

    def initialize(self) -> None:
        """Build what nnU-Net builds; `_divide` is left to be called."""
        self.is_ddp = False
        super().initialize()

    @contextmanager
    def _divided(self) -> Iterator[None]:
        """Context in which nnU-Net takes this for one of several workers, if it is."""
        self.is_ddp = self._worker.number > 1
        try:
            yield
        finally:
            self.is_ddp = False

    def _set_batch_size_and_oversample(self) -> None:
        self.oversampling_of_all = self.oversample_foreground_percent
        with self._divided():
            super()._set_batch_size_and_oversample()

    def oversample(self, share: float) -> None:
        """Let this share of the samples hold foreground; loaders that are there already do not know of it."""
        self.oversample_foreground_percent = share
        self._set_batch_size_and_oversample()

    def _build_loss(self) -> torch.nn.Module:
        with self._divided():
            loss: torch.nn.Module = super()._build_loss()
        return loss

    def _divide(self) -> None:
        """Average the gradients over the workers from now on; to be called when the network is as it will be."""
        if self._worker.number == 1:
            return
        if self.device.type == "cuda":
            # There is none for CPUs, where a batch norm is of the samples of its worker.
            self.network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
        # Where an axis has one voxel its stride can be any: with the channels last it is not the usual one.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        self.network = DistributedDataParallel(self.network)
        self.is_ddp = True

    def part_of_batch(self) -> PartOfBatch:
        """Return what this worker makes of each batch, once everything is built."""
        sizes = self._worker.all_gather(int(self.batch_size))
        first = sum(sizes[: self._worker.rank])
        oversampling = self.oversampling_of_all
        return PartOfBatch(
            batch_size=sum(sizes),
            own=range(first, first + self.batch_size),
            oversample_foreground=self.oversample_foreground_percent if oversampling is None else oversampling,
        )

    def plain_network(self) -> torch.nn.Module:
        """Return the network itself, out of what divides and compiles it."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        itself: torch.nn.Module = getattr(network, "_orig_mod", network)
        return itself
