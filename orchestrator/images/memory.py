"""How much memory can be had, as the machine and the control groups around a process say."""

from collections.abc import Iterator
from pathlib import Path

_MEMORY = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """Return the memory that can be had without swapping; None if nothing says.

    It is what the machine has left, or the control groups around this process, which are how containers, Slurm and
    systemd limit memory.
    """
    found = list(_left_in_groups())
    if _MEMORY.is_file():
        lines = _MEMORY.read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    return min(found, default=None)


def _left_in_groups() -> Iterator[int]:
    """Yield what each control group around this process has left, from its own one up; version 1 and 2."""
    if not _OWN_GROUPS.is_file():
        return
    for line in _OWN_GROUPS.read_text().splitlines():
        _, controllers, path = line.split(":", maxsplit=2)
        if "memory" in controllers.split(","):
            top, limit, taken, of_files = _GROUPS / "memory", "limit_in_bytes", "usage_in_bytes", "total_"
        elif not controllers:
            top, limit, taken, of_files = _GROUPS, "max", "current", ""
        else:
            continue
        own = top / path.lstrip("/")
        # In a container the path may be that of the host, of which only the top is there.
        for group in (own, *own.parents):
            if group.is_relative_to(top) and (left := _left_in(group, limit, taken, of_files)) is not None:
                yield left


def _left_in(group: Path, limit: str, taken: str, of_files: str) -> int | None:
    """Return what a control group has left, pages of files included, which the system drops; None without a limit."""
    try:
        most, now = (int((group / f"memory.{name}").read_text()) for name in (limit, taken))
        kept = dict(line.split(maxsplit=1) for line in (group / "memory.stat").read_text().splitlines())
        droppable = sum(int(kept[f"{of_files}{name}_file"]) for name in ("active", "inactive"))
    except (OSError, ValueError, KeyError):  # no such group, or "max"
        return None
    return max(0, most - now + droppable)
