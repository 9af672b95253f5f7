"""Whole validation cases that a training of a study looks at: their scores and cost, and that nothing else changes."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tiny_training import CASES, Killed, Run, assert_same_weights, tiny_preset, tiny_setting

from kernels import score_masks
from orchestrator.benchmark.definition import Structure
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.study import Evaluation
from orchestrator.benchmark.tables import load_tables
from orchestrator.driver.request import preset_record
from orchestrator.errors import ConfigError, IntegrityError
from orchestrator.patches.reader import PatchFile
from orchestrator.report.figures import validation_curves
from orchestrator.report.notes import run_notes
from orchestrator.report.reported import Reported
from orchestrator.results.aggregate import mean_of
from orchestrator.results.curves import CurveRow, read_curve, write_curve
from orchestrator.results.store import to_table
from orchestrator.storage.local import LocalStorage

PRESET = tiny_preset(num_epochs=4, num_iterations_per_epoch=20, curve_every=2, curve_share=1.0)
STRUCTURES = (Structure(name="ball", label=1, tolerance_mm=5.0),)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return tiny_setting(tmp_path_factory.mktemp("balls"), preset=PRESET)


def looked(folder, setting, *, preset=PRESET, **changes):
    """Return a training and the rows of its looks; its clock goes on by a second whenever it is asked."""
    rows, clock = [], count().__next__
    run = Run(folder, setting, preset=preset, structures=STRUCTURES, on_curve=rows.append, clock=clock, **changes)
    return run, rows


def test_the_scores_are_those_of_the_final_weights_on_the_patches_of_the_case(setting, tmp_path):
    run, looks = looked(tmp_path, setting)
    run.go()
    assert [rows[0].epoch for rows in looks] == [2, 4]
    plan, patches = setting
    last = looks[-1]
    assert {row.structure for row in last} == {"ball"}
    assert {row.case for row in last} <= set(run.arguments["val_cases"])
    with torch.no_grad():
        for row in last:
            stored = PatchFile.open(patches / f"{row.case}.arrow")
            logits = _predicted(plan, run.weights, np.asarray(stored.image[:], np.float32))
            (score,) = score_masks(
                (np.asarray(stored.segmentation[:])[0] == 1).astype(np.uint8),
                (logits.argmax(0) == 1).numpy().astype(np.uint8),
                spacing_mm=plan.configuration_manager.spacing,
                tolerances_mm={1: 5.0},
                metrics=("dsc", "nsd"),
            )
            assert (row.dsc, row.nsd) == pytest.approx((score.dsc, score.nsd), nan_ok=True)


def _predicted(plan, weights, image):
    from orchestrator.training.nnunet.classes import network_for_prediction

    network = network_for_prediction(
        "nnUNetTrainer", plan.plans_manager, configuration=plan.configuration, dataset_json=plan.dataset_json
    )
    network.load_state_dict(weights)
    predictor = nnUNetPredictor(0.5, True, False, False, torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        network, plan.plans_manager, plan.configuration_manager, [weights], plan.dataset_json, "nnUNetTrainer", None
    )
    return predictor.predict_sliding_window_return_logits(torch.from_numpy(image))


def test_looks_change_no_weight_and_a_killed_training_goes_on_with_the_same_cases(setting, tmp_path):
    plain = Run(tmp_path / "plain", setting, preset=replace(PRESET, curve_every=None)).go()
    run, looks = looked(tmp_path / "looked", setting)
    assert_same_weights(run.go().weights, plain.weights)
    killed, before = looked(tmp_path / "killed", setting, kill_after=3)
    with pytest.raises(Killed):
        killed.go()
    resumed, after = looked(tmp_path / "killed", setting)
    assert_same_weights(resumed.go().weights, plain.weights)
    assert [rows[0].epoch for rows in (*before, *after)] == [2, 4]
    assert [row.case for row in after[0]] == [row.case for row in before[0]]
    assert [row.dsc for row in after[0] if row.case in {one.case for one in looks[-1]}] == [
        row.dsc for row in looks[-1] if row.case in {one.case for one in after[0]}
    ]


def test_training_cases_are_never_looked_at(setting, tmp_path):
    run, looks = looked(tmp_path, setting, train_cases=CASES, val_cases=())
    run.go()
    assert looks == []


def test_a_look_that_would_take_more_than_its_share_is_left_out(setting, tmp_path):
    run, looks = looked(tmp_path, setting, preset=replace(PRESET, curve_share=1e-9))
    run.go()
    assert looks == []
    assert "Whole cases: not looked at" in run.text


def test_a_run_may_look_or_not_and_stays_the_same_run():
    smoke = PRESETS["smoke"]
    assert preset_record(replace(smoke, curve_every=5, curve_share=0.5)) == preset_record(smoke)


@pytest.mark.parametrize("metric", ["dsc", "nsd"])
def test_the_weights_that_predict_are_those_of_the_best_look_also_of_a_training_that_was_killed(
    setting, tmp_path, metric
):
    preset = replace(PRESET, curve_every=1, checkpoint=f"best_{metric}", checkpoint_every_s=0.0)
    run, looks = looked(tmp_path / "whole", setting, preset=preset)
    run.go()
    means = {rows[0].epoch: mean_of(getattr(row, metric) for row in rows) for rows in looks}
    best = max(means, key=lambda epoch: (means[epoch], -epoch))
    assert (run.outcome.chosen_epoch, run.outcome.chosen_score) == (best, pytest.approx(means[best]))
    assert f"what predicts are the weights of epoch {best}" in run.text
    # They are those that the training had then: what was scored is what predicts.
    plan, patches = setting
    (case,) = {row.case for row in looks[best - 1]}
    stored = PatchFile.open(patches / f"{case}.arrow")
    found = _predicted(plan, run.weights, np.asarray(stored.image[:], np.float32)).argmax(0) == 1
    (score,) = score_masks(
        (np.asarray(stored.segmentation[:])[0] == 1).astype(np.uint8),
        found.numpy().astype(np.uint8),
        spacing_mm=plan.configuration_manager.spacing,
        tolerances_mm={1: 5.0},
    )
    assert getattr(score, metric) == pytest.approx(means[best])
    killed, _ = looked(tmp_path / "killed", setting, preset=preset, kill_after=3)
    with pytest.raises(Killed):
        killed.go()
    resumed, _ = looked(tmp_path / "killed", setting, preset=preset)
    assert resumed.go().outcome.chosen_epoch == best
    assert_same_weights(resumed.weights, run.weights)


def test_without_validation_cases_or_a_look_the_last_weights_predict(setting, tmp_path):
    preset = replace(PRESET, checkpoint="best_nsd")
    plain = Run(tmp_path / "plain", setting, preset=replace(PRESET, curve_every=None)).go()
    late, _ = looked(tmp_path / "late", setting, preset=replace(preset, curve_share=1e-9))
    assert_same_weights(late.go().weights, plain.weights)
    assert late.outcome.chosen_epoch is None
    assert "no look at validation cases was made" in late.text
    without, _ = looked(tmp_path / "without", setting, preset=preset, train_cases=CASES, val_cases=())
    assert without.go().outcome.chosen_epoch is None


def test_a_run_whose_weights_are_chosen_is_another_run_and_says_so():
    smoke = PRESETS["smoke"]
    assert "checkpoint" not in preset_record(smoke)
    chosen = preset_record(replace(smoke, checkpoint="best_nsd", curve_every=2))
    assert (chosen["checkpoint"], chosen["curve_every"]) == ("best_nsd", 2)
    with pytest.raises(ConfigError, match="checkpoint best_dsc without curve_every"):
        replace(smoke, checkpoint="best_dsc")
    study = load_study()
    preset = replace(smoke, checkpoint="best_nsd", curve_every=2)
    trainings = study.trainings(preset=preset)
    assert {one.chosen_by for one in trainings if one.val} == {"nsd"}
    assert all(not one.chosen_by for one in trainings if not one.val)
    about = Reported(study=study, trainings=trainings, table=to_table([]), layout=load_tables(study))
    notes = run_notes(about, ())
    assert sum("epoch with the best NSD of its validation cases" in note for note in notes) == 1


def test_weights_are_not_chosen_by_cases_that_are_tested():
    study = load_study()
    preset = replace(PRESETS["smoke"], checkpoint="best_nsd", curve_every=2)
    group = next(one for one in study.groups if one.val)
    tested = Evaluation(name="test", cases=group.val[0], label_set=group.label_set)
    leaky = replace(study, groups=(replace(group, evaluations=(tested,)),))
    assert leaky.trainings(preset=PRESETS["smoke"])
    with pytest.raises(ConfigError, match="of which are tested as test, such as"):
        leaky.trainings(preset=preset)


def test_a_file_that_holds_something_else_is_refused_by_name(tmp_path):
    storage = LocalStorage(str(tmp_path))
    for content in (b"epoch,case\n1,a\n", b"epoch,case,structure,dsc,nsd\nx,a,b,1,1\n", b"\xff\xfe"):
        storage.write_bytes("curve.csv", content)
        with pytest.raises(IntegrityError, match=r"curve\.csv"):
            read_curve(storage, "curve.csv")


def test_the_report_draws_a_line_a_training(tmp_path):
    storage = LocalStorage(str(tmp_path))
    for epoch in (5, 10):
        rows = [
            CurveRow(epoch=epoch, case=case, structure="ball", dsc=epoch / 20, nsd=float("nan")) for case in ("a", "b")
        ]
        write_curve(storage, "curve.csv", rows)
    svg = validation_curves({"g-fold0": read_curve(storage, "curve.csv")})
    assert svg.startswith("<svg")
    assert ">NSD</text>" in svg
