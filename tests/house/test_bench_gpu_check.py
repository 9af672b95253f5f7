"""Claims about the check of a GPU machine, as far as they can be tested without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HIDING = """
import sys
from importlib.machinery import PathFinder
hidden = {"SimpleITK", "nibabel", "pydicom", "cc3d", "dicom2nifti", "h5py", "imagecodecs"}
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


@pytest.mark.long
def test_a_dry_run_without_readers_of_files_fills_in_every_part(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    options = ["--device", "cpu", "--preset", "smoke", "--size", "64", "--slices", "40", "--iterations", "2"]
    options += ["--cores", "1", "--shape", "20", "40", "40", "--patch", "16", "--features", "4", "--classes", "4"]
    options += ["--limit-s", "500", "--deadline-s", "800", "--output", str(tmp_path / "found.json")]
    ended = subprocess.run(
        ["bash", "bench/gpu_check.sh", "run", str(tmp_path / "none"), *options],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=850,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == json.loads(ended.stdout)
    assert "error" not in json.dumps(found)
    assert [(row["cores"], row["feed"]) for row in found["epochs"]] == [(1, "stock"), (1, "ours")]
    assert all(row["seconds"] > 0 for row in [*found["epochs"], *found["sharing"], found["first_call"]])
    assert len(found["sharing"]) == 2
    # It was killed after a checkpoint, and did the rest only.
    assert found["resumed"]["killed"]
    went_on = found["resumed"]["went_on_at_epoch"], found["resumed"]["went_on_at_iteration"]
    assert went_on > (0, 0)
    assert found["resumed"]["epochs"] == 6 - found["resumed"]["went_on_at_epoch"]
    assert found["prediction"]["labels_differ"] == 0
    assert found["prediction"]["labels"] == 20 * 40 * 40
    assert all(found["prediction"][arm]["seconds"] > 0 for arm in ("nnU-Net", "ours"))


def test_without_a_gpu_the_check_says_what_it_expected():
    ended = subprocess.run(
        [sys.executable, "-m", "bench.gpu_check"], cwd=ROOT,
        check=False, capture_output=True, text=True, timeout=800, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert ended.returncode == 1
    assert "no GPU is visible; expected one, or --device cpu" in ended.stderr


def test_the_script_says_how_it_is_called():
    ended = subprocess.run(
        ["bash", "bench/gpu_check.sh"], cwd=ROOT, check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert "bench/gpu_check.sh run WHEELS" in ended.stderr
