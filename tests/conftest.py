"""What holds for every test, and where tests find what others share with them."""

import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = sorted(str(room) for room in Path(__file__).parent.iterdir() if room.is_dir())


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Sums over several threads are rounded in another order, and tests compare weights bit by bit.
    torch.set_num_threads(1)
