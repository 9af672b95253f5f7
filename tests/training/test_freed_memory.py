"""Claims about memory that a training on a CPU frees and uses again."""

import resource
import sys

import numpy as np
import pytest

from orchestrator.training.freed_memory import keep_freed_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is told what to keep")
def test_an_array_that_follows_another_of_its_size_needs_no_new_pages():
    assert keep_freed_memory()
    num_faults = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(1 << 21)
        num_faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    # 16 MiB are 4096 pages.
    assert max(num_faults[1:]) < 100
