"""What every benchmark prints beside its figures: when and on what processor they were measured, with what versions."""

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path


def conditions(*packages: str) -> str:
    """Return date, processor, cores, load, and the versions of Python and of some packages, in one line."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    versions = [f"Python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in packages)]
    return f"{today}, {processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {', '.join(versions)}"


def processor() -> str:
    """Return the name of the processor, with the numbers that tell its generation where the name does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":")[::2] for line in reversed(lines))
    first = {name.strip(): value.strip() for name, value in pairs}
    if "model name" not in first:
        return platform.machine()
    return f"{first['model name']} (family {first.get('cpu family')}, model {first.get('model')})"


def resident_gib(*, most: bool = False) -> float:
    """Return what this process has in memory, or the most that it had; of a child, getrusage tells its parent's too."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return int(status["VmHWM" if most else "VmRSS"].split()[0]) / 2**20
