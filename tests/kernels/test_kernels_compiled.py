"""Claims about how kernels are compiled."""

import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import kernels
from kernels.compiled import compiled_in_place

CALLER = (
    "from kernels.compiled import compiled\nfrom kernels.room.callee import f\n\n\n"
    "@compiled\ndef g(x):\n    return f(x)\n"
)
CALLEE = "from kernels.compiled import compiled\n\n\n@compiled\ndef f(x):\n    return x + {}\n"


@pytest.fixture
def package(tmp_path):
    """A package whose kernels are compiled as ours are; one calls another, in a folder of its own."""
    (tmp_path / "kernels" / "room").mkdir(parents=True)
    for folder in ("kernels", "kernels/room"):
        (tmp_path / folder / "__init__.py").touch()
    shutil.copy(Path(kernels.__file__).with_name("compiled.py"), tmp_path / "kernels")
    (tmp_path / "kernels" / "caller.py").write_text(CALLER)
    (tmp_path / "kernels" / "room" / "callee.py").write_text(CALLEE.format(1))
    return tmp_path


def printed(code, package):
    return subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=package, capture_output=True, text=True
    ).stdout.split()


def test_machine_code_on_disk_is_not_used_once_a_function_that_it_calls_has_changed(package):
    def results(number):
        (package / "kernels" / "room" / "callee.py").write_text(CALLEE.format(number))
        return printed("from kernels.caller import g; print(g(1), sum(g.stats.cache_hits.values()))", package)

    assert results(1) == ["2", "0"]
    assert results(1) == ["2", "1"]
    assert results(2) == ["3", "0"]
    assert len([*package.rglob("*.nbc")]) == 2  # what is of no use any more is gone


RECORD = "from typing import NamedTuple\n\n\nclass Pair(NamedTuple):\n    one: int\n    other: int\n"
OF_RECORD = (
    "from kernels.compiled import compiled\nfrom kernels.room.{} import Pair\n\n\n"
    "@compiled\ndef added(pair):\n    return pair.one + pair.other\n"
)


def test_machine_code_on_disk_for_a_record_that_has_moved_is_made_anew(package):
    for name in ("before", "after"):
        for old in (package / "kernels" / "room").glob("[ab]*.py"):
            old.unlink()
        (package / "kernels" / "room" / f"{name}.py").write_text(RECORD)
        (package / "kernels" / "adder.py").write_text(OF_RECORD.format(name))
        call = "from kernels.adder import Pair, added; print(added(Pair(1, 2)), sum(added.stats.cache_hits.values()))"
        assert printed(call, package) == ["3", "0"]
        assert printed(call, package) == ["3", "1"]


# As two processes that find nothing on the disk at the same moment: the first to name a file is the last to write it.
AT_ONCE = """
from kernels import compiled
from kernels.caller import g
Files, found, written = compiled.IndexDataCacheFile, {}, []
load, save = Files._load_index, Files._save_data
Files._load_index = lambda self: dict(found.setdefault(self._index_name, load(self)))
Files._save_data = lambda self, *of_file: written.append((self, of_file))
print(g(1), g(0.5))
for self, of_file in reversed(written):
    save(self, *of_file)
"""


def test_what_is_compiled_for_two_types_at_the_same_moment_is_not_mistaken_for_each_other(package):
    assert printed(AT_ONCE, package) == ["2", "1.5"]
    assert printed("from kernels.caller import g; print(g(0.5), g(1))", package) == ["1.5", "2"]
    assert printed("from kernels.caller import g; print(g(0.5), g(1))", package) == ["1.5", "2"]


def test_where_no_folder_can_be_written_to_kernels_work_and_a_warning_says_what_it_costs():
    """As for a user without a home in a read-only container."""
    code = (
        "from numba.core.caching import FunctionCache\n"
        "FunctionCache._impl_class._locator_classes = []\n"
        "from kernels import score_masks\n"
        "import numpy as np\n"
        "mask = np.ones((4, 4, 4), np.uint8)\n"
        "print(score_masks(mask, mask, spacing_mm=(1, 1, 1), tolerances_mm={1: 1.0})[0].nsd)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=Path(kernels.__file__).parents[1]
    )
    assert ended.stdout == "1.0\n", ended.stderr
    assert ended.stderr.count("Set NUMBA_CACHE_DIR") == 1


def test_a_function_that_works_in_place_cannot_make_an_array():
    def doubled(values):
        return np.empty(values.size)

    with pytest.raises(numba.core.errors.NumbaError, match="Only accept returning of array"):
        compiled_in_place(doubled)(np.zeros(2))
