"""Claims about the trainer that nnUNetv2_train finds: exact resumption, nnU-Net's prediction, scores in its log."""

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from dropin_trainings import FINAL, Asked, Ticking, log_of, trained, weights_of
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tiny_training import assert_same_weights, let_nnunet_find

from bench.stock_trainer.folders import CASES, KINDS, SPLIT, made_trainer, write_stock_folder
from kernels import score_masks
from orchestrator.results.curves import read_curve
from orchestrator.storage.local import LocalStorage
from orchestrator.training.dropin.checkpoint_file import read_checkpoint
from orchestrator.training.dropin.trainer import (
    BEST,
    BEST_NSD,
    CURVE,
    LATEST,
    WRITTEN_FOR,
    dropin_trainer,
    nnUNetTrainerOrchestrator,
)
from orchestrator.training.dropin.trainer_file import TRAINER
from orchestrator.training.nnunet.planning import Plan


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Preprocessed data sets by kind, each made once."""
    made = {}

    def folder_of(kind):
        if kind not in made:
            made[kind] = write_stock_folder(tmp_path_factory.mktemp("stock"), KINDS[kind])
        return made[kind]

    return folder_of


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_is_asked_to_stop_amid_an_epoch_goes_on_bit_for_bit(
    kind, folders, tmp_path, monkeypatch, capsys
):
    folder = folders(kind)
    whole = trained(folder, tmp_path / "whole", monkeypatch)
    with pytest.raises(
        SystemExit, match=r"stopped at epoch 1, after 1 of its 3 iterations, since its process received"
    ):
        trained(folder, tmp_path / "stopped", monkeypatch, kind=Asked, after=4)
    # A class of another name has a folder of another name.
    stopped = next((tmp_path / "stopped").rglob("Asked__*"))
    stopped.rename(stopped.with_name(stopped.name.replace("Asked", nnUNetTrainerOrchestrator.__name__)))
    resumed = trained(folder, tmp_path / "stopped", monkeypatch, continues=LATEST, num_iterations_per_epoch=3)
    assert "goes on at epoch 1, after 1 of its 3 iterations" in log_of(resumed)
    assert "but not" not in log_of(resumed)
    assert_same_weights(weights_of(resumed), weights_of(whole))
    assert resumed.logger.get_value("train_losses", None) == whole.logger.get_value("train_losses", None)
    assert sorted(path.name for path in Path(resumed.output_folder).glob("*.pth")) == [BEST, FINAL]


def test_the_best_checkpoint_is_as_exact(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    whole = trained(folder, tmp_path / "whole", monkeypatch, num_epochs=3)
    place = Path(whole.output_folder)
    best = read_checkpoint(place / BEST)
    assert 1 <= best["current_epoch"] <= 3
    resumed = trained(folder, tmp_path / "whole", monkeypatch, continues=BEST, num_epochs=3)
    assert_same_weights(weights_of(resumed), torch.load(place / FINAL, weights_only=False)["network_weights"])


@pytest.mark.parametrize("kind", ["two channels", "CT, 2d", "regions, ignore label"])
def test_nnunet_predicts_with_it(kind, folders, tmp_path, monkeypatch):
    trainer = trained(folders(kind), tmp_path, monkeypatch)
    # Where nothing of ours is installed.
    monkeypatch.setitem(sys.modules, "orchestrator", None)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    assert predictor.trainer_name == "nnUNetTrainer"
    image = np.random.default_rng(0).normal(size=(len(KINDS[kind].channels), 20, 30, 30)).astype(np.float32)
    assert predictor.predict_single_npy_array(image, {"spacing": (7.0, 6.5, 6.0)}).shape == (20, 30, 30)
    state = torch.load(Path(trainer.output_folder) / FINAL, weights_only=False)
    assert {"network_weights", "optimizer_state", "init_args", "_best_ema", "logging"} < set(state)


def test_nnunets_validation_at_the_end_runs_as_after_its_own_training(folders, tmp_path, monkeypatch):
    folder = folders("two channels")
    trainer = trained(folder, tmp_path, monkeypatch)
    # A next stage is not trained with it, and what was preprocessed for that may be in patch files alone.
    plans = Plan.from_bytes(folder.plan.to_bytes()).plans | {"continue_training": False}
    plans["configurations"]["3d_fullres"]["next_stage"] = "3d_cascade_fullres"
    again = nnUNetTrainerOrchestrator(plans, "3d_fullres", 0, folder.plan.dataset_json, torch.device("cpu"))
    assert "3d_fullres comes before 3d_cascade_fullres: nothing is written for that stage" in log_of(again)
    again.load_checkpoint(str(Path(trainer.output_folder) / FINAL))
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.default_num_processes", 1)
    again.perform_actual_validation(save_probabilities=True)
    found = {path.name for path in (Path(trainer.output_folder) / "validation").iterdir()}
    assert {f"{case}{end}" for case in SPLIT["val"] for end in (".nii.gz", ".npz", ".pkl")} | {"summary.json"} == found


@pytest.mark.parametrize("kind", ["CT", "two channels, 2d", "regions, ignore label"])
def test_patch_dice_and_nsd_are_in_the_log(kind, folders, tmp_path, monkeypatch):
    trainer = trained(folders(kind), tmp_path, monkeypatch)
    text = log_of(trainer)
    for what in ("dice", "NSD"):
        lines = re.findall(rf"Pseudo {what} \[(.*)\]", text)
        assert len(lines) == 2
        assert all(len(line.split(",")) == 2 for line in lines)
        assert all(0 <= float(value) <= 1 for line in lines for value in line.split(","))
    assert "NSD at 6.5 mm" in text or "NSD at 6.25 mm" in text


def test_the_folder_is_read_and_neither_changed_nor_fed_by_other_processes(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    before = {path: path.stat().st_mtime_ns for path in folder.base.rglob("*")}
    trainer = trained(folder, tmp_path, monkeypatch)
    assert {path: path.stat().st_mtime_ns for path in folder.base.rglob("*")} == before
    assert "Batches from nnU-Net's own files" in log_of(trainer)


def test_a_name_behind_ours_is_that_of_a_trainer_of_nnunets(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    kind = dropin_trainer("nnUNetTrainerOrchestratorNoMirroring")
    trainer = trained(folder, tmp_path, monkeypatch, kind=kind)
    assert Path(trainer.output_folder_base).name == "nnUNetTrainerOrchestratorNoMirroring__nnUNetPlans__3d_fullres"
    state = read_checkpoint(Path(trainer.output_folder) / FINAL)
    assert (state["trainer_name"], state["inference_allowed_mirroring_axes"]) == ("nnUNetTrainer", None)
    assert dropin_trainer("nnUNetTrainerOrchestrator_5epochs").__mro__[4].__name__ == "nnUNetTrainer_5epochs"
    with pytest.raises(SystemExit, match="did you mean 'nnUNetTrainer_5epochs'"):
        dropin_trainer("nnUNetTrainerOrchestrator_5epoch")
    with pytest.raises(SystemExit, match=r"has its own .*run_training.*, which would never be called"):
        dropin_trainer("nnUNetTrainerOrchestratorBenchmark_5epochs")


def test_a_class_of_the_users_own_is_found_whatever_stands_behind_our_name(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    (tmp_path / "own.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        f"from orchestrator.training.dropin.trainer import {TRAINER}\n"
        f"class {TRAINER}Mine({TRAINER}): kept = 'mine'\n"
        f"class {TRAINER}Both({TRAINER}): kept = 'both'\n"
        "class nnUNetTrainerBoth(nnUNetTrainer): kept = 'stock'\n"
        "class nnUNetTrainerStock(nnUNetTrainer): kept = 'stock'\n"
    )
    found = {end: dropin_trainer(f"{TRAINER}{end}") for end in ("Mine", "Both", "Stock")}
    assert {end: kind.kept for end, kind in found.items()} == {"Mine": "mine", "Both": "both", "Stock": "stock"}
    assert all(issubclass(kind, nnUNetTrainerOrchestrator) for kind in found.values())
    assert dropin_trainer(TRAINER) is nnUNetTrainerOrchestrator


class OwnNetwork(nnUNetTrainerOrchestrator):
    @staticmethod
    def build_network_architecture(*given, **named):
        return nnUNetTrainer.build_network_architecture(*given, **named)


def test_a_checkpoint_names_the_class_that_builds_its_network(folders, tmp_path, monkeypatch):
    for kind, name in ((Asked, "nnUNetTrainer"), (OwnNetwork, "OwnNetwork")):
        let_nnunet_find(folders("CT"), tmp_path, monkeypatch)
        assert made_trainer(kind, folders("CT"))._builder_of_network == name


def test_a_trainer_with_transforms_of_its_own_keeps_them(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = trained(folder, tmp_path, monkeypatch, kind=dropin_trainer("nnUNetTrainerOrchestratorNoDA"))
    assert "nnU-Net's own pipeline: nnUNetTrainerNoDA has its own get_training_transforms" in log_of(trainer)


def test_a_trainer_whose_optimiser_comes_in_stages_goes_on_bit_for_bit(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    kind = dropin_trainer("nnUNetTrainerOrchestrator_warmup")
    changes = {"kind": kind, "warmup_duration_whole_net": 1, "num_epochs": 3}
    whole = trained(folder, tmp_path / "whole", monkeypatch, **changes)
    first = trained(folder, tmp_path / "parts", monkeypatch, save_every=1, **{**changes, "num_epochs": 1})
    assert Path(first.output_folder, BEST).exists()
    resumed = trained(folder, tmp_path / "parts", monkeypatch, continues=BEST, **changes)
    assert whole.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"]


def test_what_it_cannot_train_is_refused_in_a_line(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    let_nnunet_find(folder, tmp_path, monkeypatch)
    cascade = json.loads(json.dumps(folder.plan.plans))
    cascade["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    given = ({**cascade, "continue_training": False}, "3d_cascade_fullres", 0, folder.plan.dataset_json)
    with pytest.raises(SystemExit, match=r"second stage of a cascade.*-tr nnUNetTrainer for it and for 3d_lowres"):
        nnUNetTrainerOrchestrator(*given, torch.device("cpu"))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(SystemExit, match="-num_gpus 2: nnUNetTrainerOrchestrator trains on one GPU"):
        made_trainer(nnUNetTrainerOrchestrator, folder)
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_is_no_number_is_refused(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    let_nnunet_find(folder, tmp_path, monkeypatch)
    for name, value, expected in (
        ("ORCHESTRATOR_SEED", "x", "'x'; expected a whole number of at least 0 and at most 4294967295"),
        ("ORCHESTRATOR_CURVE_EVERY", "0", "'0'; expected a whole number of at least 1"),
        ("ORCHESTRATOR_CURVE_SHARE", "nan", "'nan'; expected a number of at least 0 and at most 1"),
    ):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            with pytest.raises(SystemExit, match=re.escape(f"{name} is {expected}")):
                made_trainer(nnUNetTrainerOrchestrator, folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": CASES, "val": []}, "fold 0: no validation cases; expected at least one, or fold all"),
        ({"train": [*CASES[1:], "case_9"], "val": CASES[:1]}, r"fold 0: training case case_9 is not in .*preprocessed"),
    ],
)
def test_a_split_of_which_nothing_can_be_drawn_is_refused_in_a_line(split, message, folders, tmp_path, monkeypatch):
    folder = folders("CT")
    path = folder.base / "splits_final.json"
    before = path.read_text()
    path.write_text(json.dumps([split]))
    try:
        with pytest.raises(SystemExit, match=message):
            trained(folder, tmp_path, monkeypatch)
    finally:
        path.write_text(before)


def test_a_checkpoint_that_finds_no_room_says_so_in_a_line(folders, tmp_path, monkeypatch):
    full = Mock(side_effect=RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 0"))
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SystemExit, match=r"\.pth: cannot be written whole .* MiB are free there"):
        trained(folders("CT"), tmp_path, monkeypatch, num_epochs=1)


def test_a_checkpoint_that_is_torn_or_would_run_is_refused(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    trainer = trained(folder, tmp_path, monkeypatch, num_epochs=1)
    path = Path(trainer.output_folder) / FINAL
    content = path.read_bytes()
    path.write_bytes(content[:-2000])
    with pytest.raises(SystemExit, match=r"checkpoint_final\.pth: .*remove it"):
        trained(folder, tmp_path, monkeypatch, continues=FINAL)


def test_other_data_or_another_split_than_before_is_said(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    trainer = trained(folder, tmp_path, monkeypatch, num_epochs=1)
    split = folder.base / "splits_final.json"
    before = split.read_text()
    split.write_text(json.dumps([{"train": CASES[:2], "val": CASES[2:]}]))
    size = folder.plan.configuration_manager.batch_size
    monkeypatch.setitem(folder.plan.plans["configurations"]["3d_fullres"], "batch_size", size + 1)
    try:
        resumed = trained(folder, tmp_path, monkeypatch, continues=FINAL, num_epochs=2)
    finally:
        split.write_text(before)
    for what in ("training cases", "batch size"):
        assert f"Other {what} than before: it goes on, but not as it would have" in log_of(resumed)
    assert "Other patch size" not in log_of(resumed)
    assert resumed.current_epoch == 2
    assert trainer.current_epoch == 1


def test_a_checkpoint_of_nnunets_own_trainer_goes_on(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    let_nnunet_find(folder, tmp_path, monkeypatch)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    stock = made_trainer(nnUNetTrainer, folder, num_epochs=1)
    stock.run_training()
    ours = made_trainer(nnUNetTrainerOrchestrator, folder, num_epochs=2)
    ours.load_checkpoint(str(Path(stock.output_folder) / FINAL))
    ours.run_training()
    assert "is of another trainer: it goes on, but not bit for bit" in log_of(ours)
    assert ours.current_epoch == 2


def test_the_same_command_gives_the_same_weights_and_another_seed_others(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    found = []
    for name, seed in (("a", ""), ("b", ""), ("c", "7")):
        monkeypatch.setenv("ORCHESTRATOR_SEED", seed)
        found.append(weights_of(trained(folder, tmp_path / name, monkeypatch, num_epochs=1)))
    assert_same_weights(found[1], found[0])
    assert not all(torch.equal(found[2][name], one) for name, one in found[0].items())


def test_without_checkpoints_none_is_written(folders, tmp_path, monkeypatch):
    trainer = trained(folders("CT"), tmp_path, monkeypatch, disable_checkpointing=True)
    assert list(Path(trainer.output_folder).glob("*.pth")) == []


@pytest.mark.parametrize("kind", ["two channels", "regions, ignore label", "CT, 2d"])
def test_whole_validation_cases_are_scored_as_nnunets_prediction_of_them_is(kind, folders, tmp_path, monkeypatch):
    folder = folders(kind)
    monkeypatch.setenv("ORCHESTRATOR_CURVE_EVERY", "2")
    monkeypatch.setenv("ORCHESTRATOR_CURVE_SHARE", "1")
    monkeypatch.setenv("ORCHESTRATOR_TOLERANCE_MM", "8")
    plain = trained(folder, tmp_path, monkeypatch, kind=Ticking, num_epochs=4, num_val_iterations_per_epoch=9)
    rows = read_curve(LocalStorage(plain.output_folder), "validation_curve.csv")
    last = [row for row in rows if row.epoch == 4]
    assert {row.epoch for row in rows} <= {2, 4}
    assert {row.case for row in last} <= set(SPLIT["val"])
    assert last
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(plain.output_folder_base, (0,))
    dataset = nnUNetDatasetBlosc2(str(folder.cases), list(SPLIT["val"]))
    regions = KINDS[kind].structures[0].region
    for case in {row.case for row in last}:
        data, seg, *_ = dataset.load_case(case)
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(data[:]))
        reference = seg[:][0]
        known = reference != (KINDS[kind].ignored or 99)
        for number, row in enumerate(row for row in last if row.case == case):
            label = number + 1
            truth = np.isin(reference, (1, 2) if regions and label == 1 else label)
            found = (logits[number] > 0).numpy() if regions else (logits.argmax(0) == label).numpy()
            spacing_mm = [7.0, *folder.plan.configuration_manager.spacing[-2:]]
            (score,) = score_masks(
                (truth & known).astype(np.uint8),
                (found & known).astype(np.uint8),
                spacing_mm=spacing_mm,
                tolerances_mm={1: 8.0},
            )
            np.testing.assert_allclose((row.dsc, row.nsd), (score.dsc, score.nsd))
    if "New best NSD" in log_of(plain):
        assert read_checkpoint(Path(plain.output_folder) / BEST_NSD)["current_epoch"] in {2, 4}


def test_looking_at_whole_cases_changes_no_weight(folders, tmp_path, monkeypatch):
    folder = folders("CT")
    without = trained(folder, tmp_path / "without", monkeypatch)
    monkeypatch.setenv("ORCHESTRATOR_CURVE_EVERY", "1")
    monkeypatch.setenv("ORCHESTRATOR_CURVE_SHARE", "1")
    looking = trained(folder, tmp_path / "looking", monkeypatch, kind=Ticking)
    assert_same_weights(weights_of(looking), weights_of(without))
    assert "Whole cases: " in log_of(looking)
    # What it has found is none of the next training's there.
    found = [Path(looking.output_folder) / name for name in (CURVE, BEST_NSD)]
    found[1].touch()
    assert found[0].is_file()
    monkeypatch.delenv("ORCHESTRATOR_CURVE_EVERY")
    trained(folder, tmp_path / "looking", monkeypatch, kind=Ticking, num_epochs=1)
    assert not any(path.exists() for path in found)


def test_all_cases_are_trained_on_with_fold_all(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CURVE_EVERY", "1")
    trainer = trained(folders("CT"), tmp_path, monkeypatch, fold="all", num_epochs=1)
    assert "none is looked at, since those of validation are trained on" in log_of(trainer)
    assert trainer._fed().train == CASES
    assert Path(trainer.output_folder).name == "fold_all"


def test_another_version_of_nnunet_is_said(folders, tmp_path, monkeypatch):
    assert version("nnunetv2") == WRITTEN_FOR
    monkeypatch.setattr("orchestrator.training.dropin.trainer.version", lambda _: "2.9")
    let_nnunet_find(folders("CT"), tmp_path, monkeypatch)
    trainer = made_trainer(nnUNetTrainerOrchestrator, folders("CT"))
    assert "is written for nnU-Net 2.8.1, and this is 2.9" in log_of(trainer)
