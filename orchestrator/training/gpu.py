"""The GPU of this process: what of it may be taken, whether it works, and whether networks can be compiled for it."""

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


_OUT_OF_MEMORY = "out of memory"
"""What CUDA and torch say: no fault of the GPU, and none is left to ask it."""


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


def has_gpu() -> bool:
    """Whether torch finds a GPU that it can use."""
    import torch

    return bool(torch.cuda.is_available())


def check_torch() -> None:
    """Raise GpuError if torch finds no GPU that it can use; a GPU that it finds is not touched."""
    import torch

    if not torch.cuda.is_available():
        raise GpuError(
            f"torch {torch.__version__} finds no GPU that it can use, though Ray offers one; expected a build of "
            "PyTorch with CUDA that suits the driver (pip's needs NVIDIA's driver 580 or newer). Install one, or set "
            "num_gpus: 0 in the file of a local cluster to train on CPU cores"
        )


def check_gpu() -> None:
    """Compute something on the GPU; raises GpuError if that fails for another reason than memory that is taken."""
    import torch

    try:
        # A convolution, since that needs every library that a training needs.
        ones = torch.ones(1, 1, 3, 3, 3, device="cuda")
        torch.nn.functional.conv3d(ones, ones).item()
    except RuntimeError as error:
        if _OUT_OF_MEMORY in str(error):
            raise
        raise GpuError(f"the GPU does not work: {type(error).__name__}: {error}") from error


@contextmanager
def working_gpu(*, share: float) -> Iterator[None]:
    """Context with a share of a GPU that works; raises GpuError if it does not at first, or for what broke it."""
    check_torch()
    check_gpu()
    keep_to_share(share)
    try:
        yield
    except RuntimeError as error:
        if _OUT_OF_MEMORY not in str(error):
            check_gpu()
        raise


def obstacle_to_compiling() -> str:
    """Return why no network can be compiled for the GPU of this machine; empty if that can be done."""
    if find_spec("triton") is None:
        return "the package triton is missing"
    # As Triton looks for them.
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang")))):
        return "a C compiler is missing (gcc or clang)"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h is missing (of the package python3-dev)"
    return _failure_of_compiling()


def _failure_of_compiling() -> str:
    """Compile a line for the GPU and return why that fails: a driver's library or a folder that cannot be used, ..."""
    import torch

    try:
        torch.compile(lambda numbers: numbers.sin() + 1)(torch.ones(8, device="cuda")).sum().item()
    except Exception as error:
        return f"PyTorch cannot compile ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
    return ""
