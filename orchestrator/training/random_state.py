"""The three random generators that nnU-Net draws from, all of them global."""

import random

import numpy as np
import torch

from orchestrator.training.plain_state import State


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators; `seed` has at most 32 bits."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net draws from the global generator
    torch.manual_seed(seed)


def random_state(*, cuda: bool) -> State:
    """Return the state of every generator, with those of all GPUs if `cuda`."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - as above
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda else [],
    }


def restore_random_state(state: State, *, cuda: bool) -> None:
    """Set every generator to a state that `random_state` returned; with `cuda` those of the GPUs, as far as it has.

    Raises what the generators raise for other states, and ValueError for a place outside of numpy's numbers, where
    numpy itself would go on reading.
    """
    name, numbers, position, *gauss = state["numpy"]
    if not 0 <= position <= len(numbers):
        raise ValueError(f"the state of numpy's generator is at number {position} of {len(numbers)}")
    random.setstate(state["python"])
    np.random.set_state((name, numbers, position, *gauss))  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"])
    if cuda:
        for index, gpu_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(gpu_state, index)
