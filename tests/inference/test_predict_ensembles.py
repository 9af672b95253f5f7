"""Claims about models that predict together: labels and probabilities are those of nnU-Net's own ensembles."""

import json
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

import orchestrator
from bench.instruments.stock_models import REGIONS, labels_of, small_plans, write_image, write_model
from kernels import score_masks
from orchestrator.benchmark.definition import Structure
from orchestrator.cli.predict import main
from orchestrator.errors import ConfigError
from orchestrator.inference.ensembles import load_models, model_sources
from orchestrator.inference.models import ModelSource, opened
from orchestrator.inference.options import PredictOptions
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json
from orchestrator.training.nnunet.ensembles.compared_prediction import ComparedModels
from orchestrator.training.nnunet.model_folder import load_model_folder


@pytest.fixture(autouse=True)
def _export_by_one_thread(monkeypatch):
    """Where threads meet, nnU-Net's own probabilities differ in the last bit: it exports with eight of them."""
    exported = partial(predict_from_raw_data.export_prediction_from_logits, num_threads_torch=1)
    monkeypatch.setattr(predict_from_raw_data, "export_prediction_from_logits", exported)


ANOTHER = {
    "other spacing": {"spacing": (3.0, 1.0, 1.25), "patch": (4, 24, 24)},
    "other axes": {"transpose": (2, 0, 1)},
    "slices alone": {"patch": (16, 16), "spacing": (1.5, 1.5), "configuration": "2d"},
    "resampled by torch": {
        "resampling_fn_probabilities": "resample_torch_fornnunet",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "force_separate_z": False},
    },
}


def stock_probabilities(model, files, folder):
    """Let nnU-Net predict, and keep its probabilities."""
    folder.mkdir()
    predictor = nnUNetPredictor(0.5, True, True, False, torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), None)
    files = [[str(file) for file in files]]
    predictor.predict_from_files_sequential(files, [str(folder / "case")], save_probabilities=True)
    return folder / "case.npz"


def merged(models, files, tmp_path):
    """Return the label map of nnU-Net's `ensemble_folders`, of a single case in this process."""
    saved = [str(stock_probabilities(model, files, tmp_path / f"stock-{n}")) for n, model in enumerate(models)]
    plan = load_model_folder(models[0]).plan
    reader = plan.plans_manager.image_reader_writer_class()
    merge_files(saved, str(tmp_path / "merged"), ".nii.gz", reader, plan.label_manager, True)
    return sitk.ReadImage(str(tmp_path / "merged.nii.gz")), np.load(tmp_path / "merged.npz")["probabilities"]


def write_models(tmp_path, *changes, labels=None, order=None, folds=("0",)):
    return [
        write_model(
            tmp_path / f"model-{number}",
            small_plans(**change),
            labels=labels or labels_of(6),
            order=order,
            folds=folds,
            mirror_axes=tuple(range(len(change.get("patch", (0, 0, 0))))),
        )
        for number, change in enumerate(changes)
    ]


@pytest.mark.parametrize("another", ANOTHER)
@pytest.mark.parametrize("border", [0, 4], ids=["whole", "zeros around"])
def test_labels_and_probabilities_of_an_ensemble_are_those_of_nnunet(tmp_path, another, border):
    models = write_models(tmp_path, {}, ANOTHER[another])
    files = write_image(tmp_path / "case", shape=(13, 30, 27), border=border)
    expected, probabilities = merged(models, files, tmp_path)
    (row,) = orchestrator.predict(models, files[0], output=tmp_path / "out", device="cpu", save_probabilities=True)
    assert row.status == "predicted", row.message
    found = sitk.ReadImage(str(tmp_path / "out" / "case.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    # nnU-Net writes what it has added up; in place of a sum of two, the mean.
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "case.npz")["probabilities"], probabilities)


def test_regions_and_folds_and_three_models(tmp_path):
    models = write_models(tmp_path, {}, ANOTHER["other spacing"], ANOTHER["slices alone"], labels=REGIONS,
                          order=(1, 2, 3), folds=("0", "1"))  # fmt: skip
    files = write_image(tmp_path / "case", shape=(13, 30, 27))
    expected, _ = merged(models, files, tmp_path)
    orchestrator.predict(models, files[0], output=tmp_path / "out", device="cpu")
    found = sitk.ReadImage(str(tmp_path / "out" / "case.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))


@pytest.mark.parametrize("labels", [labels_of(4), REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("change", [{}, ANOTHER["other axes"]], ids=["axes of the file", "other axes"])
def test_saved_probabilities_are_those_of_nnunet_and_it_can_merge_them(tmp_path, labels, change):
    order = (1, 2, 3) if labels is REGIONS else None
    (model,) = write_models(tmp_path, change, labels=labels, order=order)
    files = write_image(tmp_path / "case", shape=(13, 30, 27), border=3)
    expected = stock_probabilities(model, files, tmp_path / "stock")
    orchestrator.predict(model, files[0], output=tmp_path / "out", device="cpu", save_probabilities=True)
    ours, stock = (np.load(file)["probabilities"] for file in (tmp_path / "out" / "case.npz", expected))
    assert ours.dtype == stock.dtype == np.float32
    np.testing.assert_array_equal(ours, stock)
    plan = load_model_folder(model).plan
    reader = plan.plans_manager.image_reader_writer_class()
    file = str(tmp_path / "out" / "case.npz")
    merge_files([file, file], str(tmp_path / "merged"), ".nii.gz", reader, plan.label_manager)
    labels = [sitk.ReadImage(str(path)) for path in (tmp_path / "merged.nii.gz", tmp_path / "out" / "case.nii.gz")]
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, labels))


def test_a_file_names_the_models_and_the_output_is_theirs(tmp_path, capsys):
    models = write_models(tmp_path, {}, ANOTHER["other spacing"], folds=("0", "1"))
    files = write_image(tmp_path / "case", shape=(9, 20, 18))
    named = [{"model": str(models[0].relative_to(tmp_path)), "folds": [1]}, {"model": str(models[1])}]
    (tmp_path / "both.yaml").write_text(json.dumps({"models": named}))
    arguments = [str(files[0]), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--model", str(tmp_path / "both.yaml")]) == 0
    record = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert record["folds"] == [["1"], ["0", "1"]]
    assert main([*arguments, "--model", str(models[0])]) == 2
    assert "has predictions with another model_sha256, folds" in capsys.readouterr().err
    assert main([*arguments, "--model", str(models[0]), "--model", str(models[1]), "--fold", "0"]) == 2
    assert "2 models, and folds of one of them" in " ".join(capsys.readouterr().err.split())


def test_models_that_mean_other_things_are_not_averaged(tmp_path):
    models = write_models(tmp_path, {})
    other = write_model(tmp_path / "other", small_plans(), labels=labels_of(5))
    files = write_image(tmp_path / "case", shape=(9, 20, 18))
    with pytest.raises(ConfigError, match=r"labels .* expected .* to be averaged with it"):
        orchestrator.predict([*models, other], files[0], output=tmp_path / "out")


@pytest.mark.parametrize("reader", ["SimpleITKIOWithReorient", "NibabelIOWithReorient"])
def test_models_that_see_axes_in_another_order_are_not_averaged(tmp_path, reader):
    models = write_models(tmp_path, {}, {"reader": reader}, {"reader": reader})
    files = write_image(tmp_path / "case", shape=(9, 20, 18))
    with pytest.raises(ConfigError, match="order of axes RAS; expected as in the file"):
        orchestrator.predict(models[:2], files[0], output=tmp_path / "out")
    (row,) = orchestrator.predict(models[1:], files[0], output=tmp_path / "out", device="cpu")
    assert row.status == "predicted"


def test_an_image_that_only_the_first_reader_reads_is_brought_to_all(tmp_path):
    models = write_models(tmp_path, {}, {"reader": "NibabelIO"})
    (file,) = write_image(tmp_path / "case", shape=(9, 20, 18))
    (tmp_path / "meta").mkdir()
    sitk.WriteImage(sitk.ReadImage(str(file)), str(tmp_path / "meta" / "case_0000.mha"))
    expected, found = (
        orchestrator.predict(models, source, output=tmp_path / output, device="cpu")
        for source, output in ((file, "of-nifti"), (tmp_path / "meta", "of-meta"))
    )
    assert [row.status for row in found] == ["predicted"]
    assert found[0].volumes_ml == expected[0].volumes_ml


def test_models_that_read_no_files_alike_are_not_averaged(tmp_path):
    models = write_models(tmp_path, {}, {"reader": "Tiff3DIO"})
    files = write_image(tmp_path / "case", shape=(9, 20, 18))
    with pytest.raises(ConfigError, match=r": \.tif, \.tiff\); expected some of one ending"):
        orchestrator.predict(models, files[0], output=tmp_path / "out", device="cpu")


def test_structures_that_are_asked_for_are_kept_and_the_others_are_background(tmp_path):
    (model,) = write_models(tmp_path, {})
    files = write_image(tmp_path / "case", shape=(9, 20, 18))
    orchestrator.predict(model, files[0], output=tmp_path / "all", device="cpu")
    (row,) = orchestrator.predict(
        model, files[0], output=tmp_path / "some", device="cpu", structures=["structure 1", "structure 3"]
    )
    every, some = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / "case.nii.gz"))) for name in ("all", "some")
    )
    np.testing.assert_array_equal(some, np.where(np.isin(every, (1, 3)), every, 0))
    assert list(row.volumes_ml) == ["structure 1", "structure 3"]
    with pytest.raises(ConfigError, match="no structure liver; expected some of structure 1"):
        orchestrator.predict(model, files[0], output=tmp_path / "none", structures=["liver"])


@pytest.mark.parametrize("kind", ["labels", "regions", "ignored label"])
def test_models_are_compared_by_the_labels_that_their_averages_give(tmp_path, kind):
    labels, order = (REGIONS, (1, 2, 3)) if kind == "regions" else (labels_of(4), None)
    models = write_models(tmp_path, {}, ANOTHER["other axes"], ANOTHER["slices alone"], labels=labels, order=order)
    files = write_image(tmp_path / "case", shape=(13, 30, 27), border=3)
    image = sitk.ReadImage(str(files[0]))
    truth = np.random.default_rng(0).integers(0, 5 if kind == "ignored label" else 4, (13, 30, 27), dtype=np.uint8)
    reference = sitk.GetImageFromArray(truth)
    reference.CopyInformation(image)
    sitk.WriteImage(reference, str(tmp_path / "truth.nii.gz"))
    structures = [(1, 2, 3), (2, 3), (3,)] if kind == "regions" else [(1,), (2,), (3,)]
    combinations = [(0,), (2,), (0, 1), (2, 0), (0, 1, 2)]
    loaded = load_models(model_sources(list(map(str, models))), PredictOptions(device="cpu"))
    compared = ComparedModels(
        loaded.ensemble._predictors,
        combinations=combinations,
        structures=[
            Structure(name=f"s{label[0]}", label=label[0], region=label if kind == "regions" else (), tolerance_mm=2.0)
            for label in structures
        ],
        ignored_label=4 if kind == "ignored label" else None,
    )
    found, of_surfaces = (
        compared.compare(files, tmp_path / "truth.nii.gz", by=metric).scores for metric in ("dsc", "nsd")
    )
    counted = truth != 4
    for number, combination in enumerate(combinations):
        chosen = [models[one] for one in combination]
        output = tmp_path / f"out-{number}"
        # One alone is asked for its probabilities, whose rounding may make equals of two classes.
        orchestrator.predict(chosen, files[0], output=output, device="cpu", save_probabilities=True)
        labelled = sitk.GetArrayFromImage(sitk.ReadImage(str(output / "case.nii.gz")))
        expected, surfaces = [], []
        for structure in structures:
            a, b = np.isin(truth, structure) & counted, np.isin(labelled, structure) & counted
            expected.append(2 * (a & b).sum() / (a.sum() + b.sum()))
            spacing_mm = image.GetSpacing()[::-1]
            (score,) = score_masks(
                a.astype(np.uint8), b.astype(np.uint8), spacing_mm=spacing_mm, tolerances_mm={1: 2.0}
            )
            surfaces.append(score.nsd)
        np.testing.assert_allclose(of_surfaces[number], surfaces, rtol=1e-12)
        np.testing.assert_allclose(found[number], expected, rtol=1e-15)


def test_a_structure_that_neither_map_has_counts_nowhere(tmp_path):
    (model,) = write_models(tmp_path, {})
    files = write_image(tmp_path / "case", shape=(9, 20, 18))
    image = sitk.ReadImage(str(files[0]))
    empty = sitk.Image(image.GetSize(), sitk.sitkUInt8)
    empty.CopyInformation(image)
    sitk.WriteImage(empty, str(tmp_path / "truth.nii.gz"))
    loaded = load_models(model_sources([str(model)]), PredictOptions(device="cpu"))
    structures = [Structure(name=f"s{label}", label=label, tolerance_mm=1.0) for label in range(1, 6)]
    compared = ComparedModels(
        loaded.ensemble._predictors, combinations=[(0,)], structures=structures, ignored_label=None
    )
    (found,) = compared.compare(files, tmp_path / "truth.nii.gz", by="dsc").scores
    (of_surfaces,) = compared.compare(files, tmp_path / "truth.nii.gz", by="nsd").scores
    orchestrator.predict(model, files[0], output=tmp_path / "out", device="cpu", save_probabilities=True)
    predicted = set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "case.nii.gz")))))
    assert {1, 2, 3, 4, 5} - predicted
    assert {1, 2, 3, 4, 5} & predicted
    expected = [0.0 if label in predicted else np.nan for label in range(1, 6)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(of_surfaces, expected)


def test_the_models_that_a_run_has_are_named_with_its_ensembles(tmp_path):
    storage = open_storage(tmp_path)
    write_json(storage, run_paths.RUN, {"trainings": ["a-fold0", "a-fold1", "b-fold0", "a-both", "b-both"]})
    for name in ("a-fold0", "a-fold1"):
        write_json(storage, run_paths.training_record(name), {})
    write_json(storage, run_paths.ensemble_record("a-both"), {"members": ["a-fold0", "a-fold1"]})
    for training, found in (("b-both", "no finished training b-both"), (None, "2 finished trainings and 1 ensemble")):
        with pytest.raises(ConfigError, match=f"{found}; expected one of a-fold0, a-fold1, a-both$"):
            opened(ModelSource(location=str(tmp_path), training=training)).__enter__()
    for name in ("a-fold0", "a-fold1"):
        storage.delete(run_paths.training_record(name))
    storage.delete(run_paths.ensemble_record("a-both"))
    with pytest.raises(ConfigError, match="no training is finished yet; expected a run with one that is"):
        opened(ModelSource(location=str(tmp_path))).__enter__()
