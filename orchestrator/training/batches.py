"""The batches of one loader, counted: where a training goes on is a number of batches taken."""

import time
from collections.abc import Iterator
from typing import Any


class CountedBatches:
    """Takes batches from a loader one after the other, and adds up how long each took to come."""

    def __init__(self, loader: Iterator[dict[str, Any]]) -> None:
        self._loader = loader
        self.position = 0
        """Batches taken since the training began, over all attempts: the next batch has this index."""
        self.waited_s = 0.0
        """Seconds spent waiting since this was last set."""

    def __iter__(self) -> "CountedBatches":
        return self

    def __next__(self) -> dict[str, Any]:
        started_s = time.perf_counter()
        batch = next(self._loader)
        self.waited_s += time.perf_counter() - started_s
        self.position += 1
        return batch
