"""What a host says of itself: `python -m orchestrator.cluster.hosts.facts`, which is asked before anything starts."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.storage.filesystem import open_storage

PACKAGES = ("nnunet-orchestrator", "ray", "torch", "nnunetv2", "numpy", "numba", "pyarrow", "blosc2")
"""Whose versions must be the same: they talk to each other, or make what is compared."""
MARK = "seen-by-hosts-"
"""Begins the names of files that are written here and must be seen there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostFacts:
    """A host."""

    num_cpus: int
    num_gpus: int
    versions: Mapping[str, str]
    unseen: tuple[str, ...] = field(default=())
    """Locations in which it does not see what it must."""


def facts_here(*, mark: str = "", folders: Sequence[str] = (), data: str | None = None) -> HostFacts:
    """Return those of this machine; with a mark, which folders do not show the file of it."""
    unseen = [location for location in folders if not _sees(location, f"{MARK}{mark}")]
    if data is not None and "://" not in data and not Path(data).is_dir():
        unseen.append(data)
    return HostFacts(
        num_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        num_gpus=num_gpus_here(),
        versions={"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}},
        unseen=tuple(unseen),
    )


def installed_version(package: str) -> str:
    """Return the version of a package; a checkout may be used without having been installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def num_gpus_here() -> int:
    """Return the number of NVIDIA's GPUs: the driver's devices are there without any library."""
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the facts as JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.cluster.hosts.facts", description=__doc__)
    parser.add_argument("--mark", required=True, help="of the files that must be seen")
    parser.add_argument("--folder", action="append", default=[], help="in which one must be seen")
    parser.add_argument("--data", help="folder that must be there")
    options = parser.parse_args(arguments)
    facts = facts_here(mark=options.mark, folders=options.folder, data=options.data)
    sys.stdout.write(json.dumps(asdict(facts)) + "\n")
    return 0


def _sees(location: str, name: str) -> bool:
    try:
        return open_storage(location).exists(name)
    except OrchestratorError:
        return False


if __name__ == "__main__":
    sys.exit(main())
