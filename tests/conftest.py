"""What holds for every test, and where tests find what others share with them."""

import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import torch

MEMORY = Path("/dev/shm")
# All that the tests of one session write is 0.7 GB.
LEAST_FREE_BYTES = 2 << 30

sys.path[:0] = sorted(str(room) for room in Path(__file__).parent.iterdir() if room.is_dir())


def pytest_configure(config: pytest.Config) -> None:
    """Put temporary files of tests into memory: a run writes durably, and a slow disk takes a third of the time.

    Not those of long tests, which start hosts: each has its own memory, and they share what is on disk.
    """
    is_short = "not long" in config.option.markexpr
    if is_short and config.option.basetemp is None and _takes_temporary_files(MEMORY):
        for left in MEMORY.glob("tests-*-*"):  # by a session that was killed
            if not Path("/proc", left.name.split("-")[1]).exists():
                shutil.rmtree(left, ignore_errors=True)
        folder = tempfile.mkdtemp(prefix=f"tests-{os.getpid()}-", dir=MEMORY)
        config.option.basetemp = f"{folder}/t"
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def _takes_temporary_files(folder: Path) -> bool:
    """Return whether a folder has room for what tests write; some of that is executed, which containers may forbid."""
    if not os.access(folder, os.W_OK) or os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return False
    return shutil.disk_usage(folder).free >= LEAST_FREE_BYTES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files of few tests: they train, and would keep one process busy long after all others have ended."""
    num_of_file = Counter(item.path for item in items)
    items.sort(key=lambda item: num_of_file[item.path])


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Sums over several threads are rounded in another order, and tests compare weights bit by bit.
    torch.set_num_threads(1)
