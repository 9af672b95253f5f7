"""How long machines wait in the queue of a batch system, in an imagined world."""

import math
import random

from orchestrator.cluster.node_pool import NodePool, Waiting

NINETIETH = 1.2816
"""Of the standard normal distribution."""


class Queue:
    """Draws waiting times; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        # Of its own, so that interruptions are the same with and without a queue.
        self._random = random.Random(f"queue {seed}")

    def one_s(self, pool: NodePool) -> float:
        """Return how long a machine waits that is a job of its own."""
        return self._draw_s(pool.waiting) if pool.waiting else 0.0

    def all_s(self, pool: NodePool) -> float:
        """Return how long all machines of a pool wait for each other: as long as the last one alone, at the least."""
        return max((self.one_s(pool) for _ in range(pool.max_nodes)), default=0.0)

    def _draw_s(self, waiting: Waiting) -> float:
        spread = math.log(waiting.ninetieth_s / waiting.median_s) / NINETIETH
        return waiting.median_s * self._random.lognormvariate(0, spread)
