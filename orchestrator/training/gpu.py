"""The GPU of this process: what of it may be taken, whether it works, and what it needs to compile a network."""

import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from orchestrator.errors import GpuError

CONTEXT_BYTES = 700 * 1024**2
"""Of CUDA and its libraries in each process: torch's allocator does not count it."""
_LEAST_CAPABILITY = (7, 0)
"""Compute capability for which Triton compiles."""


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


def check_torch() -> None:
    """Raise GpuError if torch finds no GPU that it can use; a GPU that it finds is not touched."""
    import torch

    if not torch.cuda.is_available():
        raise GpuError(
            f"torch {torch.__version__} finds no GPU that it can use, though Ray offers one; expected a build of "
            "PyTorch with CUDA that suits the driver. Install that, or set num_gpus: 0 in the file of a local cluster "
            "to train on CPU cores"
        )


def check_gpu() -> None:
    """Compute something on the GPU; raises GpuError if that fails."""
    import torch

    try:
        # A convolution, since that needs every library that a training needs.
        ones = torch.ones(1, 1, 3, 3, 3, device="cuda")
        torch.nn.functional.conv3d(ones, ones).item()
    except RuntimeError as error:
        raise GpuError(f"the GPU does not work: {type(error).__name__}: {error}") from error


@contextmanager
def working_gpu(*, share: float) -> Iterator[None]:
    """Context with a share of a GPU that works; raises GpuError if it does not at first, or for what broke it."""
    import torch

    check_torch()
    check_gpu()
    keep_to_share(share)
    try:
        yield
    except torch.OutOfMemoryError:
        raise  # no fault of the GPU, and no memory is left to ask it
    except RuntimeError:
        check_gpu()
        raise


def missing_for_compiling() -> str:
    """Return what this machine lacks to compile a network for its GPU; empty if it lacks nothing."""
    import torch

    if find_spec("triton") is None:
        return "the package triton"
    if torch.cuda.get_device_capability() < _LEAST_CAPABILITY:
        return "a GPU of compute capability 7.0"
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")))):
        return "a C compiler"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h (of the package python3-dev)"
    return ""
