"""Claims about models that are still in their run: they read the files of their data set, as those handed out do."""

import numpy as np
import pytest
from PIL import Image

import orchestrator
from bench.instruments.stock_models import labels_of, small_plans, write_model
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.nnunet.model_folder import load_model_folder

TRAINING = "tif-2d-fold0"


def write_run(location, *, file_ending, reader):
    """A run with one finished training on single slices, which it has read as NIfTI."""
    storage = open_storage(location)
    preset = {"name": "smoke", "tile_step_size": 0.5, "mirror_at_prediction": False}
    record = {"preset": preset, "seed": 3, "data": "/home/me", "trainings": [TRAINING], "format": 1}
    write_json(storage, run_paths.RUN, record | {"study_sha256": "s" * 64})
    plans = small_plans(patch=(16, 16), spacing=(1, 1), configuration="2d") | {"continue_training": False}
    model = load_model_folder(write_model(location / "made", plans, labels=labels_of(3), mirror_axes=None))
    plan = model.plan.for_files(file_ending=file_ending, reader=reader)
    storage.write_bytes(run_paths.plan(TRAINING), plan.to_bytes())
    state = {
        "network_weights": dict(model.weights[0]),
        "inference_allowed_mirroring_axes": (),
        "trainer_name": "nnUNetTrainer",
        "origin": {"plan_sha256": plan.sha256, "train_cases": ["tif--a"]},
    }
    digest = CheckpointStore(storage, training_id=TRAINING).save_final(state)
    write_json(storage, run_paths.training_record(TRAINING), {"checkpoint_sha256": digest})
    return location


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_run_on_pictures_predicts_pictures_as_its_zip_does(tmp_path, ending):
    run = write_run(tmp_path / "run", file_ending=ending, reader="NaturalImage2DIO")
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 25), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / f"case{ending}")
    orchestrator.export_models(run, tmp_path / "zips")
    found = []
    for name, model in (("run", run), ("zip", tmp_path / "zips" / f"{TRAINING}.zip")):
        (row,) = orchestrator.predict(model, tmp_path / "images", output=tmp_path / name, device="cpu")
        assert row.status == "predicted", row.message
        found.append(np.asarray(Image.open(tmp_path / name / f"case{ending}")))
    np.testing.assert_array_equal(*found)
    assert found[0].shape == (30, 25)
    assert len(np.unique(found[0])) > 1
