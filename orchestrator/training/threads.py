"""How many threads of this process torch computes with."""


def limit_threads(num_threads: int) -> None:
    """Let torch compute with so many threads from now on; by default it takes every core of the machine."""
    import torch

    torch.set_num_threads(num_threads)
