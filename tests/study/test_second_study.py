"""The second study that comes along, end to end: two MRI channels, regions, folds by patient, two networks."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK

import orchestrator
from kernels import score_masks
from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import find_preset
from orchestrator.shipped import shipped_file
from orchestrator.storage import run_paths

STUDY = shipped_file("splits", "brain_mri", "study.yaml")
TINY = """
metrics: [hd95-voxel]
presets:
  tiny: {like: smoke, num_epochs: 2, num_iterations_per_epoch: 5, num_val_iterations_per_epoch: 1, cases: {train: 3}}
"""
TRAININGS = ("tumour-fold0", "tumour-resenc-fold0")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Return the study file with a preset that trains for seconds."""
    folder = tmp_path_factory.mktemp("study") / "brain_mri"
    shutil.copytree(STUDY.parent, folder)
    path = folder / "study.yaml"
    path.write_text(path.read_text(encoding="utf-8") + TINY, encoding="utf-8")
    return path


def test_both_scans_of_a_patient_are_in_one_fold_and_no_patient_leaks():
    study = load_study(STUDY)
    trainings = study.trainings(preset=find_preset("paper"))
    assert [training.id for training in trainings] == [f"tumour{s}-fold{f}" for s in ("", "-resenc") for f in range(3)]
    assert study.patient_leaks(trainings) == ()
    for training in trainings:
        patients = [{case.name[:3] for case in cases} for cases in (training.train, training.val)]
        assert not patients[0] & patients[1]
        assert len(patients[0] | patients[1]) == 9


def hd95_of_voxels(output: Path, score: pd.Series) -> float:
    """Return the distance of a region from the files of a run."""
    case = Case(dataset=score["dataset"], name=score["case"])
    keys = run_paths.case_labels(case, label_set="tumour"), run_paths.prediction(score["training_id"], case)
    images = [SimpleITK.ReadImage(str(output / key)) for key in keys]
    values = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}[score["structure"]]
    masks = [np.isin(SimpleITK.GetArrayFromImage(image), values).astype(np.uint8) for image in images]
    spacing_mm = images[0].GetSpacing()[::-1]
    found = score_masks(*masks, tolerances_mm={1: 1.0}, spacing_mm=spacing_mm, metrics=("hd95-voxel",))
    return found[0].hd95_voxel_mm


@pytest.mark.timeout(900)
def test_it_runs_from_phantoms_to_a_table_of_both_networks(study, tmp_path):
    command = [sys.executable, "-m", "orchestrator", "run", "--study", str(study), "--preset", "tiny"]
    command += ["--output", str(tmp_path), *(word for name in TRAININGS for word in ("--only", name))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = orchestrator.open_results(tmp_path).to_pandas()
    assert len(scores) == 2 * 2 * 3
    assert set(scores["model"]) == {"unet", "resenc"}
    assert set(scores["structure"]) == {"whole", "core", "enhancing"}
    whole, core = (scores[scores["structure"] == name]["reference_ml"].to_numpy() for name in ("whole", "core"))
    assert (whole > core).all()
    table = (tmp_path / "tables" / "models.md").read_text(encoding="utf-8")
    assert table.startswith("# Two networks on the same folds")
    further = "HD95, voxels (mm)"
    assert f"| cases | unet DSC | unet NSD | unet {further} | resenc DSC | resenc NSD | resenc {further} |" in table
    score = scores[(scores["model"] == "unet") & scores["hd95_voxel_mm"].notna()].iloc[0]
    assert score["hd95_voxel_mm"] == hd95_of_voxels(tmp_path, score)
    assert sorted(path.name for path in (tmp_path / "cases" / "brain" / "p01_1").glob("image*.nii.gz")) == [
        "image-1.nii.gz",
        "image.nii.gz",
    ]
