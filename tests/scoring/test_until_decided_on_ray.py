"""`run --until-decided` with trainings, on Ray: it goes on while nothing can be shown yet, and ends when it is."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

# Three patients a fold. Six, at the first look, can show nothing: of 2 ** 6 signs 2 are as extreme, 3.1 %, and each of
# two tests may take 2.5 % x 2 / 4. Nine can, at the second: 0.4 % of 2.5 % / 4. So the last fold is never trained.
STUDY = """title: A network that learns and one that does not
label_sets:
  organs:
    organ: {label: 1, tolerance_mm: 2.0}
datasets:
  ct: {nnunet: Dataset903_OrganPhantoms, channels: [CT], label_sets: [organs], folds: {number: 4}, slices: 1}
models:
  idle: {configuration: 2d, suffix: -idle, preset: {initial_learning_rate: 1.0e-9}}
  learns: {configuration: 2d}
trainings:
  organ: {train: [ct/other-folds], val: [ct/fold]}
presets:
  tiny:
    like: smoke
    num_epochs: 3
    num_iterations_per_epoch: 20
    num_val_iterations_per_epoch: 1
    cases: {train: 9, val: 3}
"""


def test_a_run_goes_on_to_the_look_that_shows_a_clear_difference_and_no_further(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    (tmp_path / "folds.yaml").write_text(f"ct: [{', '.join(f'c{n:02d}' for n in range(12))}]\n", encoding="utf-8")
    command = [sys.executable, "-m", "orchestrator", "run", "--study", str(tmp_path / "study.yaml"), "--preset", "tiny"]
    command += ["--output", str(tmp_path / "run"), "--until-decided"]
    first = subprocess.run(command, capture_output=True, text=True, check=False, timeout=850)
    assert first.returncode == 0, first.stdout + first.stderr
    summary = json.loads((tmp_path / "run" / "report" / "summary.json").read_text())
    (answer,) = summary["answers"]
    assert {one["metric"]: one["verdict"] for one in answer["differences"]} == {"dsc": "higher", "nsd": "higher"}
    looks = summary["looks"]["looks"]
    assert [(one["num_trainings"], one["num_higher"], one["num_open"]) for one in looks] == [(4, 0, 2), (6, 2, 0)]
    left_out = {f"organ{suffix}-fold3" for suffix in ("", "-idle")}
    assert set(summary["looks"]["left_out"]) == left_out
    trained = {path.parent.name for path in (tmp_path / "run" / "trainings").glob("*/checkpoint_final.ckpt")}
    assert trained == {f"organ{suffix}-fold{fold}" for suffix in ("", "-idle") for fold in range(3)}
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "look 1 at 4 trainings: 0 differences are shown to be higher, 0 lower" in page
    assert "look 2 at 6 trainings: 2 differences are shown to be higher, 0 lower" in page
