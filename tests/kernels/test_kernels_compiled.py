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
    "from kernels.compiled import compiled\nfrom kernels.callee import f\n\n\n@compiled\ndef g(x):\n    return f(x)\n"
)
CALLEE = "from kernels.compiled import compiled\n\n\n@compiled\ndef f(x):\n    return x + {}\n"


def test_machine_code_on_disk_is_not_used_once_a_function_that_it_calls_has_changed(tmp_path):
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(Path(kernels.__file__).with_name("compiled.py"), package)
    (package / "caller.py").write_text(CALLER)

    def results(number):
        (package / "callee.py").write_text(CALLEE.format(number))
        code = "from kernels.caller import g; print(g(1), sum(g.stats.cache_hits.values()))"
        command = [sys.executable, "-c", code]
        return subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True).stdout.split()

    assert results(1) == ["2", "0"]
    assert results(1) == ["2", "1"]
    assert results(2) == ["3", "0"]


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
