"""Keeps a process to its part of the memory of a GPU that it shares with others."""

CONTEXT_BYTES = 700 * 1024**2
"""Of CUDA and its libraries in each process: torch's allocator does not count it."""


def keep_to_share(share: float) -> None:
    """Let torch take no more than a share of the GPU's memory: a process that wants more fails, and no neighbour does.

    Parameters
    ----------
    share
        Of the first GPU that this process sees; 1 or more changes nothing.
    """
    if share >= 1:
        return
    import torch

    total_bytes = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(max(0.0, share - CONTEXT_BYTES / total_bytes), 0)
