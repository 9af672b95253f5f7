"""What an attempt at a training runs with: versions of packages and the kind of its device."""

from importlib.metadata import PackageNotFoundError, version

import torch

REPORTED_VERSIONS = ("nnunet-orchestrator", "nnunetv2", "torch", "ray", "numpy", "SimpleITK", "numba")


def environment_of(device: torch.device) -> dict[str, str]:
    """Return the version of each package that may change a result, and as `device` the name of the GPU or `cpu`."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {**{name: _version(name) for name in REPORTED_VERSIONS}, "device": kind}


def _version(package: str) -> str:
    """Return the version of a package; a checkout may be used without having been installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
