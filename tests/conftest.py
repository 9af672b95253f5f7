"""What holds for every test."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Sums over several threads are rounded in another order, and tests compare weights bit by bit.
    torch.set_num_threads(1)
