"""What an attempt at a training runs with: versions of packages, the kind of its device, the number of its workers."""

import torch

from orchestrator.cluster.hosts.facts import installed_version

REPORTED_VERSIONS = ("nnunet-orchestrator", "nnunetv2", "torch", "ray", "numpy", "SimpleITK", "numba")


def environment_of(device: torch.device, *, num_workers: int) -> dict[str, str]:
    """Return what may change a result.

    Parameters
    ----------
    device
        Where the network is.
    num_workers
        That fit it together.

    Returns
    -------
    dict
        The version of each package, as `device` the name of the GPU or `cpu`, and as `workers` their number.
    """
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        **{name: installed_version(name) for name in REPORTED_VERSIONS},
        "device": kind,
        "workers": str(num_workers),
    }
