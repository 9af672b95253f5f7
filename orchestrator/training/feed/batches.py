"""The batches of one loader, counted: where a training goes on is a number of batches taken."""

import time
from collections.abc import Iterator

from orchestrator.training.feed.loader import BatchLoader


class CountedBatches:
    """Takes batches from a loader one after the other, and adds up how long each took to come."""

    def __init__(self, loader: Iterator[dict[str, object]]) -> None:
        self._loader = loader
        self._position = 0
        self.waited_s = 0.0
        """Seconds spent waiting since this was last set."""

    @property
    def position(self) -> int:
        """Batches taken since the training began, over all attempts: the next batch has this index.

        Our loader goes on there when this is set. nnU-Net's draws from the random state instead, which the checkpoint
        has as well.
        """
        return self._position

    @position.setter
    def position(self, index: int) -> None:
        self._position = index
        if isinstance(self._loader, BatchLoader):
            self._loader.position = index

    def __iter__(self) -> "CountedBatches":
        return self

    def __next__(self) -> dict[str, object]:
        started_s = time.perf_counter()
        batch = next(self._loader)
        self.waited_s += time.perf_counter() - started_s
        self._position += 1
        return batch
