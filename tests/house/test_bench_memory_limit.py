"""Claims about processes that may have so much memory and no more."""

import subprocess
import sys

import pytest

from bench.instruments import memory_limit
from bench.instruments.memory_limit import run_within

HUNGRY = (
    "import time; held = bytearray(300 * 2**20); held[::4096] = b'x' * len(held[::4096]); time.sleep(1); print('done')"
)


@pytest.mark.parametrize("has_groups", [True, False])
def test_what_takes_more_than_the_limit_is_killed_and_less_is_let_be(has_groups, monkeypatch):
    if not has_groups:
        monkeypatch.setattr(memory_limit, "_GROUPS", {})
    command = [sys.executable, "-c", HUNGRY]
    said, how = run_within(command, limit_bytes=2**30)
    assert said == "done\n"
    assert has_groups or how == "watched from outside"
    with pytest.raises(subprocess.CalledProcessError):
        run_within(command, limit_bytes=150 * 2**20)
    assert run_within(command, limit_bytes=None) == ("done\n", "no limit")
